"""SpectralFormer: a transformer along the bands."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.attention import Encoder, SelfAttention
from models.base import PatchClassifier
from models.options import DropoutOptions

DIM, HEADS, LAYERS, HIDDEN, GROUP = 64, 4, 5, 8, 3


class SpectralFormer(PatchClassifier):
    """A token per band, made of the patch in that band and its two neighbours; five encoders fused across layers.

    From the third layer on, the input is fused with that of two layers before by a [1, 2] convolution whose channels
    are the tokens. At the first and the last band the neighbour that is missing is the band itself. With patch size 1
    it is the pixel-wise form.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd.
        options: the rate of dropout.
    Source: Hong et al., SpectralFormer, IEEE TGRS 60 (2022).
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.embedding = nn.Linear(GROUP * patch_size**2, DIM)
        self.token = nn.Parameter(torch.randn(1, 1, DIM))
        self.position = nn.Parameter(torch.randn(1, n_bands + 1, DIM))
        self.encoders = nn.ModuleList(
            Encoder(
                SelfAttention(DIM, HEADS, DIM, bias=False, dropout=options.dropout),
                DIM,
                HIDDEN,
                dropout=options.dropout,
            )
            for _ in range(LAYERS)
        )
        self.fusions = nn.ModuleList(nn.Conv2d(n_bands + 1, n_bands + 1, (1, 2)) for _ in range(LAYERS - 2))
        self.head = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, n_classes))

    def encode(self, embedded: Tensor) -> Tensor:
        bands = rearrange(embedded, "b n h w -> b (h w) n")
        groups = F.pad(bands, (GROUP // 2, GROUP // 2), mode="replicate").unfold(2, GROUP, 1)
        tokens = self.embedding(rearrange(groups, "b p n g -> b n (g p)"))
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.position
        x = F.dropout(tokens, self.options.dropout, self.training)
        inputs = []
        for layer, encoder in enumerate(self.encoders):
            inputs.append(x)
            if layer >= 2:
                x = self.fusions[layer - 2](torch.stack([x, inputs[layer - 2]], 3)).squeeze(3)
            x = encoder(x)
        return self.head(x[:, 0]).unsqueeze(0)
