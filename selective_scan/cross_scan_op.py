"""All that a T-Mamba does between its projections and its tokens as one operator with its gradient."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from selective_scan import cuda_cross_scan
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


class CrossScanArguments(NamedTuple):
    """What `cross_scan` takes, in the order of the operators' schema: what has a gradient comes first.

    Attributes:
        tokens: (B, L, d_inner) in raster order.
        ahead, behind: the parameters of the two directions; behind runs from the other end.
        norm_weight, norm_bias, eps: (d_inner,) each and a number, of the layer norm.
        attention: (3,), of the sequence attention on what is normalised: weights of the channels' maximum and mean, and
            the bias; None for none.
        score: (S, d_inner), of the token learner, which averages the tokens after that, weighed by the softmax of their
            scores; None for all the tokens.
        ahead_order, behind_order: (n_orders, n) int64, the tokens as each direction sees them, each once at most.
        index_weight: (n,), factor of the decay by place.
        centre: the token that the decay keeps; by_feature: it decays by the distance of the features as well.
        halves: the directions are halves that share their last token, else each is the whole sequence.
    """

    tokens: Tensor
    ahead: Direction
    behind: Direction
    norm_weight: Tensor
    norm_bias: Tensor
    attention: Tensor | None
    score: Tensor | None
    ahead_order: Tensor
    behind_order: Tensor
    index_weight: Tensor
    centre: int
    by_feature: bool
    halves: bool
    eps: float

    @classmethod
    def unpack(cls, flat) -> "CrossScanArguments":
        """From the operators' arguments; what follows them is left out."""
        ahead, behind, rest = 1, 1 + N_EACH, 1 + 2 * N_EACH
        return cls(flat[0], Direction(*flat[ahead:behind]), Direction(*flat[behind:rest]), *flat[rest:N_ARGUMENTS])

    def flat(self) -> tuple:
        """The operators' arguments: one for each tensor of a direction, as lists would cost time."""
        return (self.tokens, *self.ahead, *self.behind, *self[3:])


def _schema() -> str:
    kinds = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "int", bool: "bool", float: "float"}
    flat = []
    for name, kind in CrossScanArguments.__annotations__.items():
        parts = [f"{name}_{part}" for part in Direction._fields] if kind is Direction else [name]
        flat += [f"{kinds.get(kind, 'Tensor')} {part}" for part in parts]
    return ", ".join(flat)


def _place(name: str) -> int:
    """Place of a field behind the directions among the operators' arguments."""
    return CrossScanArguments._fields.index(name) + 2 * (N_EACH - 1)


N_EACH = len(Direction._fields)
N_LEAVES, N_TENSORS, N_ARGUMENTS = _place("ahead_order"), _place("centre"), _place("eps") + 1  # leaves have a gradient
SCHEMA = _schema()


def can_cross_scan(tokens: Tensor, orders: Tensor, n_states: int, backend: str) -> bool:
    """Whether `cross_scan` may be called: if it can be compiled for the device, and on CUDA takes the sizes.

    Args:
        tokens: (B, L, d_inner), as for `cross_scan`.
        orders: (n_orders, n), of one direction.
        n_states: N.
        backend: as for `selective_scan`.
    """
    device = tokens.device.type
    if torch.compiler.is_compiling() or device not in ("cpu", "cuda") or 0 in tokens.shape:
        return False
    if device == "cuda" and not cuda_cross_scan.fits(tokens, orders, n_states):
        return False
    return choose(backend, device, 1) == device


def cross_scan(arguments: CrossScanArguments) -> Tensor:
    """Scan tokens along some orders from both ends, let them decay, merge them and normalise over the channels.

    Returns:
        (B * n_orders, S, d_inner), or L tokens in raster order instead of S, in the tokens' dtype; the orders of a row
        together; computed in float32 or better.
    Source: Zhou et al. 2025; the same as the modules of `models` one after another, which are the reference.
    """
    flat = arguments.flat()
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in _leaves(flat))
    return operator(*flat, keep)[0]


@torch.library.custom_op("mim::cross_scan", mutates_args=(), schema=f"({SCHEMA}, bool keep) -> (Tensor, Tensor)")
def operator(*given):
    """The result of `cross_scan`, and if `keep`, what the backward pass needs of it, else an empty tensor."""
    *arguments, keep = given
    prepared = _prepared(arguments)
    if _on_cpu(given[0]):
        y, kept = torch.ops.mim_cpu.cross_scan(*prepared, keep)
    else:
        y, kept = cuda_cross_scan.forward(prepared, keep)
    return y.to(given[0].dtype), kept


