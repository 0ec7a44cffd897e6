"""SSFTT: convolutions, a few semantic tokens, and one transformer encoder."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.attention import Encoder, SelfAttention
from models.base import PatchClassifier
from models.options import DropoutOptions

DIM, TOKENS, HEADS, HIDDEN = 64, 4, 8, 8


class GaussianTokens(nn.Module):
    """Weighted sums of the pixels: tokens = softmax over the pixels of (x w_a) applied to x w_v.

    Args:
        n_tokens: number of tokens.
        dim: channels of a pixel and of a token.
    Source: Sun et al., Spectral-spatial feature tokenization transformer, IEEE TGRS 60 (2022), equation 3.
    """

    def __init__(self, n_tokens: int, dim: int):
        super().__init__()
        self.weights = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_tokens, dim)))
        self.values = nn.Parameter(nn.init.xavier_normal_(torch.empty(dim, dim)))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, n, dim) to (B, n_tokens, dim)."""
        attention = (pixels @ self.weights.T).softmax(1)  # (B, n, n_tokens)
        return attention.transpose(1, 2) @ (pixels @ self.values)


class SSFTT(PatchClassifier):
    """A 3-D and a 2-D convolution without padding, four tokens and a class token, one encoder, one linear layer.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd and at least 5, at least 3 bands.
        options: the rate of dropout.
    Source: Sun et al., Spectral-spatial feature tokenization transformer, IEEE TGRS 60 (2022).
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.spectral = nn.Sequential(nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.ReLU())
        self.spatial = nn.Sequential(nn.Conv2d(8 * (n_bands - 2), DIM, 3), nn.BatchNorm2d(DIM), nn.ReLU())
        self.tokens = GaussianTokens(TOKENS, DIM)
        self.token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.position = nn.Parameter(0.02 * torch.randn(1, TOKENS + 1, DIM))
        attention = SelfAttention(DIM, HEADS, DIM, bias=True, dropout=options.dropout)
        self.encoder = Encoder(attention, DIM, HIDDEN, dropout=options.dropout)
        self.head = nn.Linear(DIM, n_classes)

    def encode(self, embedded: Tensor) -> Tensor:
        x = self.spatial(rearrange(self.spectral(embedded.unsqueeze(1)), "b c d h w -> b (c d) h w"))
        tokens = self.tokens(rearrange(x, "b c h w -> b (h w) c"))
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.position
        tokens = self.encoder(F.dropout(tokens, self.options.dropout, self.training))
        return self.head(tokens[:, 0]).unsqueeze(0)
