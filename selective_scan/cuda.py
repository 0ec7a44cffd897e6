"""The selective scan on CUDA: the grids of csrc/kernels.cuh, its workspace, and the sums over its parts."""

import ctypes
import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from selective_scan.cache import BuildError
from selective_scan.compile_cuda import cached_by_nvcc, compile_with_nvcc, compile_with_nvrtc
from selective_scan.driver import DriverError, Module

MAX_STATES = 128
# Rows of the batch are summed in this many groups, one after another, whatever the card: so the gradients that are sums
# over the batch always have the same parts.
MAX_GROUPS = 512
STEPS = 8  # of a chunk, as in kernels.cuh
TYPES = {torch.float32: "float", torch.float64: "double"}


def struct(name: str, pointers: str, numbers: str = "", **others: type) -> type[ctypes.Structure]:
    """A structure of the kernels: pointers, then ints, then others by their types."""
    fields = [(field, ctypes.c_void_p) for field in pointers.split()]
    fields += [(field, ctypes.c_int) for field in numbers.split()]
    return type(name, (ctypes.Structure,), {"_fields_": [*fields, *others.items()]})


def pointers(*tensors: Tensor | None) -> Iterator[int | None]:
    """The addresses of some tensors' numbers."""
    return (x if x is None else x.data_ptr() for x in tensors)


Inputs = struct("Inputs", "u delta B C A0 A1 D0 D1 bias0 bias1", "softplus batch length channels states distance each")
_Gradients = struct("_Gradients", "u delta A B C D bias", "distance groups")


class _Layout(NamedTuple):
    """How a block shares its work; as in kernels.cuh."""

    padded: int  # states
    split: int  # threads of a channel
    threads: int

    @property
    def channels(self) -> int:
        return self.threads // self.split


