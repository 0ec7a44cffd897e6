"""Sequence attention on CUDA as an operator with its gradient, each in one kernel."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from selective_scan import cuda, cuda_cross_scan
from selective_scan.backends import choose

_Attention = cuda.struct("_Attention", "x weight", "rows channels")


def can_attend(x: Tensor) -> bool:
    """Whether `attend` may be called: on CUDA, if the kernels can be compiled and take the tensor."""
    return (
        x.is_cuda
        and not torch.compiler.is_compiling()
        and x.dtype in cuda.TYPES
        and x.shape[-1] <= cuda_cross_scan.MOST_CHANNELS
        and choose("auto", "cuda", 1) == "cuda"
    )


def attend(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply tokens by the logistic function of w_0 max(x) + w_1 mean(x) + w_2 over their channels.

    Args:
        x: (..., channels).
        weight: (3,).
    Returns:
        As x. The gradient of the maximum is divided among equal channels.
    """
    return operator(x, weight)


@torch.library.custom_op("mim::attend", mutates_args=(), schema="(Tensor x, Tensor weight) -> Tensor")
def operator(x, weight):
    """The result of `attend`."""
    x = x.contiguous()
    y, settings = torch.empty_like(x), _settings(x, weight)
    cuda_cross_scan.launch("attend", (-(-settings.rows // 8), 1), settings, y)
    return y


def gradients(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of both."""
    grad, x = grad.contiguous(), x.contiguous()
    settings, grad_x = _settings(x, weight), torch.empty_like(x)
    groups = min(settings.rows, cuda.MAX_GROUPS)
    parts = x.new_empty(groups, 3)
    cuda_cross_scan.launch("attend_backward", (groups, 1), settings, grad, grad_x, parts)
    return grad_x, parts.sum(0)


def _settings(x: Tensor, weight: Tensor):
    return _Attention(*cuda.pointers(x, weight), x.numel() // max(x.shape[-1], 1), x.shape[-1])


def _save(ctx, inputs, **_):
    ctx.save_for_backward(*inputs)


operator.register_fake(lambda x, _weight: torch.empty_like(x))
operator.register_autograd(lambda ctx, grad: gradients(grad, *ctx.saved_tensors), setup_context=_save)


@register_flop_formula(torch.ops.mim.attend)
def _(x_shape, _weight_shape, *_, **__):
    """As the linear layer of the modules: two numbers to one for each token."""
    return 4 * int(torch.Size(x_shape[:-1]).numel())
