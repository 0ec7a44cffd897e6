"""The selective scan on CUDA: the grids of csrc/kernels.cuh, its workspace, and the sums over its parts."""

import ctypes
import functools
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


def _struct(name: str, pointers: str, numbers: str = "") -> type[ctypes.Structure]:
    fields = [(field, ctypes.c_void_p) for field in pointers.split()]
    fields += [(field, ctypes.c_int) for field in numbers.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


_Inputs = _struct("_Inputs", "u delta A B C D bias", "softplus batch length channels states")
_Gradients = _struct("_Gradients", "u delta A B C D bias")


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
        _module(torch.device("cuda", torch.cuda.current_device()))
    except BuildError as error:
        return str(error)
    return None


def describe() -> str:
    """Say what compiled the kernels, for what, and which device runs them."""
    device = torch.device("cuda", torch.cuda.current_device())
    compiler, version, *archs = _module(device).image.stem.split("-")
    return f"{compiler} {version} for {', '.join(archs)}, on {torch.cuda.get_device_name(device)} ({_arch(device)})"


def _arch(device: torch.device) -> str:
    return "{}{}".format(*torch.cuda.get_device_capability(device))


@functools.cache
def _module(device: torch.device) -> Module:
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
    layout = _layout(A.shape[1], 16, 128)
    y = torch.empty_like(u)
    inputs = _inputs(u, delta, A, B, C, D, delta_bias, delta_softplus)
    _launch("forward", u, layout, u.shape[0], inputs, _pointer(y))
    return y


def backward(grad_y, u, delta, A, B, C, D, delta_bias, delta_softplus) -> tuple[Tensor, ...]:
    """The gradients of the seven tensors, empty ones if D or the bias is absent; as for `forward`."""
    batch, length, channels = u.shape
    layout = _layout(A.shape[1], 4, 256)
    groups, tiles = min(batch, MAX_GROUPS), _tiles(channels, layout)
    checkpoints = u.new_empty(groups, tiles, (length - 1) // STEPS, layout.threads * 4)
    parts_D, parts_bias = (
        u.new_empty(0) if x is None else u.new_empty(groups * layout.split, channels) for x in (D, delta_bias)
    )
    parts = u.new_empty(groups, *A.shape), u.new_empty(tiles, *B.shape), u.new_empty(tiles, *C.shape)
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
    inputs = _inputs(u, delta, A, B, C, D, delta_bias, delta_softplus)
    out = _Gradients(*(x.data_ptr() for x in (grad_u, grad_delta, *parts, parts_D, parts_bias)))
    _launch("backward", u, layout, groups, inputs, _pointer(grad_y), out, _pointer(checkpoints))
    return grad_u, grad_delta, *map(_sum, parts), _sum(parts_D), _sum(parts_bias)


def _sum(parts: Tensor) -> Tensor:
    if parts.ndim == 1:  # absent
        return parts
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _tiles(channels: int, layout: _Layout) -> int:
    return -(-channels // layout.channels)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _inputs(u, delta, A, B, C, D, delta_bias, delta_softplus) -> ctypes.Structure:
    if A.shape[1] > MAX_STATES:
        raise ValueError(f"the CUDA kernels take up to {MAX_STATES} states, not {A.shape[1]}")
    if max(u.shape) >= 2**31:
        raise ValueError(f"the CUDA kernels take sizes below 2^31, not {tuple(u.shape)}")
    pointers = (x if x is None else x.data_ptr() for x in (u, delta, A, B, C, D, delta_bias))
    return _Inputs(*pointers, delta_softplus, *u.shape, A.shape[1])


def _launch(name: str, u: Tensor, layout: _Layout, rows: int, *arguments) -> None:
    if rows > 0:  # a grid cannot be empty
        kernel = f"mim_{name}_{TYPES[u.dtype]}_{layout.padded}"
        grid = (rows, _tiles(u.shape[2], layout), 1)
        _module(u.device).launch(kernel, grid, (layout.threads, 1, 1), arguments)
