"""The 3-D convolutional network of Ben Hamida et al."""

from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import ModelOptions


class Hamida(PatchClassifier):
    """Six 3-D convolutions, each with ReLU, of which three halve the bands in place of pooling; one linear layer.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 5.
        options: none.
    Source: Ben Hamida et al., 3-D deep learning approach for remote sensing image classification, IEEE TGRS 56 (2018).
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        layers = [  # channels in and out, kernel, stride along the bands, padding along the bands
            (1, 20, (3, 3, 3), 1, 0),
            (20, 20, (3, 1, 1), 2, 1),
            (20, 35, (3, 3, 3), 1, 1),
            (35, 35, (3, 1, 1), 2, 1),
            (35, 35, (3, 1, 1), 1, 1),
            (35, 35, (2, 1, 1), 2, 1),
        ]
        self.body, length = nn.Sequential(), n_bands
        for channels, channels_out, kernel, stride, padding in layers:
            convolution = nn.Conv3d(channels, channels_out, kernel, stride=(stride, 1, 1), padding=(padding, 0, 0))
            self.body.extend([convolution, nn.ReLU()])
            length = (length + 2 * padding - kernel[0]) // stride + 1
        self.head = nn.Linear(35 * length * (patch_size - 4) ** 2, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        return self.head(self.body(embedded.unsqueeze(1)).flatten(1)).unsqueeze(0)
