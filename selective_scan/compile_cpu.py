"""Compile csrc/cpu.cpp for this machine, once, on first use or ahead."""

import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

from selective_scan.cache import BuildError, build_once, cache_folder

SOURCES = Path(__file__).parent / "csrc"
COMPILERS = ("c++", "g++", "clang++")
STABLE_ABI = (2, 10)  # first PyTorch whose stable ABI has what the source uses
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared"]
FLAGS += ["-DTORCH_TARGET_VERSION=0x020a000000000000"]
NATIVE = {
    "x86_64": ["-march=native", "-mprefer-vector-width=512"],
    "amd64": ["-march=native"],
    "aarch64": ["-mcpu=native"],
}


@functools.cache
def load_cpu() -> Path:
    """Load the C++ back end, `torch.ops.mim_cpu`, built first if need be.

    Returns:
        The library's path.
    Raises:
        BuildError: no compiler, a compiler that fails, or a PyTorch that is too old.
    """
    library = build_cpu()
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise BuildError(f"{library} cannot be loaded; delete {library.parent} and try again") from error
    return library


def build_cpu() -> Path:
    """Compile csrc/cpu.cpp into the cache, unless it has been compiled already; then no compiler is needed.

    Returns:
        The library's path.
    Raises:
        BuildError: as for `load_cpu`.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < STABLE_ABI:
        raise BuildError(f"PyTorch {torch.__version__} is older than 2.10")
    return build_once(cache_folder() / _key() / "mim_cpu.so", _compile, "C++ selective scan")


def _compiler() -> list[str]:
    """The command that $CXX names, with its flags, or the first compiler found."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise BuildError(f"the compiler that CXX names, {named[0]}, cannot be run; unset CXX or name another")
        return named
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise BuildError(f"there is no C++ compiler ({', '.join(COMPILERS)})")
    return [found]


def _compile(library: Path) -> None:
    compiler = _compiler()
    torch_flags = [f"-I{path}" for path in include_paths()]
    for path in library_paths():
        torch_flags += [f"-L{path}", f"-Wl,-rpath,{path}"]
    tuned = NATIVE.get(platform.machine().lower(), [])
    fault = ""
    for extra in dict.fromkeys((tuple(tuned), ())):  # a compiler that does not know this machine builds for any
        command = [*compiler, *FLAGS, *extra, *torch_flags, str(SOURCES / "cpu.cpp"), "-o", str(library), "-ltorch_cpu"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            return
        fault = failure(result)
    raise BuildError(f"{shlex.join(compiler)} failed: {fault}")


def failure(result: subprocess.CompletedProcess) -> str:
    """The line of a compiler's output that says why it failed."""
    lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if "collect2" not in line and ("error" in line or "fatal" in line)]
    space = [line for line in lines if "No space left" in line]
    return next(iter((*space, *errors, *lines[-1:])), f"exit code {result.returncode}")


def _key() -> str:
    """What the library depends on: sources, flags, PyTorch, and this kind of processor."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(path.read_bytes())
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else [platform.processor()]
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    digest.update("\n".join([torch.__version__, torch.__file__, platform.machine(), kind, *FLAGS]).encode())
    return digest.hexdigest()[:16]
