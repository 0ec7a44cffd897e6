"""DBDA: a spectral and a spatial branch, each densely connected and with an attention of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import DropoutOptions

STEM, GROWTH, WIDTH = 24, 12, 60


class DenseBranch(nn.Module):
    """Three layers of BatchNorm, Mish and a convolution of 12 channels, each on all channels before it.

    Args:
        kernel: of the three convolutions.
    """

    def __init__(self, kernel: tuple[int, int]):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.Mish(), nn.Conv2d(width, GROWTH, kernel, padding=padding))
            for width in range(STEM, WIDTH, GROWTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 24, bands, pixels) or (B, 24, rows, columns) to (B, 60, ...)."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class ChannelAttention(nn.Module):
    """Each channel takes part of the channels that are unlike it; (B, C, n) in and out.

    Source: Fu et al., Dual attention network, CVPR 2019, equations 3 and 4, with the largest similarity subtracted.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        similarity = x @ x.transpose(1, 2)
        weights = (similarity.amax(-1, keepdim=True) - similarity).softmax(-1)
        return self.scale * (weights @ x) + x


class PositionAttention(nn.Module):
    """Each pixel takes part of the pixels that are like it; (B, C, n) in and out.

    Source: Fu et al., Dual attention network, CVPR 2019, equations 1 and 2.
    """

    def __init__(self):
        super().__init__()
        self.query, self.key = (nn.Conv1d(WIDTH, WIDTH // 8, 1) for _ in range(2))
        self.value = nn.Conv1d(WIDTH, WIDTH, 1)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.query(x).transpose(1, 2) @ self.key(x)).softmax(-1)  # (B, n, n): row = the pixel that takes
        return self.scale * (self.value(x) @ weights.transpose(1, 2)) + x


class DBDA(PatchClassifier):
    """Two branches from the same patch; their means, 60 channels each, go into one linear layer.

    As in `models.ssrn`, 3-D convolutions that have a length of 1 along the bands or in space are 2-D ones.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd, at least 7 bands.
        options: the rate of dropout before the mean.
    Source: Li et al., Double-branch dual-attention mechanism network, Remote Sensing 12 (2020) 582.
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        depth = (n_bands - 7) // 2 + 1
        self.spectral = nn.Sequential(
            nn.Conv2d(1, STEM, (7, 1), stride=(2, 1)),
            DenseBranch((7, 1)),
            nn.BatchNorm2d(WIDTH),
            nn.Mish(),
            nn.Flatten(1, 2),
            nn.Conv1d(WIDTH * depth, WIDTH, 1),
        )
        self.spatial = nn.Sequential(nn.Conv2d(n_bands, STEM, 1), DenseBranch((3, 3)))
        self.channel_attention, self.position_attention = ChannelAttention(), PositionAttention()
        self.normalise = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(2))
        self.head = nn.Linear(2 * WIDTH, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        spectral = self.channel_attention(self.spectral(embedded.flatten(2).unsqueeze(1)))  # (B, 60, P * P)
        spatial = self.position_attention(self.spatial(embedded).flatten(2))
        features = []
        for normalise, branch in zip(self.normalise, (spectral, spatial), strict=True):
            features.append(F.dropout(F.mish(normalise(branch)), self.options.dropout, self.training).mean(2))
        return self.head(torch.cat(features, 1)).unsqueeze(0)