def _layout(states: int, most_states: int, most_threads: int) -> _Layout:
    padded = max(4, 1 << (states - 1).bit_length())
    split = max(1, padded // most_states)
    return _Layout(padded, split, min(most_threads, 64 * split))


@functools.cache
def fault() -> str | None:
    """Say why this back end cannot be used here, or None if it can; its kernels are compiled if they have not been."""
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        module(torch.device("cuda", torch.cuda.current_device()))
    except BuildError as error:
        return str(error)
    return None


def describe() -> str:
    """Say what compiled the kernels, for what, and which device runs them."""
    device = torch.device("cuda", torch.cuda.current_device())
    compiler, version, *archs = module(device).image.stem.split("-")
    return f"{compiler} {version} for {', '.join(archs)}, on {torch.cuda.get_device_name(device)} ({_arch(device)})"


def _arch(device: torch.device) -> str:
    return "{}{}".format(*torch.cuda.get_device_capability(device))


@functools.cache
def module(device: torch.device) -> Module:
    """The kernels on a device, from the first image that can be made and that the driver takes."""
    arch, reasons = _arch(device), []
    for image in (cached_by_nvcc, lambda arch: compile_with_nvcc([arch]), compile_with_nvrtc):
        try:
            return Module(image(arch), device)
        except (BuildError, DriverError) as error:
            reasons.append(str(error))
    raise BuildError("; ".join(reasons))


def forward(u, delta, A, B, C, D, delta_bias, delta_softplus) -> Tensor:
    """y of contiguous tensors of one type, float32 or float64, on one CUDA device.

    Raises:
        ValueError: more than MAX_STATES states, or a size that an int does not hold.
    """
    y = torch.empty_like(u)
    launch_forward(_inputs(u, delta, A, B, C, D, delta_bias, delta_softplus), u, A, y)
    return y


def backward(grad_y, u, delta, A, B, C, D, delta_bias, delta_softplus) -> tuple[Tensor, ...]:
    """The gradients of the seven tensors, empty ones if D or the bias is absent; as for `forward`."""
    inputs = _inputs(u, delta, A, B, C, D, delta_bias, delta_softplus)
    tiles = n_tiles(u, A)
    to_B, to_C = u.new_empty(tiles, *B.shape), u.new_empty(tiles, *C.shape)
    given = gradients(inputs, grad_y, u, A, to_B, to_C, A.shape[1], D is not None, delta_bias is not None)
    grad_u, grad_delta, *parameters = given
    grad_A, grad_D, grad_bias = (x[0] if len(x) else x for x in parameters)
    return grad_u, grad_delta, grad_A, sum_parts(to_B), sum_parts(to_C), grad_D, grad_bias


def gradients(
    inputs: ctypes.Structure,
    grad_y: Tensor,
    u: Tensor,
    A: Tensor,
    to_B: Tensor,
    to_C: Tensor,
    distance: int,
    has_D: bool = True,
    has_bias: bool = True,
    kinds: int = 1,
) -> tuple[Tensor, ...]:
    """The gradients of u, delta, A, D and the bias, those of the parameters one for each kind of rows.

    Args:
        inputs: of the kernels.
        grad_y: the gradient of y.
        u, A: give the sizes; u is (batch, L, d) or (kinds, batch / kinds, L, d).
        to_B, to_C: get the gradients of B and C as parts, one for each tile of channels.
        distance: numbers between two steps there.
        has_D, has_bias: whether there are any; if not, their gradient is empty.
        kinds: how many sequences of rows have parameters of their own.
    """
    length, channels = u.shape[-2:]
    rows = u.shape[:-2].numel() // kinds
    layout, groups, tiles = _layout(A.shape[1], 4, 256), min(rows, MAX_GROUPS), n_tiles(u, A)
    checkpoints = u.new_empty(kinds * groups, tiles, (length - 1) // STEPS, layout.threads * 4)
    grad_u, grad_delta, parts_A = torch.empty_like(u), torch.empty_like(u), u.new_empty(kinds, groups, *A.shape)
    parts_D, parts_bias = (
        u.new_empty((kinds, groups * layout.split, channels) if there else 0) for there in (has_D, has_bias)
    )
    parts = (parts_A, to_B, to_C, parts_D, parts_bias)
    out = _Gradients(*pointers(grad_u, grad_delta, *parts), distance, groups)
    _launch("backward", u, layout, kinds * groups, inputs, _pointer(grad_y), out, _pointer(checkpoints))
    return grad_u, grad_delta, *(x if x.ndim == 1 else x.sum(1) for x in (parts_A, parts_D, parts_bias))


def sum_parts(parts: Tensor) -> Tensor:
    """Sum over the first axis."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


def n_tiles(u: Tensor, A: Tensor) -> int:
    """Tiles of channels in the backward pass."""
    return _tiles(u.shape[-1], _layout(A.shape[1], 4, 256))


def _tiles(channels: int, layout: _Layout) -> int:
    return -(-channels // layout.channels)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _inputs(u, delta, A, B, C, D, delta_bias, delta_softplus) -> ctypes.Structure:
    if A.shape[1] > MAX_STATES:
        raise ValueError(f"the CUDA kernels take up to {MAX_STATES} states, not {A.shape[1]}")
    if max(u.shape) >= 2**31:
        raise ValueError(f"the CUDA kernels take sizes below 2^31, not {tuple(u.shape)}")
    given = pointers(u, delta, B, C, A, A, D, D, delta_bias, delta_bias)
    return Inputs(*given, delta_softplus, *u.shape, A.shape[1], A.shape[1], u.shape[0])


def launch_forward(inputs: ctypes.Structure, u: Tensor, A: Tensor, y: Tensor) -> None:
    """Write y; u is (..., L, d), of all rows."""
    _launch("forward", u, _layout(A.shape[1], 8, 128), u.shape[:-2].numel(), inputs, _pointer(y))


def _launch(name: str, u: Tensor, layout: _Layout, rows: int, *arguments) -> None:
    if rows > 0:  # a grid cannot be empty
        kernel = f"mim_{name}_{TYPES[u.dtype]}_{layout.padded}"
        grid = (rows, _tiles(u.shape[-1], layout), 1)
        module(u.device).launch(kernel, grid, (layout.threads, 1, 1), arguments)
