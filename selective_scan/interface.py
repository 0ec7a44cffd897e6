"""The one function that the models call; it checks the shapes and hands over to a back end."""

import functools
import logging

import torch
from torch import Tensor

from selective_scan.build import BuildError, load_cpu
from selective_scan.native import NativeScan
from selective_scan.reference import reference_scan

BACKENDS = {"cpu": NativeScan.apply, "reference": reference_scan}  # best first

log = logging.getLogger(__name__)


def available_backends() -> list[str]:
    """Names that `selective_scan(backend=...)` takes on this machine, best first, "auto" left out.

    The C++ back end is built if it has not been yet.
    """
    return [name for name in BACKENDS if name != "cpu" or _cpu_fault() is None]


@functools.cache
def _cpu_fault() -> str | None:
    """Why the C++ back end cannot be used here, or None where it can."""
    try:
        load_cpu()
    except BuildError as error:
        return str(error)
    return None


@functools.cache
def _automatic(device_type: str) -> str:
    """The best back end for a device; says once where it is not the fast one."""
    if device_type != "cpu":
        return "reference"
    fault = _cpu_fault()
    if fault is None:
        return "cpu"
    log.warning("the selective scan runs in plain PyTorch, several times slower than in C++: %s", fault)
    return "reference"


def _choose(backend: str, device_type: str) -> str:
    if backend == "auto":
        return _automatic(device_type)
    if backend not in BACKENDS:
        raise ValueError(f"unknown scan back end {backend!r}; choose from auto, {', '.join(BACKENDS)}")
    if backend == "cpu" and (device_type != "cpu" or _cpu_fault() is not None):
        why = _cpu_fault() if device_type == "cpu" else f"the tensors are on {device_type}"
        raise ValueError(f"the scan back end 'cpu' cannot be used here: {why}; usable: auto, reference")
    return backend


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Run the selective state space recurrence along a sequence, in float32 or better.

        h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t,    h_0 = 0
        y_t = C_t h_t + D u_t

    Args:
        u: input sequence, (batch, L, d_inner).
        delta: step sizes, (batch, L, d_inner); positive, or anything with `delta_softplus`.
        A: state matrix, diagonal, (d_inner, N), negative for a stable recurrence.
        B, C: input and output vectors, (batch, L, N).
        D: skip weight, (d_inner,), or None for no skip.
        delta_bias: added to delta before anything else, (d_inner,).
        delta_softplus: pass delta (with its bias) through softplus.
        backend: a name from `available_backends()`, or "auto" for the best one.
    Returns:
        y, (batch, L, d_inner), in u's dtype.
    Raises:
        ValueError: unknown back end (the choices are named), or shapes that do not fit together.
    Source: Gu and Dao, arXiv 2312.00752, Algorithm 2 (with the simplified discretisation of B used there).
    """
    scan = BACKENDS[_choose(backend, u.device.type)]
    _check_shapes(u, delta, A, B, C, D, delta_bias)
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    tensors = [x if x is None else x.to(dtype) for x in (u, delta, A, B, C, D, delta_bias)]
    with torch.autocast(u.device.type, enabled=False):
        return scan(*tensors, delta_softplus).to(u.dtype)


def _check_shapes(u, delta, A, B, C, D, delta_bias):
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(f"u must be (batch, L, d_inner) and A (d_inner, N), not {tuple(u.shape)} and {tuple(A.shape)}")
    batch, length, d_inner = u.shape
    d_state = A.shape[1]
    if 0 in (length, d_inner, d_state):
        raise ValueError(f"L, d_inner and N must be at least 1, not {length}, {d_inner} and {d_state}")
    expected = {
        "delta": (delta, (batch, length, d_inner)),
        "A": (A, (d_inner, d_state)),
        "B": (B, (batch, length, d_state)),
        "C": (C, (batch, length, d_state)),
        "D": (D, (d_inner,)),
        "delta_bias": (delta_bias, (d_inner,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape} to fit u {tuple(u.shape)}, not {tuple(tensor.shape)}")
