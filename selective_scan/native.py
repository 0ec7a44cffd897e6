"""The selective scan in C++ on the CPU, with its gradients."""

import functools

import torch
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from selective_scan.build import load_cpu


@functools.cache
def _operators():
    load_cpu()

    @register_flop_formula(torch.ops.mim_cpu.forward)
    def count(u, delta, A, *_, **__):  # shapes; as in plain PyTorch the one matrix product, states by C, is counted
        return 2 * u[0] * u[1] * A[0] * A[1]

    return torch.ops.mim_cpu


class NativeScan(torch.autograd.Function):
    """The whole of `selective_scan` in csrc/cpu.cpp; the backward pass computes the states again, row by row."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus):
        tensors = [x if x is None else x.contiguous() for x in (u, delta, A, B, C, D, delta_bias)]
        ctx.save_for_backward(*tensors)
        ctx.delta_softplus = delta_softplus
        return _operators().forward(*tensors, delta_softplus)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        *tensors, D, delta_bias = ctx.saved_tensors
        grads = _operators().backward(grad_y.contiguous(), *tensors, D, delta_bias, ctx.delta_softplus)
        *grads, grad_D, grad_bias = grads
        return *grads, None if D is None else grad_D, None if delta_bias is None else grad_bias, None
