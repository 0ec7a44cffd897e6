"""HybridSN: three 3-D convolutions, then a 2-D one."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import DropoutOptions


class HybridSN(PatchClassifier):
    """3-D convolutions of 8, 16 and 32 channels, a 2-D convolution of 64, and three linear layers; nothing is padded.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 9, at least 13 bands.
        options: the rate of dropout after the two hidden layers.
    Source: Roy et al., HybridSN, IEEE GRSL 17 (2020).
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.spectral = nn.Sequential()
        for channels, channels_out, depth in ((1, 8, 7), (8, 16, 5), (16, 32, 3)):
            self.spectral.extend([nn.Conv3d(channels, channels_out, (depth, 3, 3)), nn.ReLU()])
        self.spatial = nn.Conv2d(32 * (n_bands - 12), 64, 3)
        self.hidden = nn.ModuleList([nn.Linear(64 * (patch_size - 8) ** 2, 256), nn.Linear(256, 128)])
        self.head = nn.Linear(128, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        x = rearrange(self.spectral(embedded.unsqueeze(1)), "b c d h w -> b (c d) h w")
        x = F.relu(self.spatial(x)).flatten(1)
        for layer in self.hidden:
            x = F.dropout(F.relu(layer(x)), self.options.dropout, self.training)
        return self.head(x).unsqueeze(0)
