"""The S6 layer: delta, B and C projected from the sequence itself, then the selective scan."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selective_scan import Direction, causal_conv, selective_scan

DELTA_MIN, DELTA_MAX = 1e-3, 1e-1  # softplus(bias) starts log-uniform between them
CONV_KERNEL = 3  # `causal_conv` knows no other


class CausalConv(nn.Module):
    """Depthwise convolution along a sequence in which token t sees t and the two tokens before it, and SiLU."""

    def __init__(self, d_inner: int):
        super().__init__()
        bound = CONV_KERNEL**-0.5
        self.weight = nn.Parameter(torch.empty(CONV_KERNEL, d_inner).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(d_inner).uniform_(-bound, bound))

    def forward(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Tokens (B, n_tokens, d_inner) along the orders (n_orders, L) to sequences (B * n_orders, L, d_inner)."""
        return causal_conv(tokens, order, self.weight, self.bias)


class S6(nn.Module):
    """Selective state space layer.

    Args:
        d_inner: channels of the sequence.
        d_state: N, states per channel.
        scan_backend: passed to `selective_scan`.
        dt_rank: channels from which delta is projected; None takes a sixteenth of d_inner.
    Source: Gu and Dao, arXiv 2312.00752, Algorithm 2; S4D-real start of A.
    """

    def __init__(self, d_inner: int, d_state: int, scan_backend: str, dt_rank: int | None = None):
        super().__init__()
        self.dt_rank = max(1, d_inner // 16) if dt_rank is None else dt_rank
        self.d_state = d_state
        self.scan_backend = scan_backend
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        with torch.no_grad():
            delta = torch.empty(d_inner).uniform_(math.log(DELTA_MIN), math.log(DELTA_MAX)).exp_()
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # softplus(bias) = delta

    def A(self) -> Tensor:
        """The state matrix, (d_inner, N), negative."""
        return _NegativeExponential.apply(self.A_log)

    def forward(self, u: Tensor) -> Tensor:
        """(batch, L, d_inner) in and out."""
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return selective_scan(
            u,
            F.linear(dt, self.dt_proj.weight),
            self.A(),
            B,
            C,
            self.D,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            backend=self.scan_backend,
        )


class _NegativeExponential(torch.autograd.Function):
    """-exp(x), whose gradient takes one operation: it is the result."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = torch.exp(x).neg_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.saved_tensors[0]


class ScanBranch(nn.Module):
    """One direction of a T-Mamba: causal convolution, SiLU, S6."""

    def __init__(self, d_inner: int, d_state: int, scan_backend: str):
        super().__init__()
        self.conv = CausalConv(d_inner)
        self.s6 = S6(d_inner, d_state, scan_backend)

    def forward(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Tokens (B, n_tokens, d_inner) along the orders (n_orders, L) to sequences (B * n_orders, L, d_inner)."""
        return self.s6(self.conv(tokens, order))

    def parameters_of_scan(self) -> Direction:
        """What `cross_scan` takes for this direction."""
        conv, s6 = self.conv, self.s6
        return Direction(conv.weight, conv.bias, s6.x_proj.weight, s6.dt_proj.weight, s6.dt_proj.bias, s6.A(), s6.D)
