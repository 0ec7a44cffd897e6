"""3DSS-Mamba: a patch as tokens in bands and space, scanned in four orders."""

import torch
from einops import rearrange
from torch import Tensor, nn

from models.base import PatchClassifier
from models.mamba import Mamba
from models.options import MambaOptions

DIM, KERNEL = 32, (3, 5, 5)


class DSSMamba(PatchClassifier):
    """A 3-D convolution makes the tokens; one Mamba block scans them, spectral first and spatial first, both reversed.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 5, at least 3 bands.
        options: states and back end of the scans.
    Source: He et al., 3DSS-Mamba, IEEE TGRS 62 (2024).
    """

    options: MambaOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: MambaOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.stem = nn.Sequential(nn.Conv3d(1, DIM, KERNEL, bias=False), nn.BatchNorm3d(DIM), nn.SiLU())
        self.norm, self.layer = nn.LayerNorm(DIM), Mamba(DIM, options, 4)
        self.norm_out, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, n_classes)
        depth, side = n_bands - KERNEL[0] + 1, patch_size - KERNEL[1] + 1
        numbers = torch.arange(depth * side**2).view(depth, side**2)
        forwards = torch.stack([numbers.T.flatten(), numbers.flatten()])  # the bands of a pixel, the pixels of a band
        self.register_buffer("orders", torch.cat([forwards, forwards.flip(1)]), persistent=False)

    def encode(self, embedded: Tensor) -> Tensor:
        tokens = rearrange(self.stem(embedded.unsqueeze(1)), "b c d h w -> b (d h w) c")
        tokens = tokens + self.layer(self.norm(tokens), self.orders)
        return self.head(self.norm_out(tokens).mean(1)).unsqueeze(0)
