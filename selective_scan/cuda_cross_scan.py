"""The cross scan on CUDA: the kernels of csrc/around_scan.cuh, the scan's, and matrix products between them."""

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selective_scan import cuda
from selective_scan.cuda import pointers, struct

if TYPE_CHECKING:
    from selective_scan.cross_scan_op import CrossScanArguments

BLOCK, MOST_CHANNELS, MOST_LENGTH, MOST_PLACES = 256, 256, 448, 8192  # as in around_scan.cuh

_Convolution = struct(
    "_Convolution", "tokens order0 order1 weight0 weight1 bias0 bias1", "batch n_tokens n_orders length channels"
)
_MERGING = (
    "y order0 order1 index_weight gain offset attention",
    "rows n_orders length channels centre by_feature halves",
)
_Merging = {
    torch.float32: struct("_Merging32", *_MERGING, eps=ctypes.c_float),
    torch.float64: struct("_Merging64", *_MERGING, eps=ctypes.c_double),
}


def fits(tokens: Tensor, orders: Tensor, n_states: int) -> bool:
    """Whether the kernels take these sizes."""
    (n_orders, length), (_, n_tokens, channels) = orders.shape, tokens.shape
    return (
        channels <= MOST_CHANNELS
        and length <= MOST_LENGTH
        and 2 * n_orders * n_tokens <= MOST_PLACES
        and n_states <= cuda.MAX_STATES
    )


