"""SSRN: residual blocks along the bands, then residual blocks in space."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import ModelOptions

WIDTH, SPECTRAL_KERNEL = 24, 7


class ResidualBlock(nn.Module):
    """Two convolutions with BatchNorm and a skip around them: relu(bn(conv(relu(bn(conv(x))))) + x).

    Args:
        kernel: of both convolutions.
    """

    def __init__(self, kernel: tuple[int, int]):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.first, self.second = (
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, kernel, padding=padding), nn.BatchNorm2d(WIDTH)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 24, bands, pixels) or (B, 24, rows, columns) in and out."""
        return F.relu(self.second(F.relu(self.first(x))) + x)


class SSRN(PatchClassifier):
    """Two spectral and two spatial residual blocks of width 24 between convolutions over all bands.

    The 3-D convolutions of the paper have a length of 1 along the bands or in space; here they are 2-D convolutions
    over (bands, pixels) and (rows, columns), which is the same and faster.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 3, at least 7 bands.
        options: none.
    Source: Zhong et al., Spectral-spatial residual network, IEEE TGRS 56 (2018).
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        depth = (n_bands - SPECTRAL_KERNEL) // 2 + 1
        self.stem = _normalised(nn.Conv2d(1, WIDTH, (SPECTRAL_KERNEL, 1), stride=(2, 1)))
        self.spectral = nn.Sequential(*(ResidualBlock((SPECTRAL_KERNEL, 1)) for _ in range(2)))
        self.all_bands = _normalised(nn.Conv2d(WIDTH * depth, 128, 1))
        self.neighbours = _normalised(nn.Conv2d(128, WIDTH, 3))
        self.spatial = nn.Sequential(*(ResidualBlock((3, 3)) for _ in range(2)))
        self.head = nn.Linear(WIDTH, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        x = self.spectral(self.stem(embedded.flatten(2).unsqueeze(1)))  # (B, 24, bands, P * P)
        x = self.all_bands(x.flatten(1, 2).unflatten(2, embedded.shape[2:]))  # (B, 128, P, P)
        return self.head(self.spatial(self.neighbours(x)).mean((2, 3))).unsqueeze(0)


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())
