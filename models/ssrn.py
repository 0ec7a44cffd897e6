"""SSRN: residual blocks along the bands, then residual blocks in space."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import ModelOptions

WIDTH, SPECTRAL_KERNEL = 24, 7


class ResidualBlock(nn.Module):
    """Two 3-D convolutions with BatchNorm and a skip around them: relu(bn(conv(relu(bn(conv(x))))) + x)."""

    def __init__(self, kernel: tuple[int, int, int]):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.first, self.second = (
            nn.Sequential(nn.Conv3d(WIDTH, WIDTH, kernel, padding=padding), nn.BatchNorm3d(WIDTH)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 24, bands, rows, columns) in and out."""
        return F.relu(self.second(F.relu(self.first(x))) + x)


class SSRN(PatchClassifier):
    """Two spectral and two spatial residual blocks of width 24 between convolutions over all bands.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 3, at least 7 bands.
        options: none.
    Source: Zhong et al., Spectral-spatial residual network, IEEE TGRS 56 (2018).
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        depth = (n_bands - SPECTRAL_KERNEL) // 2 + 1
        self.stem = _normalised(nn.Conv3d(1, WIDTH, (SPECTRAL_KERNEL, 1, 1), stride=(2, 1, 1)))
        self.spectral = nn.Sequential(*(ResidualBlock((SPECTRAL_KERNEL, 1, 1)) for _ in range(2)))
        self.all_bands = _normalised(nn.Conv3d(WIDTH, 128, (depth, 1, 1)))
        self.neighbours = _normalised(nn.Conv3d(1, WIDTH, (128, 3, 3)))
        self.spatial = nn.Sequential(*(ResidualBlock((1, 3, 3)) for _ in range(2)))
        self.head = nn.Linear(WIDTH, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        x = self.all_bands(self.spectral(self.stem(embedded.unsqueeze(1))))  # (B, 128, 1, P, P)
        x = self.spatial(self.neighbours(x.transpose(1, 2)))  # (B, 24, 1, P - 2, P - 2)
        return self.head(x.mean((2, 3, 4))).unsqueeze(0)


def _normalised(convolution: nn.Conv3d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm3d(convolution.out_channels), nn.ReLU())
