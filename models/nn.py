"""The fully connected network of DeepHyperX, on the spectrum of a pixel."""

from torch import Tensor, nn

from models.base import SpectrumClassifier
from models.options import DropoutOptions

WIDTHS = (2048, 4096, 2048)


class NN(SpectrumClassifier):
    """Three hidden layers of 2048, 4096 and 2048 with ReLU, each with dropout if a rate is given.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; the network looks at the centre pixel alone.
        options: the rate of dropout.
    Source: the baseline of Audebert et al., IEEE Geoscience and Remote Sensing Magazine 7 (2019).
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.layers = nn.Sequential()
        for width, width_out in zip((n_bands, *WIDTHS), WIDTHS, strict=False):
            self.layers.extend([nn.Linear(width, width_out), nn.ReLU(), nn.Dropout(options.dropout)])
        self.head = nn.Linear(WIDTHS[-1], n_classes)

    def classify(self, spectra: Tensor) -> Tensor:
        return self.head(self.layers(spectra))
