"""The one function that the models call; it checks the shapes and hands over to the operator."""

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from selective_scan.scan_op import scan


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Run the selective state space recurrence along a sequence, in float32 or better.

        h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t,    h_0 = 0
        y_t = C_t h_t + D u_t

    Args:
        u: input sequence, (batch, L, d_inner).
        delta: step sizes, (batch, L, d_inner); positive, or anything with `delta_softplus`.
        A: state matrix, diagonal, (d_inner, N), negative for a stable recurrence.
        B, C: input and output vectors, (batch, L, N).
        D: skip weight, (d_inner,), or None for no skip.
        delta_bias: added to delta before anything else, (d_inner,).
        delta_softplus: pass delta (with its bias) through softplus.
        backend: a name from `available_backends()`, or "auto" for the best one.
    Returns:
        y, (batch, L, d_inner), in u's dtype; under autocast in float32, as with PyTorch's own sums and exponentials.
    Raises:
        ValueError: unknown back end (the choices are named), or shapes, devices or types that do not fit together.
        NotImplementedError: forward-mode derivatives; there are those of first order in reverse mode.
    Source: Gu and Dao, arXiv 2312.00752, Algorithm 2 (with the simplified discretisation of B used there).
    """
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}
    named = {name: x for name, x in named.items() if x is not None or name not in ("D", "delta_bias")}
    _check_kinds(named)
    _check_shapes(u, delta, A, B, C, D, delta_bias)
    return scan(u, delta, A, B, C, D, delta_bias, delta_softplus, backend)


def _check_kinds(named):
    for name, x in named.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name} must be a floating-point tensor, not {kind}")
        if x.device != named["u"].device:
            raise ValueError(f"{name} is on {x.device}, but u on {named['u'].device}; put them on one device")
        if not torch.compiler.is_compiling() and unpack_dual(x).tangent is not None:
            raise NotImplementedError(f"{name} has a tangent, but the scan has derivatives in reverse mode only")


def _check_shapes(u, delta, A, B, C, D, delta_bias):
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(f"u must be (batch, L, d_inner) and A (d_inner, N), not {tuple(u.shape)} and {tuple(A.shape)}")
    batch, length, d_inner = u.shape
    d_state = A.shape[1]
    if 0 in (length, d_inner, d_state):
        raise ValueError(f"L, d_inner and N must be at least 1, not {length}, {d_inner} and {d_state}")
    expected = {
        "delta": (delta, (batch, length, d_inner)),
        "A": (A, (d_inner, d_state)),
        "B": (B, (batch, length, d_state)),
        "C": (C, (batch, length, d_state)),
        "D": (D, (d_inner,)),
        "delta_bias": (delta_bias, (d_inner,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape} to fit u {tuple(u.shape)}, not {tuple(tensor.shape)}")
