"""The 3-D convolutional network of Chen et al."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import DropoutOptions

WIDTH, KERNEL = 32, (32, 4, 4)


class Chen(PatchClassifier):
    """Three 3-D convolutions of 32 channels with ReLU and dropout, with max pooling in space between them.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 25, at least 94 bands.
        options: the rate of dropout after each convolution.
    Source: Chen et al., Deep feature extraction and classification of hyperspectral images, IEEE TGRS 54 (2016).
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.convolutions = nn.ModuleList(nn.Conv3d(channels, WIDTH, KERNEL) for channels in (1, WIDTH, WIDTH))
        self.pool = nn.MaxPool3d((1, 2, 2))
        depth = n_bands - 3 * (KERNEL[0] - 1)
        side = ((patch_size - 3) // 2 - 3) // 2 - 3
        self.head = nn.Linear(WIDTH * depth * side**2, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        x = embedded.unsqueeze(1)
        for number, convolution in enumerate(self.convolutions):
            x = F.relu(convolution(x))
            x = F.dropout(self.pool(x) if number < 2 else x, self.options.dropout, self.training)
        return self.head(x.flatten(1)).unsqueeze(0)
