"""Both scans of a T-Mamba with decay, merge and norm as one operator without gradients, for inference on the CPU."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from selective_scan.backends import choose
from selective_scan.scan_op import scan_flops

INPUTS = "Tensor[] ahead, Tensor[] behind, Tensor to_ahead, Tensor to_behind, "
INPUTS += "Tensor index_weight, Tensor norm_weight, Tensor norm_bias, Tensor? attention"
OPTIONS = "int centre, bool by_feature, bool halves, float eps"


def can_merge(u: Tensor, backend: str) -> bool:
    """Whether `scan_and_merge` may be called: compiled for the CPU, and no gradient asked for."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or u.device.type != "cpu":
        return False
    return choose(backend, "cpu", 1) == "cpu"


@torch.library.custom_op("mim::scan_and_merge", mutates_args=(), schema=f"({INPUTS}, {OPTIONS}) -> Tensor")
def scan_and_merge(
    ahead, behind, to_ahead, to_behind, index_weight, norm_weight, norm_bias, attention, centre, by_feature, halves, eps
):
    """Scan sequences in both directions, let them decay, merge them and normalise over the channels.

    A direction is a list of

        u          (rows, n, d_inner), which its scan takes, in its own order
        projected  (rows, n, dt_rank + 2 N), u's projections to dt, B and C
        dt_weight  (d_inner, dt_rank), dt_bias (d_inner,): delta = softplus(dt dt_weight^T + dt_bias)
        A, D       (d_inner, N) and (d_inner,)

    Args:
        ahead, behind: the directions; behind runs from the other end.
        to_ahead, to_behind: (n_orders, n) int64, where a direction's tokens stand in the result; rows take the orders
            in turn.
        index_weight: (n,), factor of the decay by place.
        norm_weight, norm_bias, eps: (d_inner,) each and a number, of the layer norm.
        attention: (3,), of the sequence attention on what is normalised: weights of the channels' maximum and mean, and
            the bias; None for none.
        centre: the token that the decay keeps; by_feature: it decays by the distance of the features as well.
        halves: the directions are halves that share their last token, else each is the whole sequence.
    Returns:
        (rows, L, d_inner), L = 2 n - 1 for halves and n else, in u's dtype; computed in float32 or better.
    Source: Zhou et al. 2025; the same as the modules of `models` one after another, which are the reference.
    """
    u_dtype = ahead[0].dtype
    dtype = torch.promote_types(u_dtype, torch.float32)
    ahead, behind = ([x.to(dtype).contiguous() for x in direction] for direction in (ahead, behind))
    constants = (index_weight, norm_weight, norm_bias, attention)
    constants = [x if x is None else x.to(dtype).contiguous() for x in constants]
    y = torch.ops.mim_cpu.merge(ahead, behind, to_ahead, to_behind, *constants, centre, by_feature, halves, eps)
    return y.to(u_dtype)


@scan_and_merge.register_fake
def _(
    ahead, behind, to_ahead, to_behind, index_weight, norm_weight, norm_bias, attention, centre, by_feature, halves, eps
):
    rows, n, d_inner = ahead[0].shape
    return ahead[0].new_empty(rows, 2 * n - 1 if halves else n, d_inner)


@register_flop_formula(torch.ops.mim.scan_and_merge)
def _(ahead, behind, *_, **__):
    def flops(u, projected, dt_weight, dt_bias, A, D):
        return scan_flops(u, A) + 2 * u[0] * u[1] * dt_weight[0] * dt_weight[1]

    return flops(*ahead) + flops(*behind)
