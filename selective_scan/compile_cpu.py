"""Compile csrc/cpu.cpp for this machine, once, on first use or ahead; and where all that is compiled is kept."""

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import torch
from filelock import FileLock
from torch.utils.cpp_extension import include_paths, library_paths

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

log = logging.getLogger(__name__)


class BuildError(RuntimeError):
    """The back end cannot be built here; the message says why."""


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
        raise BuildError(f"{library} cannot be loaded ({error})") from error
    return library


def build_cpu() -> Path:
    """Compile csrc/cpu.cpp into the cache, unless it is there; several processes at once build it once.

    Returns:
        The library's path.
    Raises:
        BuildError: as for `load_cpu`.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < STABLE_ABI:
        raise BuildError(f"PyTorch {torch.__version__} is older than 2.10")
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise BuildError(f"there is no C++ compiler ({', '.join(COMPILERS)})")
    library = cache_folder() / _key(compiler) / "mim_cpu.so"
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(library.with_suffix(".lock")):
            if not library.exists():
                _compile(compiler, library)
    except OSError as error:
        raise BuildError(str(error)) from error
    return library


def _compile(compiler: str, library: Path) -> None:
    started = time.perf_counter()
    scratch = library.with_suffix(f".{os.getpid()}.tmp")
    torch_flags = [f"-I{path}" for path in include_paths()]
    for path in library_paths():
        torch_flags += [f"-L{path}", f"-Wl,-rpath,{path}"]
    tuned = NATIVE.get(platform.machine().lower(), [])
    for extra in dict.fromkeys((tuple(tuned), ())):  # a compiler that does not know this machine builds for any
        command = [compiler, *FLAGS, *extra, *torch_flags, str(SOURCES / "cpu.cpp"), "-o", str(scratch), "-ltorch_cpu"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode == 0:
            scratch.replace(library)
            seconds = time.perf_counter() - started
            log.info("built the C++ selective scan in %.0f s (kept in %s)", seconds, library.parent)
            return
    scratch.unlink(missing_ok=True)
    reason = next((line for line in result.stderr.splitlines() if "error" in line), f"exit code {result.returncode}")
    raise BuildError(f"{compiler} failed: {reason}")


def cache_folder() -> Path:
    """Where everything built here is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mim-selective-scan"


def _key(compiler: str) -> str:
    """What the library depends on: sources, compiler, PyTorch, and this kind of processor."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else [platform.processor()]
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    digest.update("\n".join([version, torch.__version__, torch.__file__, platform.machine(), kind, *FLAGS]).encode())
    return digest.hexdigest()[:16]
