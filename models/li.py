"""The 3-D convolutional network of Li et al."""

from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import ModelOptions

WIDTH = 16


class Li(PatchClassifier):
    """Two 3-D convolutions of 16 and 32 channels with ReLU, one linear layer.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 5, at least 5 bands.
        options: none.
    Source: Li et al., Spectral-spatial classification of hyperspectral imagery with 3D convolutional neural network,
        Remote Sensing 9 (2017) 67; the width is DeepHyperX's, the paper's is 2.
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.body = nn.Sequential(
            nn.Conv3d(1, WIDTH, (7, 3, 3), padding=(1, 0, 0)),
            nn.ReLU(),
            nn.Conv3d(WIDTH, 2 * WIDTH, 3, padding=(1, 0, 0)),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * WIDTH * (n_bands - 4) * (patch_size - 4) ** 2, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        return self.head(self.body(embedded.unsqueeze(1)).flatten(1)).unsqueeze(0)
