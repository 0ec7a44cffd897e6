"""The back ends, which of them this machine can run, and which one a call gets.

A back end is a module with `fault()`, `describe()`, `forward` and `backward`; both take contiguous tensors of one type,
float32 or float64. `backward` takes the gradient of y first and returns those of the seven inputs, anything for D or
the bias if it is absent.
"""

import functools
import logging

from selective_scan import cpu, cuda, reference

BACKENDS = {"cuda": cuda, "cpu": cpu, "reference": reference}  # best first

log = logging.getLogger(__name__)


def available_backends() -> list[str]:
    """List the names that `selective_scan(backend=...)` takes on this machine, best first, without "auto".

    A back end that can be built here is built if it has not been yet.
    """
    return [name for name, back_end in BACKENDS.items() if back_end.fault() is None]


def fault_on(name: str, device_type: str, n_states: int) -> str | None:
    """Say why a back end cannot scan tensors on a device with N = `n_states`, or None if it can."""
    back_end = BACKENDS[name]
    if name != "reference" and name != device_type:
        there = back_end.fault()
        return f"the tensors are on {device_type}" + (f", and {there}" if there else "")
    if n_states > getattr(back_end, "MAX_STATES", n_states):
        return f"N = {n_states} is more than its {back_end.MAX_STATES}"
    return back_end.fault()


@functools.cache
def choose(backend: str, device_type: str, n_states: int) -> str:
    """Give the back end's name for a call; "auto" is the best one, with one warning if it is not the fast one.

    Raises:
        ValueError: unknown, or not usable here; the usable ones are named.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"unknown scan back end {backend!r}; choose from auto, {', '.join(BACKENDS)}")
    if backend == "auto":
        return _automatic(device_type, n_states)
    fault = fault_on(backend, device_type, n_states)
    if fault is not None:
        usable = [name for name in BACKENDS if fault_on(name, device_type, n_states) is None]
        raise ValueError(
            f"the scan back end {backend!r} cannot be used here: {fault}; usable: auto, {', '.join(usable)}"
        )
    return backend


def _automatic(device_type: str, n_states: int) -> str:
    if device_type not in BACKENDS:
        return "reference"
    fault = fault_on(device_type, device_type, n_states)
    if fault is None:
        return device_type
    _warn_once(fault)
    return "reference"


@functools.cache
def _warn_once(fault: str) -> None:
    log.warning("the selective scan runs in plain PyTorch, several times slower than compiled: %s", fault)
