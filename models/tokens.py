"""What turns scanned sequences into tokens: Gaussian decay mask, token learner, token fuser, weighted fusion."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selective_scan import attend, can_attend


class GaussianDecay(nn.Module):
    """Gaussian decay mask (GDM): weigh every token by its distance from the centre token.

        w_t = w_idx(t) w_fea(t),  w_idx = exp(-(t - T)^2 / 2 s_idx^2),  w_fea = exp(-|y_t - y_T|^2 / 2 s_fea^2)

    s_idx and s_fea are the mean distances |t - T| and |y_t - y_T|; if one is 0, its factor is 1.

    Args:
        length: L, tokens of the sequence.
        centre: T, index of the centre token.
        decay: which factors to use, one of `models.options.DECAYS`.
    Source: Zhou et al. 2025, Gaussian decay mask.
    """

    index_weight: Tensor  # w_idx, (L, 1)

    def __init__(self, length: int, centre: int, decay: str):
        super().__init__()
        self.centre = centre
        self.by_feature = decay in ("feature", "both")
        distance = (torch.arange(length) - centre).abs().float()
        index_weight = _gaussian(distance) if decay in ("index", "both") else torch.ones(length)
        self.register_buffer("index_weight", index_weight.unsqueeze(-1), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """(..., L, channels) in and out."""
        return y * self.weights(y)

    def weights(self, y: Tensor) -> Tensor:
        """The mask, in (0, 1] and 1 at the centre: (L, 1), or (..., L, 1) if it depends on the features."""
        if not self.by_feature:
            return self.index_weight
        difference = y - y[..., self.centre : self.centre + 1, :]
        return self.index_weight * _gaussian(torch.linalg.vector_norm(difference, dim=-1)).unsqueeze(-1)


def _gaussian(distance: Tensor) -> Tensor:
    """exp(-d^2 / 2 s^2) along the last axis, s the mean of d there; 1 if s is 0."""
    scale = distance.mean(-1, keepdim=True)
    return torch.exp(-0.5 * (distance / scale.where(scale > 0, 1)) ** 2)


class GridPool(nn.Module):
    """2-D adaptive average of a token grid, grid x grid to grid_out x grid_out, both in raster order."""

    pool_weights: Tensor  # of each token of the grid in each pooled token, (S, L)

    def __init__(self, grid: int, grid_out: int):
        super().__init__()
        one_hot = torch.eye(grid * grid).view(grid * grid, grid, grid)
        averages = F.adaptive_avg_pool2d(one_hot, grid_out)  # (L, grid_out, grid_out)
        self.is_identity = grid == grid_out
        self.register_buffer("pool_weights", averages.flatten(1).T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., L, channels) to (..., S, channels)."""
        return x if self.is_identity else self.pool_weights @ x


class SequenceAttention(nn.Module):
    """Weigh each token by the sigmoid of a 1x1 convolution over the maximum and the mean of its channels."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., L, channels) in and out."""
        if can_attend(x):
            return attend(x, self.packed())
        summary = torch.stack([x.amax(-1), x.mean(-1)], dim=-1)
        return x * torch.sigmoid(self.mix(summary))

    def packed(self) -> Tensor:
        """Weights of maximum and mean, and the bias: (3,)."""
        return torch.cat([self.mix.weight[0], self.mix.bias])


class TokenLearner(nn.Module):
    """Semantic token learner (STL): S tokens, each a learned average over the L positions.

    Args:
        channels: d_inner.
        n_tokens: S.
    Source: Zhou et al. 2025, semantic token learner: u = softmax_L(y U1^T) (y U2) after sequence attention.
    """

    def __init__(self, channels: int, n_tokens: int):
        super().__init__()
        self.attention = SequenceAttention()
        self.score = nn.Linear(channels, n_tokens, bias=False)  # U1
        self.value = nn.Linear(channels, channels, bias=False)  # U2

    def forward(self, y: Tensor) -> Tensor:
        """(..., L, channels) to (..., S, channels)."""
        return self.value(self.averages(self.attention(y)))  # U2 after the average: the same, on S tokens instead of L

    def averages(self, y: Tensor) -> Tensor:
        """The averages before U2, from the output of the sequence attention."""
        return self.token_attention(y).transpose(-2, -1) @ y

    def token_attention(self, y: Tensor) -> Tensor:
        """Weights of the positions in each token, from the sequence attention's output: (..., L, S), sum 1 over L."""
        return self.score(y).softmax(dim=-2)


class TokenFuser(nn.Module):
    """Semantic token fuser (STF): mix the learned tokens, gated by the pooled ones.

    Args:
        channels: d_inner.
        n_tokens: S.
    Source: Zhou et al. 2025, semantic token fuser: sigmoid(linear_S(z)) P(u) + sequence attention of z.
    """

    def __init__(self, channels: int, n_tokens: int):
        super().__init__()
        self.gate = nn.Linear(channels, n_tokens)
        self.mix = nn.Linear(n_tokens, n_tokens)  # P, along the token axis
        self.attention = SequenceAttention()

    def forward(self, u: Tensor, z: Tensor) -> Tensor:
        """u (batch, types, S, channels) and z (batch, S, channels) to (batch, types, S, channels)."""
        mix, skip = self.parts(z)
        return mix.unsqueeze(1) @ u + skip.unsqueeze(1)

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What is the same for all types: gate times P, (batch, S, S), and what is added, (batch, S, channels)."""
        gate = torch.sigmoid(self.gate(z))  # (batch, S, S)
        return gate @ self.mix.weight, (gate @ self.mix.bias).unsqueeze(-1) + self.attention(z)


class WeightedFusion(nn.Module):
    """Weighted MCS fusion (WMF): sum_i softmax(k)_i out_i over the scan types; the plain mean without weights.

    Source: Zhou et al. 2025, weighted MCS fusion.
    """

    def __init__(self, n_types: int, weighted: bool):
        super().__init__()
        # One type has nothing to weigh: softmax(k) would be 1 and k would never learn.
        self.k = nn.Parameter(torch.zeros(n_types)) if weighted and n_types > 1 else None

    def forward(self, out: Tensor) -> Tensor:
        """(batch, types, S, C) to (batch, S, C)."""
        if self.k is None:
            return out.mean(1)
        return (out * self.k.softmax(0).view(-1, 1, 1)).sum(1)  # not a matrix product, which autocast would round
