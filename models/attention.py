"""The encoder block of a transformer, as the rivals use it."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: channels of a token.
        heads: number of heads.
        width: channels of all heads together.
        bias: of the projections to queries, keys and values.
        scale: by which the logits are multiplied; None for one over the root of a head's channels.
        dropout: rate after the projection.
    Source: Vaswani et al., Attention is all you need, NeurIPS 2017, section 3.2.
    """

    def __init__(
        self, dim: int, heads: int, width: int, *, bias: bool, scale: float | None = None, dropout: float = 0.0
    ):
        super().__init__()
        self.heads, self.scale, self.dropout = heads, scale, dropout
        self.to_heads = nn.Linear(dim, 3 * width, bias=bias)
        self.project = nn.Linear(width, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, dim) in and out."""
        query, key, value = rearrange(self.to_heads(tokens), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        attended = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        attended = self.project(rearrange(attended, "b h n c -> b n (h c)"))
        return F.dropout(attended, self.dropout, self.training)


class Encoder(nn.Module):
    """Attention and two linear layers with GELU, each after LayerNorm and with a skip around it.

    Args:
        attention: of the block.
        dim: channels of a token.
        hidden: channels between the linear layers.
        dropout: rate after each linear layer.
    """

    def __init__(self, attention: nn.Module, dim: int, hidden: int, *, dropout: float = 0.0):
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), attention)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, dim) in and out."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.mlp(tokens)
