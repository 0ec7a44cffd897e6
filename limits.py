"""Open the files of strangers within limits: regular files, whose content fits into a part of the memory."""

import math
import stat
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils import InputError, granted_memory, no_such_file

SMALL = 1 << 28  # bytes that the content of any file may take
RATIO = 100  # times its size that the content of a larger one may take
PART = 0.5  # of the memory that this process may use, which the content of a file may take
MOST_MEMBERS = 10_000  # arrays in a file
JSON_RATIO = 10  # times its size that a text takes once it is parsed, about
_set: dict[str, float] = {}  # what `raise_limit` was given


def raise_limit(gigabytes: float | None) -> None:
    """Let the content of a file take so much memory in this process; None for the usual limits."""
    _set.clear()
    if gigabytes is not None:
        _set["bytes"] = gigabytes * 1e9


def regular_file(path: Path) -> Path:
    """Give the path back if it is a regular file; InputError for a missing one, a folder, a pipe or a device."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        regular = False
    if not regular:
        raise no_such_file(path)
    return path


def read_text(path: Path) -> str:
    """Read a text that is parsed afterwards; InputError if it is no regular file or too long."""
    size = regular_file(path).stat().st_size
    Budget(path).take(JSON_RATIO * size)
    return path.read_text(encoding="utf-8")


def most_by_size(path: Path) -> float:
    """Give the bytes that the content of a file may have, judged by its size alone."""
    return max(SMALL, RATIO * path.stat().st_size, _set.get("bytes", 0))


def check_claim(path: Path, n_bytes: int, what: str) -> None:
    """Refuse a file that claims to hold more than one of its size does; for what is read some rows at a time.

    Raises:
        InputError: it holds `what`, of `n_bytes`.
    """
    if n_bytes > most_by_size(path):
        raise InputError(
            f"{path} claims to be {what}, {_gigabytes(n_bytes)}, which a file of its size rarely holds; fetch or copy "
            f"it again, or give --max_gigabytes {_enough(n_bytes)} if you trust it"
        )


class Budget:
    """The memory that the content of one file may take, all its parts together.

    Args:
        path: the file.
        by_size: whether the file's size limits it too; not if `check_claim` has compared them.
    """

    def __init__(self, path: Path, *, by_size: bool = True):
        self.path, self.taken = path, 0
        memory = granted_memory()
        usual = min(most_by_size(path) if by_size else math.inf, math.inf if memory is None else PART * memory)
        self.most = _set.get("bytes", usual)

    def take(self, n_bytes: int) -> None:
        """Count what is about to be read; InputError if it is too much."""
        self.taken += n_bytes
        if self.taken > self.most:
            raise InputError(
                f"{self.path} needs {_gigabytes(self.taken)} of memory, and a file of its size may take "
                f"{_gigabytes(self.most)} here; fetch or copy it again, or give --max_gigabytes "
                f"{_enough(self.taken)} if you trust it"
            )


def _enough(n_bytes: int) -> str:
    """Give gigabytes that are no less, with two digits."""
    digits = 1 - math.floor(math.log10(n_bytes / 1e9))
    return f"{math.ceil(n_bytes / 1e9 * 10**digits) / 10**digits:g}"


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.2f} GB"


@dataclass(frozen=True)
class Stored:
    """An array in a file, whose values are read when they are asked for.

    Attributes:
        shape, dtype: of the array.
        budget: of its file; None if the values are mapped into memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    budget: Budget | None = field(repr=False)
    _read: Callable[[], np.ndarray] = field(repr=False)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Read the values; InputError if the file is damaged or they take too much memory."""
        if self.budget is not None:
            self.budget.take(self.size * self.dtype.itemsize)
        return self._read()


def open_npz(path: Path) -> Mapping[str, Stored]:
    """Open the arrays of a .npz file by their names, without reading their values.

    Raises:
        InputError: it is no regular file.
        ValueError, OSError, zipfile.BadZipFile: it is damaged.
    """
    budget, arrays = Budget(regular_file(path)), {}
    with zipfile.ZipFile(path) as archive:
        members = [each for each in archive.infolist() if each.filename.endswith(".npy")]
        if len(members) > MOST_MEMBERS:
            raise ValueError(f"it holds more than {MOST_MEMBERS:,} arrays")
        for member in members:
            with archive.open(member) as file:
                shape, dtype = _head(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} is cut off or damaged")
            arrays[member.filename.removesuffix(".npy")] = Stored(shape, dtype, budget, _member(path, member.filename))
    return arrays


def _head(file) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and type at the beginning of a .npy file."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, dtype


def _member(path: Path, name: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return read
