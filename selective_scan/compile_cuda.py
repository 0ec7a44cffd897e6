"""Compile csrc/kernels.cuh into an image that the CUDA driver loads: by nvcc, or by NVRTC, which comes with PyTorch."""

import ctypes
import ctypes.util
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from selective_scan.cache import BuildError, build_once, cache_folder
from selective_scan.compile_cpu import failure

NAMES = ("kernels.cuh", "around_scan.cuh", "attention.cuh", "tile.cuh", "recurrence.h")
SOURCE, *HEADERS = (Path(__file__).parent / "csrc" / name for name in NAMES)
FLAGS = ["--std=c++17", "--ftz=true", "--prec-div=false"]  # for both compilers

WHAT = "CUDA selective scan"


def cached_by_nvcc(arch: str) -> Path:
    """An image that nvcc made before, maybe on another machine, and that runs on an architecture such as "90".

    Raises:
        BuildError: no image is cached.
    """
    for image in sorted(_folder().glob("nvcc-*.fatbin"), reverse=True):
        built = [int(name.removeprefix("sm_")) for name in image.stem.split("-")[2:]]
        same_generation = any(one // 10 == int(arch) // 10 and one <= int(arch) for one in built)
        if same_generation or max(built) < int(arch):  # the highest is there as PTX too
            return image
    raise BuildError(f"there is no image made ahead for sm_{arch}")


def compile_with_nvcc(archs: Sequence[str]) -> Path:
    """Compile for architectures such as "80" and "90", and for later ones as PTX, unless it has been done.

    Raises:
        BuildError: no nvcc, or it fails.
    """
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = (home and shutil.which("nvcc", path=Path(home) / "bin")) or shutil.which("nvcc")
    if nvcc is None:
        raise BuildError("there is no nvcc, neither in $CUDA_HOME/bin nor on the PATH")
    archs = sorted(archs, key=int)
    targets = [f"--generate-code=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    targets.append(f"--generate-code=arch=compute_{archs[-1]},code=compute_{archs[-1]}")

    def compile_to(path: Path) -> None:
        _run([nvcc, "-O3", *FLAGS, *targets, "--fatbin", "-x", "cu", str(SOURCE), "-o", str(path)])

    version = re.search(r"V([\d.]+)", _run([nvcc, "--version"]))
    name = "-".join(["nvcc", version[1] if version else "unknown", *(f"sm_{arch}" for arch in archs)])
    return build_once(_folder() / f"{name}.fatbin", compile_to, WHAT)


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"{command[0]} failed: {failure(result)}")
    return result.stdout


def compile_with_nvrtc(arch: str) -> Path:
    """Compile for one architecture such as "90", unless it has been done.

    Raises:
        BuildError: no NVRTC, or it fails.
    """
    nvrtc = _nvrtc()
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    name = f"nvrtc-{major.value}.{minor.value}-sm_{arch}.cubin"
    return build_once(_folder() / name, lambda path: path.write_bytes(_cubin(nvrtc, arch)), WHAT)


def _cubin(nvrtc: ctypes.CDLL, arch: str) -> bytes:
    program = ctypes.c_void_p()

    def array(texts):
        return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))

    def result(what: str) -> bytes:
        size = ctypes.c_size_t()
        nvrtc[f"nvrtcGet{what}Size"](program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        nvrtc[f"nvrtcGet{what}"](program, text)
        return text.raw

    texts, names = [path.read_text(encoding="utf-8") for path in HEADERS], [path.name for path in HEADERS]
    source = SOURCE.read_bytes(), SOURCE.name.encode(), len(HEADERS), array(texts), array(names)
    options = [*FLAGS, f"--gpu-architecture=sm_{arch}"]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), *source)
    try:
        if nvrtc.nvrtcCompileProgram(program, len(options), array(options)) != 0:
            lines = result("ProgramLog").rstrip(b"\0").decode(errors="replace").splitlines()
            raise BuildError(
                f"NVRTC failed: {next((line for line in lines if 'error' in line), 'it does not say why')}"
            )
        return result("CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    for library in _nvrtc_libraries():
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    raise BuildError("there is no NVRTC library; pip install nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12 for CUDA 12")


def _nvrtc_libraries() -> Iterator[str]:
    """Names and paths to try: PyTorch's, which may be loaded already, those of pip packages, the system's."""
    if torch.version.cuda:
        yield f"libnvrtc.so.{torch.version.cuda.split('.')[0]}"
    packages = importlib.util.find_spec("nvidia")
    folders = [
        Path(torch.__file__).parent / "lib",
        *map(Path, (packages and packages.submodule_search_locations) or ()),
    ]
    for folder in folders:
        for pattern in ("libnvrtc.so*", "libnvrtc-*.so*", "nvrtc64_*_0.dll"):
            found = (path for path in folder.rglob(pattern) if "builtins" not in path.name and ".alt" not in path.name)
            yield from map(str, sorted(found, reverse=True))
    found = ctypes.util.find_library("nvrtc")
    if found:
        yield found


def _folder() -> Path:
    """Of the images, which depend on the sources and flags; their names say the rest."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in (SOURCE, *HEADERS):
        digest.update(path.read_bytes())
    return cache_folder() / f"cuda-{digest.hexdigest()[:16]}"
