"""The C++ back end: csrc/cpu.cpp, built on first use."""

import functools

import torch

from selective_scan.cache import BuildError
from selective_scan.compile_cpu import load_cpu


@functools.cache
def fault() -> str | None:
    """Say why this machine cannot run it, or None if it can."""
    try:
        load_cpu()
    except BuildError as error:
        return str(error)
    return None


def describe() -> str:
    """Say how it runs here, in a few words."""
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"C++, build {load_cpu().parent.name}, {vectors}, {torch.get_num_threads()} threads"


def _called(operator, *arguments):
    try:
        return operator(*arguments)
    except RuntimeError as error:
        if "API call failed" in str(error):  # what C++ throws is lost on the way; only memory can run out there
            raise MemoryError("the selective scan ran out of memory") from error
        raise


def forward(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """y; see `selective_scan`."""
    return _called(torch.ops.mim_cpu.forward, u, delta, A, B, C, D, delta_bias, delta_softplus)


def backward(grad_y, u, delta, A, B, C, D, delta_bias, delta_softplus):
    """The seven gradients; see `selective_scan`."""
    return _called(torch.ops.mim_cpu.backward, grad_y, u, delta, A, B, C, D, delta_bias, delta_softplus)
