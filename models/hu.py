"""The 1-D convolutional network of Hu et al., on the spectrum of a pixel."""

import math

from torch import Tensor, nn

from models.base import SpectrumClassifier
from models.options import ModelOptions


class Hu(SpectrumClassifier):
    """One convolution along the bands, max pooling, a hidden layer of 100; tanh after the last two.

    The kernel is a ninth of the bands, and the pooling a fifth of the kernel, both rounded up.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; the network looks at the centre pixel alone.
        options: none.
    Source: Hu et al., Deep convolutional neural networks for hyperspectral image classification, Journal of Sensors
        2015, 258619.
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        kernel = math.ceil(n_bands / 9)
        pool = math.ceil(kernel / 5)
        self.convolution = nn.Conv1d(1, 20, kernel)
        self.pool = nn.MaxPool1d(pool)
        self.hidden = nn.Linear(20 * ((n_bands - kernel + 1) // pool), 100)
        self.head = nn.Linear(100, n_classes)

    def classify(self, spectra: Tensor) -> Tensor:
        feature = self.pool(self.convolution(spectra.unsqueeze(1))).tanh().flatten(1)
        return self.head(self.hidden(feature).tanh())