@torch.library.custom_op(
    "mim::cross_scan_backward", mutates_args=(), schema=f"(Tensor grad, Tensor kept, {SCHEMA}) -> Tensor[]"
)
def backward(grad, kept, *given):
    """The gradients of the arguments that have one, absent ones left out."""
    grads = torch.ops.mim_cpu.cross_scan_backward(grad.to(kept.dtype).contiguous(), kept, *_prepared(given))
    return [x.to(leaf.dtype) for x, leaf in zip(grads, _leaves(given), strict=True)]


def _cuda_backward(grad, kept, *given):
    """What `backward` does, on CUDA: not an operator, as gradients that are views of one tensor would be copied."""
    grads = cuda_cross_scan.backward(grad.to(kept.dtype).contiguous(), kept, _prepared(given))
    return [x.to(leaf.dtype) for x, leaf in zip(grads, _leaves(given), strict=True)]


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _leaves(given) -> list[Tensor]:
    return [x for x in given[:N_LEAVES] if x is not None]


def _prepared(given) -> CrossScanArguments:
    """As the C++ takes them: contiguous, numbers of one type, float32 or better; the directions as lists."""
    dtype = torch.promote_types(given[0].dtype, torch.float32)

    def prepared(x):
        return x if x is None else (x if x.dtype in (dtype, torch.int64) else x.to(dtype)).contiguous()

    return CrossScanArguments.unpack([*map(prepared, given[:N_TENSORS]), *given[N_TENSORS:]])


@operator.register_fake
def _(*given):
    t, keep = CrossScanArguments.unpack(given), given[-1]
    (n_orders, n), d_inner = t.ahead_order.shape, t.tokens.shape[2]
    rows, n_out = t.tokens.shape[0] * n_orders, 2 * n - 1 if t.halves else n
    y = t.tokens.new_empty(rows, n_out if t.score is None else t.score.shape[0], d_inner)
    dtype = torch.promote_types(t.tokens.dtype, torch.float32)
    return y, t.tokens.new_empty(rows if keep else 0, 2, n, d_inner, dtype=dtype)


@backward.register_fake
def _(_grad, _kept, *given):
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in _leaves(given)]


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)  # or what is kept would get a gradient of zeros, as large as itself
    ctx.options = inputs[N_TENSORS:N_ARGUMENTS]
    ctx.save_for_backward(output[1], *inputs[:N_TENSORS])


def _backward(ctx, grad, _):
    kept, *tensors = ctx.saved_tensors
    back = backward if _on_cpu(grad) else _cuda_backward
    grads = iter(back(grad, kept, *tensors, *ctx.options))
    leaves = [x if x is None else next(grads) for x in tensors[:N_LEAVES]]
    return *leaves, *[None] * (N_ARGUMENTS + 1 - N_LEAVES)


operator.register_autograd(_backward, setup_context=_save)
for _device_type in ("cpu", "cuda"):
    operator.register_autocast(_device_type, torch.float32)  # leaves float64 as it is


def _flops(scan, n_products, n_learner, given) -> int:
    """Operations by shapes: of the scans, and of matrix products, n_products times those of the projections."""
    t = CrossScanArguments.unpack(given)
    total = 0
    for parameters, (n_orders, length) in ((t.ahead, t.ahead_order), (t.behind, t.behind_order)):
        u = (t.tokens[0] * n_orders, length, t.tokens[2])
        per_token = math.prod(parameters.x_weight) + math.prod(parameters.dt_weight)
        total += scan(u, parameters.A) + n_products * 2 * u[0] * length * per_token
    if t.score is not None:
        merged = 2 * length - 1 if t.halves else length
        total += n_learner * 2 * u[0] * merged * t.score[0] * t.score[1]
    return total


@register_flop_formula(torch.ops.mim.cross_scan)
def _(*given, **__):
    return _flops(scan_flops, 1, 2, given)


@register_flop_formula(torch.ops.mim.cross_scan_backward)
def _(_grad, _kept, *given, **__):
    return _flops(scan_backward_flops, 3, 5, given)
