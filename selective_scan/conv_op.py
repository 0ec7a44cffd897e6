"""The convolution before the scan as an operator of PyTorch, `torch.ops.mim.causal_conv`, with its gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = 3  # tokens that one sees, itself and those before it
INPUTS = "Tensor tokens, Tensor order, Tensor weight, Tensor bias"


def causal_conv(tokens: Tensor, order: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Read tokens along some orders and pass each sequence through a causal depthwise convolution and SiLU.

        y_t = silu(bias + sum_k weight_k x_(t - TAPS + 1 + k)),    x_t = tokens_(order_t), zero before the sequence

    Args:
        tokens: (batch, n_tokens, d_inner).
        order: (n_orders, L) int64, indices of tokens; a token may be left out or repeated.
        weight, bias: (TAPS, d_inner) and (d_inner,); the last weight belongs to the token itself.
    Returns:
        (batch * n_orders, L, d_inner), the orders of one row of the batch together; under autocast float32.
    """
    return conv(tokens, order, weight, bias)


@torch.library.custom_op("mim::causal_conv", mutates_args=(), schema=f"({INPUTS}) -> Tensor")
def conv(tokens, order, weight, bias):
    """In the tokens' dtype."""
    return F.silu(_convolved(_windows(tokens, order), weight, bias)).contiguous()


@torch.library.custom_op("mim::causal_conv_backward", mutates_args=(), schema=f"(Tensor grad, {INPUTS}) -> Tensor[]")
def conv_backward(grad, tokens, order, weight, bias):
    """The gradients of tokens, weight and bias."""
    windows = _windows(tokens, order)
    z = _convolved(windows, weight, bias)
    sigmoid = torch.sigmoid(z)
    grad_z = grad * sigmoid * (1 + z * (1 - sigmoid))
    after = F.pad(grad_z, (0, 0, 0, TAPS - 1)).unfold(1, order.shape[1], 1)  # (rows, TAPS, d_inner, L)
    grad_x = torch.einsum("rkdt,kd->rtd", after, weight.flip(0)).reshape(len(tokens), -1, tokens.shape[2])
    grad_tokens = torch.zeros_like(tokens).index_add_(1, order.flatten(), grad_x)
    return [grad_tokens, torch.einsum("rtd,rkdt->kd", grad_z, windows).contiguous(), grad_z.sum((0, 1))]


def _windows(tokens: Tensor, order: Tensor) -> Tensor:
    """The sequences as each tap sees them: (batch * n_orders, TAPS, d_inner, L)."""
    x = tokens.index_select(1, order.flatten()).reshape(-1, order.shape[1], tokens.shape[2])
    return F.pad(x, (0, 0, TAPS - 1, 0)).unfold(1, order.shape[1], 1)


def _convolved(windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    z = bias
    for k in range(TAPS):
        z = torch.addcmul(z, windows[:, k].transpose(1, 2), weight[k])
    return z


@conv.register_fake
def _(tokens, order, *_):
    return tokens.new_empty(tokens.shape[0] * order.shape[0], order.shape[1], tokens.shape[2])


@conv_backward.register_fake
def _(_grad, tokens, _order, weight, bias):
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (tokens, weight, bias)]


def _save_inputs(ctx, inputs, **_):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    grad_tokens, grad_weight, grad_bias = conv_backward(grad, *ctx.saved_tensors)
    return grad_tokens, None, grad_weight, grad_bias


conv.register_autograd(_backward, setup_context=_save_inputs)
for _device_type in ("cpu", "cuda"):
    conv.register_autocast(_device_type, torch.float32)  # leaves float64 as it is
