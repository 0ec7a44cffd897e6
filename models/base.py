"""What every network here is: a classifier of the patch's centre pixel, in two steps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.options import ModelOptions


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, on CUDA as the matrix product that it is, whose gradient by the weight is faster there.

    Args:
        channels, channels_out, bias: as for `nn.Conv2d`.
    """

    def __init__(self, channels: int, channels_out: int, *, bias: bool = True):
        super().__init__(channels, channels_out, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, channels_out, H, W)."""
        if not input.is_cuda:
            return super().forward(input)
        return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class PatchClassifier(nn.Module):
    """Base class: `embed` works per pixel, `encode` on an embedded patch.

    A network without a per-pixel part overrides `forward` only; one with it overrides `embed` and `encode`, so that a
    whole scene is embedded once and cropped. Either way `forward_scales` and `forward` agree.

    Args:
        n_bands, n_classes, patch_size: the task's sizes, kept as attributes.
        options: the network's settings, a frozen dataclass.
    Attributes:
        temperature: the class probabilities are raised to the power 1 / temperature and normalised; set after
            training, see `certainty.fit_temperature`.
    """

    temperature = 1.0

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__()
        self.n_bands, self.n_classes, self.patch_size, self.options = n_bands, n_classes, patch_size, options

    @property
    def n_parameters(self) -> int | None:
        """Number of parameters; None for a classifier that is not made of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, x: Tensor) -> Tensor:
        """Per-pixel part, (B, n_bands, H, W) to (B, C, H, W)."""
        return x

    def encode(self, embedded: Tensor) -> Tensor:
        """Embedded patches (B, C, P, P) to logits per scale (S, B, K)."""
        return self.forward(embedded).unsqueeze(0)

    def forward_scales(self, patch: Tensor) -> Tensor:
        """Patches (B, n_bands, P, P) to the logits of every scale, (S, B, K), which the loss takes."""
        return self.encode(self.embed(patch))

    def forward(self, patch: Tensor) -> Tensor:
        """Patches (B, n_bands, P, P) to log-probabilities (B, K): the log of `class_probabilities`."""
        logarithms = combine_scales(self.forward_scales(patch))
        return logarithms if self.temperature == 1 else (logarithms / self.temperature).log_softmax(-1)

    def class_probabilities(self, logits: Tensor) -> Tensor:
        """Mean over scales of the softmax, at the temperature: logits (S, B, K) to probabilities (B, K), float32."""
        if self.temperature == 1:
            return logits.float().softmax(-1).mean(0)
        return (combine_scales(logits) / self.temperature).softmax(-1)


class SpectrumClassifier(PatchClassifier):
    """Base class of networks that look at the centre pixel of a patch alone; they override `classify`."""

    def classify(self, spectra: Tensor) -> Tensor:
        """Spectra (B, n_bands) to logits (B, K)."""
        raise NotImplementedError

    def encode(self, embedded: Tensor) -> Tensor:
        centre = self.patch_size // 2
        return self.classify(embedded[:, :, centre, centre]).unsqueeze(0)


class SceneClassifier(PatchClassifier):
    """Base class of networks that look at a whole scene at once; they override `embed` and `classify`.

    Here `embed` is not a per-pixel part: it must be given the whole scene, (1, n_bands, H, W). Then each pixel can be
    classified alone; of a patch `encode` takes the centre, and `forward_scales` gives all pixels of a scene.

    Attributes:
        bytes_to_train, bytes_to_map: memory that a pixel of the scene takes in a training step, and in `embed` alone.
    """

    bytes_to_train, bytes_to_map = 55_000, 20_000  # of MambaHSI, measured on scenes of 128 x 128 pixels

    def classify(self, features: Tensor) -> Tensor:
        """Embedded pixels (n, C) to logits (n, K)."""
        raise NotImplementedError

    def encode(self, embedded: Tensor) -> Tensor:
        centre = self.patch_size // 2
        return self.classify(embedded[:, :, centre, centre]).unsqueeze(0)

    def forward_scales(self, patch: Tensor) -> Tensor:
        """Scenes (B, n_bands, H, W) to the logits of their pixels, (1, B H W, K), row by row."""
        return self.classify(self.embed(patch).permute(0, 2, 3, 1).flatten(0, 2)).unsqueeze(0)


def combine_scales(logits: Tensor) -> Tensor:
    """Log of the mean over scales of the softmax, computed without leaving logarithms: (S, B, K) to (B, K)."""
    return torch.logsumexp(logits.float().log_softmax(-1), dim=0) - math.log(len(logits))
