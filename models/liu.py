"""The supervised part of the network of Liu et al."""

from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import ModelOptions

WIDTH = 80


class Liu(PatchClassifier):
    """A 3x3 convolution of 80 channels, BatchNorm, max pooling, ReLU, one linear layer.

    (The paper trains a decoder on unlabelled pixels beside it, which is not built here.)

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 5.
        options: none.
    Source: Liu et al., A semi-supervised convolutional neural network, Remote Sensing Letters 8 (2017).
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.body = nn.Sequential(nn.Conv2d(n_bands, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.MaxPool2d(2), nn.ReLU())
        self.head = nn.Linear(WIDTH * ((patch_size - 2) // 2) ** 2, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        return self.head(self.body(embedded).flatten(1)).unsqueeze(0)
