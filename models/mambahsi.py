"""MambaHSI: a whole scene at once, scanned over its pixels and over groups of channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import SceneClassifier
from models.mamba import Mamba
from models.options import MambaOptions

DIM, GROUPS, BLOCKS = 128, 4, 3


class Block(nn.Module):
    """A scan over all pixels and a scan over the groups of channels of each pixel, added with learned weights.

    Each branch is x + silu(groupnorm(mamba(x))); the weights are a softmax, and the input is added once more.

    Args:
        options: states and back end of the scans.
    """

    def __init__(self, options: MambaOptions):
        super().__init__()
        self.spatial, self.spectral = Mamba(DIM, options), Mamba(DIM // GROUPS, options)
        self.after = nn.ModuleList(nn.Sequential(nn.GroupNorm(GROUPS, DIM), nn.SiLU()) for _ in range(2))
        self.weights = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 128, H, W) in and out."""
        pixels = x.flatten(2).transpose(1, 2)  # (B, H W, 128), row by row
        groups = pixels.reshape(-1, GROUPS, DIM // GROUPS)
        scanned = _scan(self.spatial, pixels), _scan(self.spectral, groups).view_as(pixels)
        weights, total = self.weights.softmax(0), x
        for weight, after, tokens in zip(weights, self.after, scanned, strict=True):
            total = total + weight * (x + after(tokens.transpose(1, 2).view_as(x)))
        return total


def _scan(layer: Mamba, tokens: Tensor) -> Tensor:
    return layer(tokens, torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0))


class MambaHSI(SceneClassifier):
    """Three blocks on the scene, which is halved between them; features at full resolution by bilinear interpolation.

    The linear classifier stands behind the interpolation, not before it as in the paper; the two commute. If a side is
    odd, its last pixel is kept when it is halved.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; of a patch only the centre is used.
        options: states and back end of the scans.
    Source: Li et al., MambaHSI, IEEE TGRS 62 (2024).
    """

    options: MambaOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: MambaOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.stem = _normalised(n_bands)
        self.blocks = nn.ModuleList(Block(options) for _ in range(BLOCKS))
        self.last = _normalised(DIM)
        self.head = nn.Linear(DIM, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        for number, block in enumerate(self.blocks):
            features = block(F.avg_pool2d(features, 2, ceil_mode=True) if number else features)
        return F.interpolate(self.last(features), size=x.shape[2:], mode="bilinear", align_corners=True)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


def _normalised(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, DIM, 1), nn.GroupNorm(GROUPS, DIM), nn.SiLU())
