"""The scan as one operator of PyTorch, `torch.ops.mim.selective_scan`: schema, gradient, autocast, operation count."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from selective_scan.backends import BACKENDS, choose

INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias"
OPTIONS = "bool delta_softplus, str backend"


@torch.library.custom_op("mim::selective_scan", mutates_args=(), schema=f"({INPUTS}, {OPTIONS}) -> Tensor")
def scan(u, delta, A, B, C, D, delta_bias, delta_softplus, backend):
    """y in u's dtype, computed in float32, or in float64 where u has it."""
    back_end = BACKENDS[choose(backend, u.device.type, A.shape[1])]
    return back_end.forward(*_prepared(u, (u, delta, A, B, C, D, delta_bias)), delta_softplus).to(u.dtype)


@torch.library.custom_op(
    "mim::selective_scan_backward", mutates_args=(), schema=f"(Tensor grad_y, {INPUTS}, {OPTIONS}) -> Tensor[]"
)
def scan_backward(grad_y, u, delta, A, B, C, D, delta_bias, delta_softplus, backend):
    """The gradients of the seven inputs, each in its input's dtype; an empty one where the input is absent."""
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
def _(grad_y, u, delta, A, B, C, D, delta_bias, *_):
    return [u.new_empty(0) if x is None else x.new_empty(x.shape) for x in (u, delta, A, B, C, D, delta_bias)]


def _save_inputs(ctx, inputs, output):
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
# exponent, its exponential, the next state (3) and its share in y (2). Backward: the first five again and 14 for the
# gradients. Per channel: delta u, and D u added. The exponent of softplus and its kind are not counted.
FORWARD_PER_STATE, BACKWARD_PER_STATE = 7, 19
FORWARD_PER_CHANNEL, BACKWARD_PER_CHANNEL = 3, 8


def scan_flops(u_shape, A_shape) -> int:
    """Operations of a forward pass, by the shapes of u and A."""
    return u_shape[0] * u_shape[1] * u_shape[2] * (FORWARD_PER_STATE * A_shape[1] + FORWARD_PER_CHANNEL)


def scan_backward_flops(u_shape, A_shape) -> int:
    """Those of the way back, the recurrence once more included."""
    return u_shape[0] * u_shape[1] * u_shape[2] * (BACKWARD_PER_STATE * A_shape[1] + BACKWARD_PER_CHANNEL)


@register_flop_formula(torch.ops.mim.selective_scan)
def _(u, delta, A, *_, **__):
    return scan_flops(u, A)


@register_flop_formula(torch.ops.mim.selective_scan_backward)
def _(grad_y, u, delta, A, *_, **__):
    return scan_backward_flops(u, A)