class _Kept:
    """What the backward pass needs of the forward pass, as views of one tensor.

    Attributes:
        x_weight, dt_weight: of both directions, (2, W, d) with W = rank + 2 N, and (2, d, rank).
        u, delta, y: (2, rows, L, d); delta before its bias and softplus.
        projected: (2, rows, L, W).
        merged, weights: of the learner, (rows, n, d) and (rows, n, S); None without one.
    """

    def __init__(self, t: "CrossScanArguments", flat: Tensor | None = None):
        n_orders, length = t.ahead_order.shape
        rows, d = t.tokens.shape[0] * n_orders, t.tokens.shape[2]
        n_projected, rank = len(t.ahead.x_weight), t.ahead.dt_weight.shape[1]
        n = 2 * length - 1 if t.halves else length
        sequence = (2, rows, length, d)
        shapes = [(2, n_projected, d), (2, d, rank), sequence, sequence, sequence, (2, rows, length, n_projected)]
        if t.score is not None:
            shapes += [(rows, n, d), (rows, n, len(t.score))]
        sizes = [-(-torch.Size(shape).numel() // 4) * 4 for shape in shapes]  # 16 bytes apart
        self.flat = t.tokens.new_empty(sum(sizes)) if flat is None else flat
        views = [
            part[: torch.Size(shape).numel()].view(shape)
            for part, shape in zip(self.flat.split(sizes), shapes, strict=True)
        ]
        self.x_weight, self.dt_weight, self.u, self.delta, self.y, self.projected = views[:6]
        self.merged, self.weights = views[6:] or (None, None)
        self.rows, self.rank = rows, rank

    def tokenwise(self, x: Tensor) -> Tensor:
        """(2, rows, L, n) as (2, rows * L, n)."""
        return x.flatten(1, 2)

    @property
    def low(self) -> Tensor:
        """What dt_weight makes delta of, (2, rows * L, rank)."""
        return self.tokenwise(self.projected)[..., : self.rank]


def forward(t: "CrossScanArguments", keep: bool) -> tuple[Tensor, Tensor]:
    """The result of `cross_scan`, and what the backward pass needs if `keep`, else an empty tensor."""
    kept = _Kept(t)
    torch.stack([t.ahead.x_weight, t.behind.x_weight], out=kept.x_weight)
    torch.stack([t.ahead.dt_weight, t.behind.dt_weight], out=kept.dt_weight)
    launch("convolve", (kept.rows, 2), _convolution(t), kept.u)
    tokenwise = kept.tokenwise
    torch.bmm(tokenwise(kept.u), kept.x_weight.mT, out=tokenwise(kept.projected))
    torch.bmm(kept.low, kept.dt_weight.mT, out=tokenwise(kept.delta))
    cuda.launch_forward(_scan(t, kept), kept.u, t.ahead.A, kept.y)
    n = 2 * kept.u.shape[2] - 1 if t.halves else kept.u.shape[2]
    merged = t.tokens.new_empty(kept.rows, n, t.tokens.shape[2]) if kept.merged is None else kept.merged
    launch("merge", (kept.rows, 1), _merging(t, kept), merged)
    if t.score is not None:
        assert kept.weights is not None
        torch.softmax(merged @ t.score.mT, 1, out=kept.weights)
        merged = kept.weights.mT @ merged
    return merged, kept.flat if keep else t.tokens.new_empty(0)


def backward(grad: Tensor, flat: Tensor, t: "CrossScanArguments") -> list[Tensor]:
    """The gradients of the arguments that have one, absent ones left out."""
    kept = _Kept(t, flat)
    tokenwise, d = kept.tokenwise, t.tokens.shape[2]
    groups = min(kept.rows, cuda.MAX_GROUPS)
    last = []
    if t.score is not None:
        assert kept.merged is not None
        assert kept.weights is not None
        merged, weights = kept.merged, kept.weights
        to_weights = merged @ grad.mT
        scores = torch.ops.aten._softmax_backward_data(to_weights, weights, 1, grad.dtype).flatten(0, 1)
        last = [scores.mT @ merged.flatten(0, 1)]
        grad = (weights @ grad).flatten(0, 1).addmm_(scores, t.score)
    grad_y, parts = torch.empty_like(kept.y), grad.new_zeros(groups, 2 * d + 3)
    launch("merge_backward", (groups, 1), _merging(t, kept), grad, grad_y, parts)
    gain, offset, attention = parts.sum(0).split([d, d, 3])
    last = [gain, offset, *([] if t.attention is None else [attention]), *last]

    states, n = t.ahead.A.shape[1], kept.projected.shape[-1]
    parts = grad.new_empty(cuda.n_tiles(kept.u, t.ahead.A), *kept.projected.shape)
    to_B, to_C = parts[..., kept.rank :], parts[..., kept.rank + states :]
    given = cuda.gradients(_scan(t, kept), grad_y, kept.u, t.ahead.A, to_B, to_C, n, kinds=2)
    grad_u, grad_delta, to_A, to_D, to_bias = given
    grad_u, grad_delta, projected = (tokenwise(x) for x in (grad_u, grad_delta, cuda.sum_parts(parts)))
    projected[..., : kept.rank] = grad_delta @ kept.dt_weight
    to_dt_weight, to_x_weight = (
        _weight_gradient(a, b, len(t.tokens)) for a, b in ((grad_delta, kept.low), (projected, tokenwise(kept.u)))
    )
    grad_u.baddbmm_(projected, kept.x_weight)

    parts = grad.new_zeros(groups, 2, 4, d)
    launch("convolve_backward", (groups, 2), _convolution(t), grad_u, parts)
    to_taps = parts.sum(0)
    grad_tokens = torch.empty_like(t.tokens)
    blocks = -(-t.tokens.shape[1] * d // BLOCK)  # of a sample
    launch("gather_gradients", (len(t.tokens), blocks), _convolution(t), grad_u, grad_tokens)
    each = to_taps[:, :3], to_taps[:, 3], to_x_weight, to_dt_weight, to_bias, to_A, to_D
    return [grad_tokens, *(x[0] for x in each), *(x[1] for x in each), *last]


def _weight_gradient(a: Tensor, b: Tensor, n: int) -> Tensor:
    """a^T b of (2, k, i) and (2, k, j), in n parts that run side by side: k is large, i and j are small."""
    a, b = (x.unflatten(1, (n, x.shape[1] // max(n, 1))) for x in (a, b))
    return (a.mT @ b).sum(1)


def _scan(t: "CrossScanArguments", kept: _Kept) -> ctypes.Structure:
    states, (_, rows, length, d) = t.ahead.A.shape[1], kept.u.shape
    B, C = kept.projected[..., kept.rank :], kept.projected[..., kept.rank + states :]
    pairs = (t.ahead.A, t.behind.A, t.ahead.D, t.behind.D, t.ahead.dt_bias, t.behind.dt_bias)
    sizes = (True, 2 * rows, length, d, states, kept.projected.shape[3], rows)
    return cuda.Inputs(*pointers(kept.u, kept.delta, B, C, *pairs), *sizes)


def _convolution(t: "CrossScanArguments") -> ctypes.Structure:
    tensors = (t.tokens, t.ahead_order, t.behind_order, t.ahead.conv_weight, t.behind.conv_weight)
    biases, (batch, n_tokens, d) = (t.ahead.conv_bias, t.behind.conv_bias), t.tokens.shape
    return _Convolution(*pointers(*tensors, *biases), batch, n_tokens, *t.ahead_order.shape, d)


def _merging(t: "CrossScanArguments", kept: _Kept) -> ctypes.Structure:
    tensors = (kept.y, t.ahead_order, t.behind_order, t.index_weight, t.norm_weight, t.norm_bias, t.attention)
    sizes = (kept.rows, *t.ahead_order.shape, kept.y.shape[3], t.centre, t.by_feature, t.halves)
    return _Merging[kept.y.dtype](*pointers(*tensors), *sizes, t.eps)


def launch(name: str, grid: tuple[int, int], settings: ctypes.Structure, *tensors: Tensor) -> None:
    """Launch a kernel in blocks of BLOCK threads; its arguments are a structure and what it reads or writes."""
    x = tensors[0]
    if 0 not in grid:  # a grid cannot be empty
        arguments = (settings, *map(ctypes.c_void_p, pointers(*tensors)))
        cuda.module(x.device).launch(f"mim_{name}_{cuda.TYPES[x.dtype]}", (*grid, 1), (BLOCK, 1, 1), arguments)
