"""HSI-CNN of Luo et al.: features of a small patch, read as an image."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import ModelOptions

WIDTH, KERNEL, STRIDE = 90, 24, 9


class Luo(PatchClassifier):
    """A convolution over patch and bands gives 90 vectors; a 2-D one on the image of them, and two linear layers.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 3, at least 42 bands.
        options: none.
    Source: Luo et al., HSI-CNN, ICPR 2018, arXiv 1802.10478.
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.vectors = nn.Conv3d(1, WIDTH, (KERNEL, 3, 3), stride=(STRIDE, 1, 1))
        self.image = nn.Conv2d(1, 64, 3)
        length = ((n_bands - KERNEL) // STRIDE + 1) * (patch_size - 2) ** 2
        self.hidden = nn.Linear(64 * (WIDTH - 2) * (length - 2), 1024)
        self.head = nn.Linear(1024, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        vectors = F.relu(self.vectors(embedded.unsqueeze(1))).flatten(2)  # (B, 90, length)
        feature = F.relu(self.image(vectors.unsqueeze(1))).flatten(1)
        return self.head(F.relu(self.hidden(feature))).unsqueeze(0)
