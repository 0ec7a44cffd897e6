"""Mamba layers along sequences, as the rivals use them: convolution of kernel 4, selective scan, gate."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from models.options import MambaOptions
from models.ssm import S6

CONV_KERNEL, EXPAND = 4, 2


class MambaDirection(nn.Module):
    """Causal depthwise convolution, SiLU and S6 along a sequence.

    Args:
        d_inner: channels of the sequence.
        dim: channels of the layer around it, of which delta is projected from a sixteenth.
        options: states and back end of the scan.
    """

    def __init__(self, d_inner: int, dim: int, options: MambaOptions):
        super().__init__()
        self.convolution = nn.Conv1d(d_inner, d_inner, CONV_KERNEL, groups=d_inner)
        self.s6 = S6(d_inner, options.d_state, options.scan_backend, math.ceil(dim / 16))

    def forward(self, sequence: Tensor) -> Tensor:
        """(B, L, d_inner) in and out."""
        padded = F.pad(sequence.transpose(1, 2), (CONV_KERNEL - 1, 0))
        return self.s6(F.silu(self.convolution(padded)).transpose(1, 2))


class Mamba(nn.Module):
    """Mamba layer in one direction, or several with shared projections, whose outputs are averaged.

    Args:
        dim: channels of a token.
        options: states and back end of the scan.
        n_directions: each with convolution and scan of its own.
    Source: Gu and Dao, arXiv 2312.00752, section 3.4; with two directions Zhu et al., Vision Mamba, ICML 2024,
        algorithm 1.
    """

    def __init__(self, dim: int, options: MambaOptions, n_directions: int = 1):
        super().__init__()
        d_inner = EXPAND * dim
        self.project_in = nn.Linear(dim, 2 * d_inner, bias=False)
        self.directions = nn.ModuleList(MambaDirection(d_inner, dim, options) for _ in range(n_directions))
        self.project_out = nn.Linear(d_inner, dim, bias=False)

    def forward(self, tokens: Tensor, orders: Tensor) -> Tensor:
        """Scan tokens in one order per direction.

        Args:
            tokens: (B, L, dim).
            orders: numbers of the tokens, (n_directions, L); each row holds every number once.
        Returns:
            (B, L, dim).
        """
        sequence, gate = self.project_in(tokens).chunk(2, -1)
        scanned = sum(
            direction(sequence[:, order])[:, order.argsort()]
            for direction, order in zip(self.directions, orders, strict=True)
        )
        return self.project_out(scanned / len(orders) * F.silu(gate))
