"""All that a T-Mamba does between its projections and its tokens as one operator with its gradient, for the CPU."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from selective_scan.backends import choose
from selective_scan.scan_op import scan_backward_flops, scan_flops


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


SIDES = ("ahead", "behind")
PARAMETERS = [f"Tensor {side}_{field}" for side in SIDES for field in Direction._fields]  # lists would cost time
TENSORS = ["Tensor tokens", *PARAMETERS, "Tensor ahead_order", "Tensor behind_order", "Tensor index_weight"]
TENSORS += ["Tensor norm_weight", "Tensor norm_bias", "Tensor? attention", "Tensor? score"]
OPTIONS = "int centre, bool by_feature, bool halves, float eps"
N_EACH, N_TENSORS = len(Direction._fields), len(TENSORS)
GIVEN = f"{', '.join(TENSORS)}, {OPTIONS}"


class Tensors(NamedTuple):
    """The operators' tensors, sorted."""

    tokens: Tensor
    ahead: tuple
    behind: tuple
    ahead_order: Tensor
    behind_order: Tensor
    index_weight: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    attention: Tensor | None
    score: Tensor | None

    @classmethod
    def of(cls, given) -> "Tensors":
        """From the first N_TENSORS arguments."""
        return cls(
            given[0], given[1 : 1 + N_EACH], given[1 + N_EACH : 1 + 2 * N_EACH], *given[1 + 2 * N_EACH : N_TENSORS]
        )

    def leaves(self) -> list[Tensor]:
        """What has a gradient, in the order of `backward`."""
        leaves = (self.tokens, *self.ahead, *self.behind, self.norm_weight, self.norm_bias, self.attention, self.score)
        return [x for x in leaves if x is not None]


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
    orders = (ahead_order, behind_order)
    given = (tokens, *ahead, *behind, *orders, index_weight, norm_weight, norm_bias, attention, score)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    return operator(*given, centre, by_feature, halves, eps, keep)[0]


@torch.library.custom_op("mim::cross_scan", mutates_args=(), schema=f"({GIVEN}, bool keep) -> (Tensor, Tensor)")
def operator(*given):
    """What `cross_scan` gives, and what the way back needs of it where `keep` asks for it."""
    y, kept = torch.ops.mim_cpu.cross_scan(*_prepared(given), *given[N_TENSORS:])
    return y.to(given[0].dtype), kept


@torch.library.custom_op(
    "mim::cross_scan_backward", mutates_args=(), schema=f"(Tensor grad, Tensor kept, {GIVEN}) -> Tensor[]"
)
def backward(grad, kept, *given):
    """The gradients of tokens, ahead, behind, norm_weight, norm_bias and, if any, attention and score, in one list."""
    grad = grad.to(kept.dtype).contiguous()
    grads = torch.ops.mim_cpu.cross_scan_backward(grad, kept, *_prepared(given), *given[N_TENSORS:])
    return [x.to(like.dtype) for x, like in zip(grads, Tensors.of(given).leaves(), strict=True)]


def _prepared(given) -> Tensors:
    """As the C++ takes them: contiguous, numbers of one type, float32 or better."""
    dtype = torch.promote_types(given[0].dtype, torch.float32)

    def prepared(x):
        return x if x is None else (x if x.dtype in (dtype, torch.int64) else x.to(dtype)).contiguous()

    return Tensors.of([prepared(x) for x in given[:N_TENSORS]])


@operator.register_fake
def _(*given):
    t, halves, keep = Tensors.of(given), *given[-3::2]
    (n_orders, n), d_inner = t.ahead_order.shape, t.tokens.shape[2]
    rows, n_out = t.tokens.shape[0] * n_orders, 2 * n - 1 if halves else n
    y = t.tokens.new_empty(rows, n_out if t.score is None else t.score.shape[0], d_inner)
    dtype = torch.promote_types(t.tokens.dtype, torch.float32)
    return y, t.tokens.new_empty(rows if keep else 0, 2, n, d_inner, dtype=dtype)


@backward.register_fake
def _(grad, kept, *given):
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in Tensors.of(given).leaves()]


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)  # or what is kept would get a gradient of zeros, as large as itself
    ctx.options = inputs[N_TENSORS:-1]
    ctx.save_for_backward(output[1], *inputs[:N_TENSORS])


def _backward(ctx, grad, _):
    kept, *given = ctx.saved_tensors
    grads = iter(backward(grad, kept, *given, *ctx.options))
    first = [next(grads) for _ in range(1 + 2 * N_EACH)]
    norm = [next(grads), next(grads)]
    optional = [x if x is None else next(grads) for x in given[-2:]]
    return *first, None, None, None, *norm, *optional, *[None] * 5


operator.register_autograd(_backward, setup_context=_save)
operator.register_autocast("cpu", torch.float32)  # leaves float64 as it is


def _flops(scan, n_products, n_learner, given) -> int:
    """Operations by shapes: of the scans, and of matrix products, n_products times those of the projections."""
    t, halves = Tensors.of(given), given[N_TENSORS + 2]
    total = 0
    for parameters, (n_orders, length) in ((t.ahead, t.ahead_order), (t.behind, t.behind_order)):
        _, _, x_weight, dt_weight, _, A, _ = parameters
        u = (t.tokens[0] * n_orders, length, t.tokens[2])
        per_token = x_weight[0] * x_weight[1] + dt_weight[0] * dt_weight[1]
        total += scan(u, A) + n_products * 2 * u[0] * length * per_token
    if t.score is not None:
        merged = 2 * length - 1 if halves else length
        total += n_learner * 2 * u[0] * merged * t.score[0] * t.score[1]
    return total


@register_flop_formula(torch.ops.mim.cross_scan)
def _(*given, **__):
    return _flops(scan_flops, 1, 2, given)


@register_flop_formula(torch.ops.mim.cross_scan_backward)
def _(grad, kept, *given, **__):
    return _flops(scan_backward_flops, 3, 5, given)
