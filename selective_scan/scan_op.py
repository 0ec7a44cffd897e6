"""The scan, `selective_scan`, and its operator of PyTorch: schema, gradient, autocast, operation count."""

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils.flop_counter import register_flop_formula

from selective_scan.backends import BACKENDS, choose

INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias"
OPTIONS = "bool delta_softplus, str backend"


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
        delta_bias: added to delta first, (d_inner,).
        delta_softplus: pass delta (with its bias) through softplus.
        backend: a name from `available_backends()`, or "auto" for the best one.
    Returns:
        y, (batch, L, d_inner), in u's dtype; under autocast in float32, as PyTorch's sums and exponentials are.
    Raises:
        ValueError: unknown back end (the choices are named), or shapes, devices or types that do not fit together.
        NotImplementedError: forward-mode derivatives; those of first order exist in reverse mode.
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


@torch.library.custom_op("mim::selective_scan", mutates_args=(), schema=f"({INPUTS}, {OPTIONS}) -> Tensor")
def scan(u, delta, A, B, C, D, delta_bias, delta_softplus, backend):
    """y in u's dtype, computed in float32, or in float64 if u is."""
    back_end = BACKENDS[choose(backend, u.device.type, A.shape[1])]
    return back_end.forward(*_prepared(u, (u, delta, A, B, C, D, delta_bias)), delta_softplus).to(u.dtype)


@torch.library.custom_op(
    "mim::selective_scan_backward", mutates_args=(), schema=f"(Tensor grad_y, {INPUTS}, {OPTIONS}) -> Tensor[]"
)
def scan_backward(grad_y, u, delta, A, B, C, D, delta_bias, delta_softplus, backend):
    """The gradients of the seven inputs, each in its input's dtype; an empty one if the input is absent."""
    back_end = BACKENDS[choose(backend, u.device.type, A.shape[1])]
    inputs = (u, delta, A, B, C, D, delta_bias)
    grads = back_end.backward(*_prepared(u, (grad_y, *inputs)), delta_softplus)
    return [u.new_empty(0) if x is None else grad.to(x.dtype) for grad, x in zip(grads, inputs, strict=True)]


def _prepared(u: Tensor, tensors: tuple) -> list:
    """The tensors as the back ends take them: contiguous, all of one type, float32 or better."""
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    return [x if x is None else x.to(dtype).contiguous() for x in tensors]


@scan.register_fake
def _(u, *_):
    return u.new_empty(u.shape)


@scan_backward.register_fake
def _(_grad_y, u, delta, A, B, C, D, delta_bias, *_):
    return [u.new_empty(0) if x is None else x.new_empty(x.shape) for x in (u, delta, A, B, C, D, delta_bias)]


def _save_inputs(ctx, inputs, **_):
    *tensors, ctx.delta_softplus, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_y):
    inputs = ctx.saved_tensors
    grads = scan_backward(grad_y, *inputs, ctx.delta_softplus, ctx.backend)
    return *(None if x is None else grad for x, grad in zip(inputs, grads, strict=True)), None, None


scan.register_autograd(_backward, setup_context=_save_inputs)
for _device_type in ("cpu", "cuda"):
    scan.register_autocast(_device_type, torch.float32)  # leaves float64 as it is


# Additions, products and exponentials, each counted once, of one state at one step; see csrc/recurrence.h. Forward: the
# exponent, its exponential, the next state (3) and what it adds to y (2). Backward: the first five again and 14 for the
# gradients. Per channel: delta u, and D u added. The exponent of softplus and its kind are not counted.
FORWARD_PER_STATE, BACKWARD_PER_STATE = 7, 19
FORWARD_PER_CHANNEL, BACKWARD_PER_CHANNEL = 3, 8


def scan_flops(u_shape, A_shape) -> int:
    """Operations of a forward pass, by the shapes of u and A."""
    return u_shape[0] * u_shape[1] * u_shape[2] * (FORWARD_PER_STATE * A_shape[1] + FORWARD_PER_CHANNEL)


def scan_backward_flops(u_shape, A_shape) -> int:
    """Operations of a backward pass, which runs the recurrence once more."""
    return u_shape[0] * u_shape[1] * u_shape[2] * (BACKWARD_PER_STATE * A_shape[1] + BACKWARD_PER_CHANNEL)


@register_flop_formula(torch.ops.mim.selective_scan)
def _(u, _delta, A, *_, **__):
    return scan_flops(u, A)


@register_flop_formula(torch.ops.mim.selective_scan_backward)
def _(_grad_y, u, _delta, A, *_, **__):
    return scan_backward_flops(u, A)
