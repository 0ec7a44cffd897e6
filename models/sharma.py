"""The network of Sharma et al. on large patches."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import DropoutOptions


class Sharma(PatchClassifier):
    """Convolutions of 96, 256 and 512 channels over all channels, the first two with BatchNorm, ReLU and max pooling.

    The paper's patches have a side of 64; 65 is the odd one with the same shapes.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 63.
        options: the rate of dropout after the hidden layer.
    Source: Sharma et al., Hyperspectral CNN for image classification and band selection, technical report, KU Leuven
        2016.
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.body = nn.Sequential(
            *(nn.Conv2d(n_bands, 96, 6, stride=2), nn.BatchNorm2d(96), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(96, 256, 3, stride=2), nn.BatchNorm2d(256), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(256, 512, 3), nn.ReLU()),
        )
        side = (((patch_size - 6) // 2 + 1) // 2 - 3) // 2 + 1
        self.hidden = nn.Linear(512 * (side // 2 - 2) ** 2, 1024)
        self.head = nn.Linear(1024, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        feature = self.hidden(self.body(embedded).flatten(1))
        return self.head(F.dropout(feature, self.options.dropout, self.training)).unsqueeze(0)
