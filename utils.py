"""Seeds, devices, whole files, and the one kind of error that is the user's to fix.

PyTorch is imported by the functions that need it, so that the command line answers at once.
"""

import contextlib
import ctypes
import difflib
import functools
import hashlib
import math
import os
import platform
import random
import re
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

VERSION = "0.2.0"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
EAGER = "eager, neither torch.compile nor CUDA graphs"  # benchmarks/choices.py says why
GRAPHS = "training steps as CUDA graphs, the rest eager"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SOURCES = (".py", ".cpp", ".cu", ".cuh", ".h", ".toml")
NOT_OURS = ("benchmarks", "tests")  # no result depends on them


class InputError(ValueError):
    """Something that the user gave is wrong; the message says what, where, and what to do."""


def printable(text: str) -> str:
    r"""Escape the control characters of a text but for line ends and tabs, so that no name commands a terminal."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def no_such_file(path: Path) -> InputError:
    """Make the error for a path that is no regular file."""
    if path.exists() and not path.is_dir():
        return InputError(f"{path} is a pipe or a device, not a regular file; give a file")
    return InputError(f"{path} is a folder; give a file" if path.is_dir() else f"{path}: no such file")


def plain_name(name: str) -> str:
    """Give a name as it is compared with others: without regard to case, "-" and "_"."""
    return name.lower().replace("-", "").replace("_", "")


def did_you_mean(name: str, choices: Collection[str]) -> str:
    """Give " (did you mean X?)", X the choice that is nearest to a wrong name, or "" if none is close."""
    plain = {plain_name(choice): choice for choice in choices}
    close = difflib.get_close_matches(plain_name(name), plain, n=1)
    return f" (did you mean {plain[close[0]]}?)" if close else ""


def match_name(name: str, choices: Collection[str], what: str, aliases: Mapping[str, str] | None = None) -> str:
    """Find a name among the choices, without regard to case, "-" and "_".

    Args:
        name: what the user typed.
        choices: the names to choose from.
        what: what they name, for the message.
        aliases: other names that are understood, with the choice that each stands for.
    Returns:
        The choice, as it is spelled there.
    Raises:
        InputError: no choice has that name; the message lists the choices, and the nearest one if it is close.
    """
    aliases = aliases or {}
    known = {plain_name(choice): choice for choice in choices}
    known |= {plain_name(alias): choice for alias, choice in aliases.items()}
    if plain_name(name) in known:
        return known[plain_name(name)]
    hint = did_you_mean(name, [*aliases, *choices])
    raise InputError(f"unknown {what} {name!r}{hint}; choose from {', '.join(choices)}")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch and ask for deterministic algorithms, so that a run repeats to the bit."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False


def choose_device(cuda: int | None, local_rank: int = 0) -> "torch.device":
    """Give the device to run on: -1 the CPU, N the N-th GPU, None the GPU of the rank on its machine or else the CPU.

    Float32 is float32 on it from here on: convolutions and matrix products are not rounded to TF32.

    Raises:
        InputError: a GPU by number that this machine lacks.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cuda is None:
        return torch.device(f"cuda:{local_rank % n_devices}" if n_devices else "cpu")
    if cuda == -1:
        return torch.device("cpu")
    if not 0 <= cuda < n_devices:
        usable = f"it has {n_devices} (0 to {n_devices - 1})" if n_devices else "it has none"
        raise InputError(f"--cuda {cuda}: this machine has no such GPU that PyTorch can use, {usable}; -1 is the CPU")
    return torch.device(f"cuda:{cuda}")


def share_cores() -> None:
    """Have OpenMP's threads leave the cores to other processes; to be called before PyTorch is imported.

    A thread that waits for work sleeps, unless OMP_WAIT_POLICY is set. If a container grants fewer cores than the
    machine has, there are only as many threads, unless OMP_NUM_THREADS is set.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cores = granted_cores()
    if cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def granted_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores that this process may use: of the machine, of its affinity, of its cgroup's quota.

    Args:
        cgroup: where the quota is, as version 1 or 2 of cgroups has it.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            if float(quota) > 0:
                cores = min(cores, math.ceil(float(quota) / float(period)))
        except (OSError, ValueError):  # there is no such file, or no limit: "max"
            continue
    return max(1, cores)


def granted_memory(device: "torch.device | None" = None, cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory of a GPU, or those that this process may use: of the machine, of its cgroup's limit.

    Args:
        device: None for the CPU.
        cgroup: where the limit is, as version 1 or 2 of cgroups has it.
    Returns:
        None if the system does not say it.
    """
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            memory = min(memory, int(path.read_text()))
    return memory


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees for what it needs next, where its C library is glibc.

    Else blocks above some 100 KiB go back to the system after each operator and come again page by page, zeroed, which
    takes a sixth of the time of mapping. Blocks above 32 MiB still go back.
    """
    try:
        glibc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    glibc.mallopt(M_TRIM_THRESHOLD, 2**30)
    glibc.mallopt(M_MMAP_THRESHOLD, 2**25)


def start_command(processes: int) -> str:
    """How to start the command line in so many processes."""
    return "python main.py" if processes == 1 else f"torchrun --nproc_per_node={processes} main.py"


def count_flops(model: "torch.nn.Module", example: "torch.Tensor") -> int:
    """Operations of one forward pass in evaluation mode, a multiply-add as two; the model's mode is kept.

    Counted by torch.utils.flop_counter: matrix products and convolutions wherever they are called, nothing elementwise.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    model.eval()
    with torch.no_grad():
        model(example)  # operators that are loaded on first use must be known to the counter
        with FlopCounterMode(display=False) as counter:
            model(example)
    model.train(was_training)
    return counter.get_total_flops()


def describe_machine(device: "torch.device", execution: str = EAGER) -> dict[str, str | None]:
    """Versions of what computed, the device, and the project's git commit ("+" if files differ from it)."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "mim": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "device": f"{device}: {name}",
        "threads": str(torch.get_num_threads()),
        "execution": execution,
        "git_commit": _git_commit(),
        "code": _code(),
    }


@functools.cache
def _code() -> str:
    """SHA-256 of the source files that a result can depend on."""
    home, digest = Path(__file__).parent, hashlib.sha256()
    for file in source_files():
        digest.update(file.relative_to(home).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def source_files() -> list[Path]:
    """Give the project's source files: the modules at the top level, and everything in the packages beside them."""
    home = Path(__file__).parent
    packages = [init.parent for init in home.glob("*/__init__.py") if init.parent.name not in NOT_OURS]
    files = [*home.glob("*.py"), *(file for package in packages for file in package.rglob("*.*"))]
    return sorted(file for file in files if file.suffix in SOURCES)


def _git_commit() -> str | None:
    """Give the git commit of the project's folder, None if it is not a git repository."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all: beside its place first, then moved there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk does not say for what
        raise


def fingerprint(*arrays: np.ndarray | None) -> str:
    """SHA-256 over the types, shapes and values of some arrays, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none")
        else:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def fingerprint_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
