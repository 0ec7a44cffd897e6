"""The multi-scale 3-D network of He et al."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import DropoutOptions

WIDTH, SCALES = 16, (1, 3, 5, 11)


class MultiScale(nn.Module):
    """Convolutions along the bands with kernels of 1, 3, 5 and 11, added; ReLU."""

    def __init__(self):
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, (size, 1), padding=(size // 2, 0)) for size in SCALES)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 16, bands, pixels) in and out."""
        return F.relu(torch.stack([scale(x) for scale in self.scales]).sum(0))


class He(PatchClassifier):
    """A 3-D convolution that keeps a third of the bands, two multi-scale layers, another one, and a linear layer.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 5, at least 17 bands.
        options: the rate of dropout before the linear layer.
    Source: He et al., Multi-scale 3D deep convolutional neural network, ICIP 2017.
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.stem = nn.Conv3d(1, WIDTH, (11, 3, 3), stride=(3, 1, 1))
        self.scales = nn.Sequential(MultiScale(), MultiScale())
        self.last = nn.Conv3d(WIDTH, WIDTH, (3, 2, 2))
        depth = (n_bands - 11) // 3 + 1 - 2
        self.head = nn.Linear(WIDTH * depth * (patch_size - 3) ** 2, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        x = F.relu(self.stem(embedded.unsqueeze(1)))
        x = F.relu(self.last(self.scales(x.flatten(3)).unflatten(3, x.shape[3:])))
        return self.head(F.dropout(x.flatten(1), self.options.dropout, self.training)).unsqueeze(0)
