"""Spatial context: class probabilities averaged over the surroundings of a pixel, weighted by place and by spectrum.

It is the paper's Gaussian decay by index and by feature, applied once more outside the patch: no weights are learned
and no labels are used.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

N_FEATURES = 10  # principal components of the spectra, at most
SPREAD = 4 / 7  # standard deviation of the decay by place, as a fraction of the distance to the window's edge
SIMILARITY = 2.0  # of the decay by feature, in units of the features' standard deviation


@dataclass(frozen=True)
class GaussianContext:
    """Average the class probabilities p of pixels j round a pixel i, with weights that fall with distance.

    q_i = sum_j w_ij p_j / sum_j w_ij, w_ij = exp(-|x_i - x_j|^2 / 2 spread^2) exp(-|z_i - z_j|^2 / 2 similarity^2), x
    the place in pixels and z the features: the first principal components of the normalised spectra, divided by their
    common standard deviation. Pixels without data, or beyond the scene, have no weight.

    Attributes:
        size: side S of the window of the pixels j, odd.
        spread, similarity: standard deviations of the two decays.
        mean, components: (n_channels,) and (n_channels, n_features): z = (x - mean) @ components.
    Source: Zhou et al. 2025, the Gaussian decay mask; Tomasi and Manduchi, ICCV 1998, the same weights for images.
    """

    size: int
    spread: float
    similarity: float
    mean: Tensor = field(repr=False)
    components: Tensor = field(repr=False)

    @property
    def reach(self) -> int:
        """Distance from a pixel to its window's edge, in pixels."""
        return self.size // 2

    def features(self, cube: Tensor) -> Tensor:
        """Compute z of normalised spectra: (..., n_channels) to (..., n_features) float32."""
        return (cube - self.mean.to(cube)) @ self.components.to(cube)

    def __call__(self, probabilities: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        """Average over the surroundings of every pixel.

        Args:
            probabilities: (H, W, K) float32; of a pixel with weight 0 any finite values.
            features: (H, W, n_features), finite.
            weight: (H, W) float32, 1 for the pixels that count in the averages of others, 0 for those that do not.
        Returns:
            (H, W, K) float32. A pixel always counts in its own average.
        """
        height, width, _ = probabilities.shape
        # planes, (channels, H, W), of which shifted parts are contiguous along a row
        z = (features / (math.sqrt(2) * self.similarity)).permute(2, 0, 1).contiguous()
        p = torch.cat([probabilities, torch.ones_like(probabilities[:, :, :1])], 2).permute(2, 0, 1)
        weighted, total = (p * weight).contiguous(), p.clone(memory_format=torch.contiguous_format)
        for down in range(-self.reach, self.reach + 1):
            for right in range(-self.reach, self.reach + 1):
                if (down, right) == (0, 0) or abs(down) >= height or abs(right) >= width:
                    continue
                here = (..., _overlap(-down, height), _overlap(-right, width))
                there = (..., _overlap(down, height), _overlap(right, width))
                distance = (z[there] - z[here]).square_().sum(0)
                decay = torch.exp(-(down**2 + right**2) / (2 * self.spread**2) - distance)
                total[here].addcmul_(decay, weighted[there])
        return (total[:-1] / total[-1:]).permute(1, 2, 0)

    def state(self) -> dict[str, Any]:
        """Return all attributes as plain values and tensors, for a checkpoint; `GaussianContext(**state)` restores."""
        return dict(vars(self))


def _overlap(step: int, size: int) -> slice:
    """The part of a side that is still on it after a step, where it has arrived."""
    return slice(max(0, step), size + min(0, step))


def fit_context(size: int, cube: Tensor, valid: Tensor | None = None, weight: Tensor | None = None) -> GaussianContext:
    """Fit the features to the spectra of a scene, without labels.

    Args:
        size: side of the window, odd.
        cube: normalised, (H, W, n_channels).
        valid: the pixels to fit on, (H, W) bool; None for all.
        weight: (n_channels,) by which the channels are multiplied first, so that components that were whitened have
            their variance again; None for 1.
    """
    spectra = (cube.flatten(0, 1) if valid is None else cube[valid]).double()
    weight = torch.ones_like(spectra[0]) if weight is None else weight.to(spectra)
    spectra = spectra * weight
    mean = spectra.mean(0)
    values, vectors = torch.linalg.eigh((spectra - mean).T @ (spectra - mean) / len(spectra))
    n_features = min(N_FEATURES, len(values))
    values, vectors = values[-n_features:].flip(0), vectors[:, -n_features:].flip(1)
    signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # the largest entry of each is positive
    common = values.clamp(min=0).mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    spread = SPREAD * (size // 2)
    components = weight.unsqueeze(1) * vectors * signs / common
    return GaussianContext(size, spread, SIMILARITY, (mean / weight).float(), components.float().contiguous())


@dataclass(frozen=True)
class Surroundings:
    """What the context of one scene needs: the context, and the scene's features.

    Attributes:
        context: fitted.
        features: (H, W, n_features).
        valid: pixels that count in the averages of others, (H, W) bool: those with data, whose patch may be predicted;
            None if all do.
    """

    context: GaussianContext
    features: Tensor
    valid: Tensor | None = None

    def needed(self, wanted: Tensor) -> Tensor:
        """Give the pixels whose probabilities the context of some pixels needs, both (H, W) bool."""
        near = torch.nn.functional.max_pool2d(
            wanted[None, None].float(), self.context.size, stride=1, padding=self.context.reach
        )
        near = near[0, 0] > 0
        return near if self.valid is None else near & self.valid.to(near.device) | wanted

    def average(self, probabilities: Tensor, known: Tensor) -> Tensor:
        """Apply the context, see `GaussianContext`; `known`, (H, W) bool, are the pixels that have probabilities."""
        counts = known if self.valid is None else known & self.valid.to(known.device)
        return self.context(probabilities, self.features.to(probabilities.device), counts.float())
