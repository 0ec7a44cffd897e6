"""The recurrent network of Mou et al., which reads a spectrum band by band."""

from torch import Tensor, nn

from models.base import SpectrumClassifier
from models.options import ModelOptions

WIDTH = 64


class Mou(SpectrumClassifier):
    """A gated recurrent unit of width 64 along the bands; all its states, BatchNorm, tanh, one linear layer.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; the network looks at the centre pixel alone.
        options: none.
    Source: Mou et al., Deep recurrent neural networks for hyperspectral image classification, IEEE TGRS 55 (2017). The
        activation inside the unit is PyTorch's tanh instead of the paper's parametric rectified tanh.
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.recurrence = nn.GRU(1, WIDTH, batch_first=True)
        self.normalise = nn.BatchNorm1d(WIDTH * n_bands)
        self.head = nn.Linear(WIDTH * n_bands, n_classes)

    def classify(self, spectra: Tensor) -> Tensor:
        states, _ = self.recurrence(spectra.unsqueeze(2))  # (B, n_bands, WIDTH)
        return self.head(self.normalise(states.flatten(1)).tanh())
