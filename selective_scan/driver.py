"""Kernels loaded and launched through the CUDA driver, whatever compiled them, on PyTorch's current stream."""

import ctypes
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
POINTER, UNSIGNED = ctypes.c_void_p, ctypes.c_uint
SIGNATURES = {  # all return a code, 0 for success
    "cuInit": (UNSIGNED,),
    "cuGetErrorString": (ctypes.c_int, POINTER),
    "cuDeviceGet": (POINTER, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (POINTER, ctypes.c_int),
    "cuCtxPushCurrent_v2": (POINTER,),
    "cuCtxPopCurrent_v2": (POINTER,),
    "cuModuleLoadData": (POINTER, ctypes.c_char_p),
    "cuModuleGetFunction": (POINTER, POINTER, ctypes.c_char_p),
    "cuLaunchKernel": (POINTER, *[UNSIGNED] * 7, POINTER, POINTER, POINTER),
}


class DriverError(RuntimeError):
    """The CUDA driver is missing or refused a call; the message says which."""


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DriverError(f"the CUDA driver cannot be loaded ({error})") from error
    for name, types in SIGNATURES.items():
        getattr(library, name).argtypes = types
    return library


def _call(name: str, *arguments) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code != 0:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise DriverError(f"{name} failed: {(text.value or b'unknown error').decode()} ({code})")


class Module:
    """An image of kernels on one device, in the context that PyTorch uses there."""

    def __init__(self, image: Path, device: torch.device):
        self.image, self.device = image, device
        self._context, self._module, self._functions = POINTER(), POINTER(), {}
        number = ctypes.c_int()
        _call("cuInit", 0)
        _call("cuDeviceGet", ctypes.byref(number), device.index)
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), number)
        self._within("cuModuleLoadData", ctypes.byref(self._module), image.read_bytes())

    def _within(self, name: str, *arguments) -> None:
        """Call with the device's context current: a thread of autograd may have another one, or none."""
        _call("cuCtxPushCurrent_v2", self._context)
        try:
            _call(name, *arguments)
        finally:
            _call("cuCtxPopCurrent_v2", ctypes.byref(POINTER()))

    def _function(self, name: str) -> ctypes.c_void_p:
        if name not in self._functions:
            function = POINTER()
            self._within("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
            self._functions[name] = function
        return self._functions[name]

    def launch(self, name: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence) -> None:
        """Start a kernel on the current stream; nothing waits for it.

        Args:
            grid, block: their three sizes.
            arguments: ctypes values, of the kernel's types in its order.
        """
        pointers = (POINTER * len(arguments))(*map(ctypes.addressof, arguments))
        stream = torch.cuda.current_stream(self.device).cuda_stream
        self._within("cuLaunchKernel", self._function(name), *grid, *block, 0, stream, pointers, None)
