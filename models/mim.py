"""MiM, whose stem, stages and heads the paper's three variants share."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.base import PatchClassifier, PointwiseConv
from models.options import MiMOptions
from models.t_mamba import MiMStage


class PatchStem(nn.Module):
    """The part of the stem that sees neighbours: (B, dim, P, P) to tokens in raster order, (B, P * P, dim).

    `depthwise`: a 3x3 depthwise convolution, then a pointwise one with SiLU and a skip around it. `full`: one full 3x3
    convolution with BatchNorm and SiLU, with a skip around it. Then a learned position per token, started at zero.
    """

    def __init__(self, dim: int, patch_size: int, kind: str):
        super().__init__()
        if kind == "full":
            self.local = nn.Identity()
            self.mix = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim), nn.SiLU())
        else:
            self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
            self.mix = nn.Sequential(PointwiseConv(dim, dim), nn.SiLU())
        self.position = nn.Parameter(torch.zeros(patch_size * patch_size, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.local(x)
        return rearrange(x + self.mix(x), "b c h w -> b (h w) c") + self.position


class MiM(PatchClassifier):
    """Mamba-in-Mamba network for the centre pixel of a patch; what the variants are is in their options.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 3.
        options: the variant's settings, see `models.check_options`.
    Source: Zhou et al. 2025, figures 1 and 2.
    """

    options: MiMOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: MiMOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.scales = options.resolved_scales(patch_size)
        self.embedding = nn.Sequential(
            PointwiseConv(n_bands, options.dim, bias=False), nn.BatchNorm2d(options.dim), nn.SiLU()
        )
        self.stem = PatchStem(options.dim, patch_size, options.stem)
        sides = (patch_size, *self.scales)
        self.stages = nn.ModuleList([MiMStage(*pair, options) for pair in pairwise(sides)])
        n_heads = len(self.scales) if options.scale_loss == "all" else 1
        self.heads = nn.ModuleList([nn.Linear(options.dim, n_classes) for _ in range(n_heads)])

    def embed(self, x: Tensor) -> Tensor:
        return self.embedding(x)

    def encode(self, embedded: Tensor) -> Tensor:
        tokens = self.stem(embedded)
        features = []
        for stage in self.stages:
            tokens = stage(tokens)
            features.append(tokens.mean(1))  # (B, dim)
        return self.decode(features)

    def decode(self, features: list[Tensor]) -> Tensor:
        """Features of every scale, (B, dim) each, to logits (rows, B, K); with one head the last scale's."""
        used = features[-len(self.heads) :]
        return torch.stack([self.classify(head, x) for head, x in zip(self.heads, used, strict=True)])

    def classify(self, head: nn.Module, feature: Tensor) -> Tensor:
        """Dropout, then one linear layer."""
        return head(F.dropout(feature, self.options.dropout, self.training))
