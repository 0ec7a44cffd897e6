"""S2Mamba: a scan in space and a scan along the channels, mixed pixel by pixel."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.base import PatchClassifier, PointwiseConv
from models.options import MambaOptions
from models.ss2d import SS2D
from models.ssm import S6

DIM, EXPAND, SMALLEST_WEIGHT = 64, 2, 0.1


class ChannelScan(nn.Module):
    """Scan the inner channels of a patch in both directions, with its pixels as features.

    Args:
        n_pixels: of the patch.
        options: states and back end of the scans.
    """

    def __init__(self, n_pixels: int, options: MambaOptions):
        super().__init__()
        d_inner = EXPAND * DIM
        self.project_in = nn.Linear(DIM, 2 * d_inner, bias=False)
        rank = math.ceil(n_pixels / 16)
        self.scans = nn.ModuleList(S6(n_pixels, options.d_state, options.scan_backend, rank) for _ in range(2))
        self.norm = nn.LayerNorm(d_inner)
        self.project_out = nn.Linear(d_inner, DIM, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, n_pixels, dim) in and out."""
        x, gate = self.project_in(pixels).chunk(2, -1)
        channels = F.silu(x).transpose(1, 2).contiguous()  # (B, d_inner, n_pixels): a sequence of channels
        scanned = self.scans[0](channels) + self.scans[1](channels.flip(1)).flip(1)
        return self.project_out(self.norm(scanned.transpose(1, 2)) * F.silu(gate))


class S2Mamba(PatchClassifier):
    """Pointwise embedding, GELU, one block of both scans with a skip, mean, one linear layer.

    A small network gives each pixel the weights of the two scans, a softmax in which weights below 0.1 become 0. (In
    the authors' code the backward scan along the channels is not reversed.)

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd.
        options: states and back end of the scans.
    Source: Wang et al., S2Mamba, IEEE TGRS 63 (2025).
    """

    options: MambaOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: MambaOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.embedding = nn.Sequential(PointwiseConv(n_bands, DIM), nn.GELU())
        self.norm = nn.LayerNorm(DIM)
        self.spatial, self.spectral = SS2D(DIM, options), ChannelScan(patch_size**2, options)
        self.gate = nn.Sequential(nn.Linear(2 * DIM, DIM), nn.GELU(), nn.Linear(DIM, 2))
        self.head = nn.Linear(DIM, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        return self.embedding(x)

    def encode(self, embedded: Tensor) -> Tensor:
        pixels = rearrange(embedded, "b c h w -> b (h w) c")
        normed = self.norm(pixels)
        spatial = self.spatial(normed.unflatten(1, (self.patch_size, self.patch_size))).flatten(1, 2)
        branches = torch.stack([spatial, self.spectral(normed)], -1)  # (B, n_pixels, dim, 2)
        weights = self.gate(torch.cat([spatial, branches[..., 1]], -1)).softmax(-1)
        weights = torch.where(weights < SMALLEST_WEIGHT, 0.0, weights)
        mixed = pixels + (branches * weights.unsqueeze(2)).sum(-1)
        return self.head(mixed.mean(1)).unsqueeze(0)
