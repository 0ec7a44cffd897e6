"""Vim: bidirectional Mamba blocks on the pixels of a patch, with a class token in their middle."""

import torch
from einops import rearrange
from torch import Tensor, nn

from models.base import PatchClassifier, PointwiseConv
from models.mamba import Mamba
from models.options import MambaOptions

DIM, DEPTH = 64, 4


class Vim(PatchClassifier):
    """A token per pixel and a class token before the centre pixel; four blocks that scan forwards and backwards.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd.
        options: states and back end of the scan.
    Source: Zhu et al., Vision Mamba, ICML 2024; width and depth are those of the MiM networks' scale.
    """

    options: MambaOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: MambaOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        n_tokens = patch_size**2 + 1
        self.embedding = PointwiseConv(n_bands, DIM)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, DIM))
        self.position = nn.Parameter(0.02 * torch.randn(n_tokens, DIM))
        self.norms = nn.ModuleList(nn.RMSNorm(DIM) for _ in range(DEPTH))
        self.layers = nn.ModuleList(Mamba(DIM, options, 2) for _ in range(DEPTH))
        self.head = nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, n_classes))
        forwards = torch.arange(n_tokens)
        self.register_buffer("orders", torch.stack([forwards, forwards.flip(0)]), persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        return self.embedding(x)

    def encode(self, embedded: Tensor) -> Tensor:
        pixels = rearrange(embedded, "b c h w -> b (h w) c")
        middle = pixels.shape[1] // 2
        token = self.token.expand(len(pixels), -1, -1)
        tokens = torch.cat([pixels[:, :middle], token, pixels[:, middle:]], 1) + self.position
        for norm, layer in zip(self.norms, self.layers, strict=True):
            tokens = tokens + layer(norm(tokens), self.orders)
        return self.head(tokens[:, middle]).unsqueeze(0)
