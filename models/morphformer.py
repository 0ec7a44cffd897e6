"""morphFormer: learned erosion and dilation of tokens that are read as small images."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.base import PatchClassifier
from models.options import DropoutOptions
from models.ssftt import GaussianTokens

DIM, TOKENS, HEADS, KERNELS = 64, 32, 8, (3, 5)
SIDE = math.isqrt(DIM)  # of a token read as an image


class Morphology(nn.Module):
    """Dilation or erosion with a learned structuring element over all channels, padded with zeros.

    Dilation is the largest of x + w in the window, erosion the smallest of x - w.

    Args:
        channels, channels_out, kernel: as of a convolution.
        erosion: instead of dilation.
    """

    def __init__(self, channels: int, channels_out: int, kernel: int, *, erosion: bool):
        super().__init__()
        self.sign, self.kernel = (-1 if erosion else 1), kernel
        self.weight = nn.Parameter(torch.zeros(channels_out, channels * kernel**2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, channels_out, H, W)."""
        windows = F.unfold(self.sign * x, self.kernel, padding=self.kernel // 2).transpose(1, 2).contiguous()
        largest = torch.stack(
            [(windows + weight).max(2).values for weight in self.weight], 1
        )  # one by one: less memory
        return (self.sign * largest).unflatten(2, x.shape[2:])


class MorphologicalPair(nn.Module):
    """Erosion and dilation, each with a convolution after it, added; BatchNorm and GELU.

    Args:
        kernel: of the structuring elements.
        mix: kernel of the convolutions: 1 in the spectral pair, 3 in the spatial one.
    """

    def __init__(self, kernel: int, mix: int):
        super().__init__()
        half = TOKENS // 2
        self.branches = nn.ModuleList(
            nn.Sequential(
                Morphology(TOKENS, half, kernel, erosion=erosion), nn.Conv2d(half, half, mix, padding=mix // 2)
            )
            for erosion in (True, False)
        )
        self.normalise = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 32, 8, 8) to (B, 16, 8, 8)."""
        return F.gelu(self.normalise(sum(branch(x) for branch in self.branches)))


class CrossAttention(nn.Module):
    """The first token asks all tokens; (B, n, 64) to (B, 1, 64)."""

    def __init__(self, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.query, self.key, self.value = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))
        self.project = nn.Linear(DIM, DIM)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = (self.query(tokens[:, :1]), self.key(tokens), self.value(tokens))
        query, key, value = (rearrange(part, "b n (h c) -> b h n c", h=HEADS) for part in parts)
        rate = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
        attended = self.project(rearrange(attended, "b h n c -> b n (h c)"))
        return F.dropout(attended, self.dropout, self.training)


class MorphBlock(nn.Module):
    """The tokens go through the morphological pairs, and the class token then attends to them."""

    def __init__(self, kernel: int, dropout: float):
        super().__init__()
        self.spectral, self.spatial = MorphologicalPair(kernel, 1), MorphologicalPair(kernel, 3)
        self.before, self.attention, self.after = nn.LayerNorm(DIM), CrossAttention(dropout), nn.LayerNorm(DIM)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 33, 64) in and out."""
        first, images = tokens[:, :1], tokens[:, 1:].unflatten(2, (SIDE, SIDE))
        rest = torch.cat([self.spectral(images), self.spatial(images)], 1).flatten(2)
        tokens = torch.cat([first, rest], 1)
        first = self.after(first + self.attention(self.before(tokens)))
        return torch.cat([first, rest], 1)


class MorphFormer(PatchClassifier):
    """A 3-D and a heterogeneous convolution, 32 tokens, two morphological blocks, a linear layer on the class token.

    (The authors' code adds the positions to tokens that it does not use, and never calls its classifier; here both are
    as in the paper.)

    Args:
        n_bands, n_classes, patch_size: sizes of the task; patch_size odd, at least 9 bands.
        options: the rate of dropout.
    Source: Roy et al., Spectral-spatial morphological attention transformer, IEEE TGRS 61 (2023).
    """

    options: DropoutOptions

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: DropoutOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.spectral = nn.Sequential(nn.Conv3d(1, 8, (9, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(8), nn.ReLU())
        width = 8 * (n_bands - 8)
        groups = math.gcd(16 if width % 16 == 0 else 8, width)
        self.groupwise = nn.Conv2d(width, DIM, 3, padding=1, groups=groups)
        self.pointwise = nn.Conv2d(width, DIM, 1)
        self.normalise = nn.BatchNorm2d(DIM)
        self.tokens = GaussianTokens(TOKENS, DIM)
        self.token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.position = nn.Parameter(torch.zeros(1, TOKENS + 1, DIM))
        self.blocks = nn.Sequential(*(MorphBlock(kernel, options.dropout) for kernel in KERNELS))
        self.head = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, n_classes))

    def encode(self, embedded: Tensor) -> Tensor:
        x = rearrange(self.spectral(embedded.unsqueeze(1)), "b c d h w -> b (c d) h w")
        x = F.relu(self.normalise(self.groupwise(x) + self.pointwise(x)))
        tokens = self.tokens(rearrange(x, "b c h w -> b (h w) c"))
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.position
        tokens = self.blocks(F.dropout(tokens, self.options.dropout, self.training))
        return self.head(tokens[:, 0]).unsqueeze(0)
