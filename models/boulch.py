"""The supervised part of the auto-encoder of Boulch et al., on the spectrum of a pixel."""

from torch import Tensor, nn

from models.base import SpectrumClassifier
from models.options import ModelOptions

WIDTH, CODE = 16, 3


class Boulch(SpectrumClassifier):
    """Convolutions along the bands, each with max pooling, ReLU and BatchNorm, down to a code of three; a linear layer.

    (The paper trains a decoder beside it, which is not built here.)

    Args:
        n_bands, n_classes, patch_size: sizes of the task; the network looks at the centre pixel alone, of 2 bands or
            more.
        options: none.
    Source: Boulch et al., Autoencodeurs pour la visualisation d'images hyperspectrales, GRETSI 2017.
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.encoder, channels, length = nn.Sequential(), 1, n_bands
        while length > 1:
            channels_out = 2 * WIDTH if channels == 1 else WIDTH
            convolution = nn.Conv1d(channels, channels_out, 3, padding=1)
            self.encoder.extend([convolution, nn.MaxPool1d(2), nn.ReLU(), nn.BatchNorm1d(channels_out)])
            channels, length = channels_out, length // 2
        self.encoder.extend([nn.Conv1d(channels, CODE, 3, padding=1), nn.Tanh()])
        self.head = nn.Linear(CODE, n_classes)

    def classify(self, spectra: Tensor) -> Tensor:
        return self.head(self.encoder(spectra.unsqueeze(1)).flatten(1))
