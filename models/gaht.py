"""GAHT: three stages of grouped convolution and transformer encoders."""

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.attention import Encoder, SelfAttention
from models.base import PatchClassifier
from models.options import ModelOptions

GROUPS = 16
STAGES = ((256, 8, 2), (128, 4, 1), (64, 2, 1))  # width, heads and encoders


class GAHT(PatchClassifier):
    """A stage is a 3x3 convolution in groups, BatchNorm, ReLU, encoders and LayerNorm; then the mean of the pixels.

    The logits of the attention are not scaled, as in the authors' code. Bands are repeated at the end up to a multiple
    of the groups.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd.
        options: none.
    Source: Mei et al., Group-aware hierarchical transformer, IEEE TGRS 60 (2022), with the groups and the numbers of
        encoders that it has for Salinas.
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        width = math.ceil(n_bands / GROUPS) * GROUPS
        self.n_repeated = width - n_bands
        self.embeddings, self.stages = nn.ModuleList(), nn.ModuleList()
        for dim, heads, depth in STAGES:
            convolution = nn.Conv2d(width, dim, 3, padding=1, groups=GROUPS)
            self.embeddings.append(nn.Sequential(convolution, nn.BatchNorm2d(dim), nn.ReLU()))
            attentions = (SelfAttention(dim, heads, dim, bias=True, scale=1.0) for _ in range(depth))
            self.stages.append(nn.Sequential(*(Encoder(each, dim, dim) for each in attentions), nn.LayerNorm(dim)))
            width = dim
        self.head = nn.Linear(width, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        x = F.pad(embedded.unsqueeze(1), (0, 0, 0, 0, 0, self.n_repeated), mode="replicate").squeeze(1)
        for embedding, stage in zip(self.embeddings, self.stages, strict=True):
            tokens = stage(rearrange(embedding(x), "b c h w -> b (h w) c"))
            x = rearrange(tokens, "b (h w) c -> b c h w", h=self.patch_size)
        return self.head(x.mean((2, 3))).unsqueeze(0)
