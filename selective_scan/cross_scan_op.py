"""All that a T-Mamba does between its projections and its tokens as one operator with its gradient, for the CPU."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from selective_scan.backends import choose
from selective_scan.scan_op import scan_backward_flops, scan_flops

TENSORS = "Tensor tokens, Tensor[] ahead, Tensor[] behind, Tensor ahead_order, Tensor behind_order, "
TENSORS += "Tensor index_weight, Tensor norm_weight, Tensor norm_bias, Tensor? attention, Tensor? score"
OPTIONS = "int centre, bool by_feature, bool halves, float eps"


class Direction(NamedTuple):
    """The parameters of one direction.

    Attributes:
        conv_weight, conv_bias: (3, d_inner) and (d_inner,), as for `causal_conv`.
        x_weight: (dt_rank + 2 N, d_inner), makes dt, B and C of a token.
        dt_weight, dt_bias: (d_inner, dt_rank) and (d_inner,), delta = softplus(dt dt_weight^T + dt_bias).
        A, D: (d_inner, N) and (d_inner,), as for `selective_scan`.
    """

    conv_weight: Tensor
    conv_bias: Tensor
    x_weight: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor


def can_cross_scan(tokens: Tensor, backend: str) -> bool:
    """Whether `cross_scan` may be called: on the CPU, where it can be compiled."""
    if torch.compiler.is_compiling() or tokens.device.type != "cpu":
        return False
    return choose(backend, "cpu", 1) == "cpu"


def cross_scan(
    tokens: Tensor,
    ahead: Direction,
    behind: Direction,
    ahead_order: Tensor,
    behind_order: Tensor,
    *,
    index_weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    attention: Tensor | None,
    score: Tensor | None,
    centre: int,
    by_feature: bool,
    halves: bool,
    eps: float,
) -> Tensor:
    """Scan tokens along some orders from both ends, let them decay, merge them and normalise over the channels.

    Args:
        tokens: (B, L, d_inner) in raster order.
        ahead, behind: the parameters of the two directions; behind runs from the other end.
        ahead_order, behind_order: (n_orders, n) int64, the tokens as each direction sees them.
        index_weight: (n,), factor of the decay by place.
        norm_weight, norm_bias, eps: (d_inner,) each and a number, of the layer norm.
        attention: (3,), of the sequence attention on what is normalised: weights of the channels' maximum and mean, and
            the bias; None for none.
        score: (S, d_inner), of the token learner, which averages the tokens after that, weighed by the softmax of their
            scores; None for all the tokens.
        centre: the token that the decay keeps; by_feature: it decays by the distance of the features as well.
        halves: the directions are halves that share their last token, else each is the whole sequence.
    Returns:
        (B * n_orders, S, d_inner), or L tokens in raster order instead of S, in the tokens' dtype; the orders of a row
        together; computed in float32 or better.
    Source: Zhou et al. 2025; the same as the modules of `models` one after another, which are the reference.
    """
    given = (tokens, list(ahead), list(behind), ahead_order, behind_order, index_weight, norm_weight, norm_bias)
    parameters = (tokens, *ahead, *behind, norm_weight, norm_bias, attention, score)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in parameters)
    return operator(*given, attention, score, centre, by_feature, halves, eps, keep)[0]


@torch.library.custom_op(
    "mim::cross_scan", mutates_args=(), schema=f"({TENSORS}, {OPTIONS}, bool keep) -> (Tensor, Tensor)"
)
def operator(
    tokens, ahead, behind, ahead_order, behind_order, index_weight, norm_weight, norm_bias, attention, score, *options
):
    """What `cross_scan` gives, and what the way back needs of it where `keep` asks for it."""
    constants = (index_weight, norm_weight, norm_bias, attention, score)
    y, kept = torch.ops.mim_cpu.cross_scan(
        *_prepared(tokens, ahead, behind, ahead_order, behind_order, *constants), *options
    )
    return y.to(tokens.dtype), kept


@torch.library.custom_op(
    "mim::cross_scan_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor kept, {TENSORS}, {OPTIONS}) -> Tensor[]",
)
def backward(
    grad,
    kept,
    tokens,
    ahead,
    behind,
    ahead_order,
    behind_order,
    index_weight,
    norm_weight,
    norm_bias,
    attention,
    score,
    *options,
):
    """The gradients of tokens, ahead, behind, norm_weight, norm_bias and, if any, attention and score, in one list."""
    constants = (index_weight, norm_weight, norm_bias, attention, score)
    grads = torch.ops.mim_cpu.cross_scan_backward(
        grad.to(kept.dtype).contiguous(),
        kept,
        *_prepared(tokens, ahead, behind, ahead_order, behind_order, *constants),
        *options,
    )
    return [x.to(like.dtype) for x, like in zip(grads, _leaves(tokens, ahead, behind, *constants[1:]), strict=True)]


def _prepared(tokens, ahead, behind, ahead_order, behind_order, *constants):
    """As the C++ takes them: contiguous, numbers of one type, float32 or better."""
    dtype = torch.promote_types(tokens.dtype, torch.float32)

    def as_dtype(x):
        return x if x is None else x.to(dtype).contiguous()

    directions = [[as_dtype(x) for x in direction] for direction in (ahead, behind)]
    orders = (ahead_order.contiguous(), behind_order.contiguous())
    return as_dtype(tokens), *directions, *orders, *map(as_dtype, constants)


def _leaves(tokens, ahead, behind, norm_weight, norm_bias, attention, score) -> list[Tensor]:
    """What has a gradient, in the order of `backward`."""
    return [x for x in (tokens, *ahead, *behind, norm_weight, norm_bias, attention, score) if x is not None]


@operator.register_fake
def _(
    tokens, ahead, behind, ahead_order, behind_order, w, g, b, attention, score, centre, by_feature, halves, eps, keep
):
    rows, n, d_inner = tokens.shape[0] * ahead_order.shape[0], ahead_order.shape[1], tokens.shape[2]
    n_out = 2 * n - 1 if halves else n
    y = tokens.new_empty(rows, n_out if score is None else score.shape[0], d_inner)
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    return y, tokens.new_empty(rows if keep else 0, 2, n, d_inner, dtype=dtype)


@backward.register_fake
def _(grad, kept, tokens, ahead, behind, ahead_order, behind_order, w, norm_weight, norm_bias, attention, score, *_):
    leaves = _leaves(tokens, ahead, behind, norm_weight, norm_bias, attention, score)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in leaves]


def _save(ctx, inputs, output):
    tokens, ahead, behind, *rest = inputs
    ctx.set_materialize_grads(False)  # or what is kept would get a gradient of zeros, as large as itself
    ctx.options, ctx.n_ahead = rest[7:-1], len(ahead)
    ctx.save_for_backward(output[1], tokens, *ahead, *behind, *rest[:7])


def _backward(ctx, grad, _):
    kept, tokens, *parameters = ctx.saved_tensors
    n = ctx.n_ahead
    ahead, behind, constants = parameters[:n], parameters[n : 2 * n], parameters[2 * n :]
    of_tokens, *grads = backward(grad, kept, tokens, ahead, behind, *constants, *ctx.options)
    of_ahead, of_behind, rest = grads[:n], grads[n : 2 * n], iter(grads[2 * n :])
    of_constants = [None, *(x if x is None else next(rest) for x in constants[3:])]  # index_weight has none
    return of_tokens, of_ahead, of_behind, None, None, *of_constants, *[None] * 5


operator.register_autograd(_backward, setup_context=_save)
operator.register_autocast("cpu", torch.float32)  # leaves float64 as it is


def _flops(scan, n_products, n_learner, tokens, ahead, behind, ahead_order, behind_order, rest) -> int:
    """Operations by shapes: of the scans, and of matrix products, n_products times those of the projections."""
    _, _, _, _, score, _, _, halves, *_ = rest
    total = 0
    for (_, _, x_weight, dt_weight, _, A, _), (n_orders, length) in ((ahead, ahead_order), (behind, behind_order)):
        u = (tokens[0] * n_orders, length, tokens[2])
        per_token = x_weight[0] * x_weight[1] + dt_weight[0] * dt_weight[1]
        total += scan(u, A) + n_products * 2 * u[0] * length * per_token
    if score is not None:
        merged = 2 * length - 1 if halves else length
        total += n_learner * 2 * u[0] * merged * score[0] * score[1]
    return total


@register_flop_formula(torch.ops.mim.cross_scan)
def _(tokens, ahead, behind, ahead_order, behind_order, *rest, **__):
    return _flops(scan_flops, 1, 2, tokens, ahead, behind, ahead_order, behind_order, rest)


@register_flop_formula(torch.ops.mim.cross_scan_backward)
def _(grad, kept, tokens, ahead, behind, ahead_order, behind_order, *rest, **__):
    return _flops(scan_backward_flops, 3, 5, tokens, ahead, behind, ahead_order, behind_order, rest)
