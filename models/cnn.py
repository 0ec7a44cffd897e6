"""The baseline: a small plain CNN."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier, PointwiseConv
from models.options import CNNOptions


class CNN(PatchClassifier):
    """Pointwise embedding, two 3x3 convolutions, each with BatchNorm and ReLU, average pooling, one linear layer.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd.
        options: width and dropout.
    """

    options: CNNOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: CNNOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.embedding = _convolution(n_bands, options.dim, 1)
        self.body = nn.Sequential(_convolution(options.dim, options.dim, 3), _convolution(options.dim, options.dim, 3))
        self.head = nn.Linear(options.dim, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.embedding(x)

    def encode(self, embedded: Tensor) -> Tensor:
        feature = self.body(embedded).mean((2, 3))
        return self.head(F.dropout(feature, self.options.dropout, self.training)).unsqueeze(0)


def _convolution(channels: int, channels_out: int, kernel: int) -> nn.Sequential:
    if kernel == 1:
        convolution = PointwiseConv(channels, channels_out, bias=False)
    else:
        convolution = nn.Conv2d(channels, channels_out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())
