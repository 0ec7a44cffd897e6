"""The contextual deep network of Lee and Kwon."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import DropoutOptions

WIDTH = 128


class Lee(PatchClassifier):
    """A 3x3 and a 1x1 convolution side by side, then 1x1 convolutions with two residual blocks, at the centre pixel.

    It sees the 3 x 3 pixels in the middle of a patch, whatever its size.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 3.
        options: the rate of dropout before the last two layers.
    Source: Lee and Kwon, Contextual deep CNN based hyperspectral classification, IGARSS 2016.
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.around, self.alone = nn.Conv2d(n_bands, WIDTH, 3), nn.Conv2d(n_bands, WIDTH, 1)
        self.norms = nn.ModuleList([nn.LocalResponseNorm(2 * WIDTH), nn.LocalResponseNorm(WIDTH)])
        self.reduce = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1)) for _ in range(2)
        )
        self.hidden = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(2))
        self.head = nn.Conv2d(WIDTH, n_classes, 1)

    def encode(self, embedded: Tensor) -> Tensor:
        centre = self.patch_size // 2
        middle = embedded[:, :, centre - 1 : centre + 2, centre - 1 : centre + 2]
        x = torch.cat([self.around(middle), self.alone(middle[:, :, 1:2, 1:2])], 1)
        x = F.relu(self.norms[1](self.reduce(F.relu(self.norms[0](x)))))
        for block in self.blocks:
            x = F.relu(x + block(x))
        for layer in self.hidden:
            x = F.dropout(F.relu(layer(x)), self.options.dropout, self.training)
        return self.head(x).flatten(1).unsqueeze(0)
