"""A cache of compiled files: each is made once, even by several processes, and made again if it is damaged."""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

log = logging.getLogger(__name__)


class BuildError(RuntimeError):
    """A back end cannot be built here; the message says why."""


def cache_folder() -> Path:
    """Give the folder in the user's cache, or in $XDG_CACHE_HOME if that is an absolute path.

    Raises:
        BuildError: the user has no home folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise BuildError(f"there is no folder to keep it in ({error}); set XDG_CACHE_HOME") from error
    return base / "mim-selective-scan"


def build_once(path: Path, make: Callable[[Path], object], what: str) -> Path:
    """Make a file unless it exists and is whole; one of several processes makes it.

    Args:
        path: the file; its checksum is kept beside it.
        make: writes it to the path that it is given, or raises BuildError.
        what: its name, for the log.
    Returns:
        `path`.
    Raises:
        BuildError: `make` failed, or the folder cannot be written.
    """
    try:
        if _whole(path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        with lock:
            if not _whole(path):
                _make(path, make, what)
        Path(lock.lock_file).unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(
            f"it cannot be kept in {path.parent} ({error.strerror or error}); set XDG_CACHE_HOME to another folder"
        ) from error
    return path


def _make(path: Path, make: Callable[[Path], object], what: str) -> None:
    for left in path.parent.glob(f"{path.name}.*.tmp"):  # of a process that was killed
        left.unlink(missing_ok=True)
    started, scratch = time.perf_counter(), path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        make(scratch)
        if not scratch.is_file():
            raise BuildError("the compiler ended without an error, but wrote nothing")
        _checksum_file(path).write_text(_checksum(scratch))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    log.info("built the %s in %.0f s (kept in %s)", what, time.perf_counter() - started, path.parent)


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _whole(path: Path) -> bool:
    kept = _checksum_file(path)
    return path.is_file() and kept.is_file() and kept.read_text() == _checksum(path)
