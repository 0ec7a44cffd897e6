"""How far a mapping has come: its folder, the arrays in it, and the parts that are done; kept through a restart."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from reporting import results
from training.distributed import Ranks
from utils import InputError

PROGRESS, LOCK = "progress.json", "in-use.lock"
Interval = tuple[int, int]  # numbers of the first and after the last


@dataclass
class Progress:
    """A mapping's folder and what of it is done.

    Attributes:
        folder: where the parts lie.
        job: what is mapped with what; the same job goes on in the folder.
        done: numbers of the pixels that were done when this process came.
        lock: held by the first of the processes.
    """

    folder: Path
    job: dict
    done: list[Interval]
    lock: FileLock | None

    @classmethod
    def open(cls, home: Path, job: dict, parts: dict, ranks: Ranks) -> "Progress":
        """Open the newest folder in `home` where this very job was cut off, or a new one.

        Args:
            home: where the folders of all mappings of the scene lie.
            job: plain values.
            parts: shape and type of each array, by name.
            ranks: the first opens the folder, the others follow.
        """
        if not ranks.first:
            told = json.loads(ranks.hear("mapping"))
            return cls(Path(told["folder"]), job, [tuple(each) for each in told["done"]], None)
        progress = cls._cut_off(home, job, parts) or cls._new(home, job)
        ranks.tell("mapping", json.dumps({"folder": str(progress.folder), "done": progress.done}))
        return progress

    @classmethod
    def _cut_off(cls, home, job, parts) -> "Progress | None":
        for path in sorted(home.glob(f"*/{PROGRESS}"), reverse=True):
            lock = FileLock(path.parent / LOCK, timeout=0)
            try:
                lock.acquire()
                whole = all(_is_of_size(path.parent / f"{part}.part", *facts) for part, facts in parts.items())
                states = [results.read_json(path), *map(results.read_json, path.parent.glob("progress-*.json"))]
                if whole and all(isinstance(state, dict) and state.get("job") == job for state in states):
                    done = merged([tuple(each) for state in states for each in state["done"]])
                    results.write_json(path, {"job": job, "done": done})
                    for other in path.parent.glob("progress-*.json"):
                        other.unlink()
                    return cls(path.parent, job, done, lock)
                lock.release()
            except Timeout:  # another process is mapping there
                continue
            except (InputError, KeyError, TypeError, ValueError):  # not ours, or damaged
                lock.release()
        return None

    @classmethod
    def _new(cls, home, job) -> "Progress":
        folder = results.make_folder(home)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
        results.write_json(folder / PROGRESS, {"job": job, "done": []})
        return cls(folder, job, [], lock)

    def note(self, done: list[Interval], rank: int) -> None:
        """Write down what this process has done."""
        if rank == 0:
            results.write_json(self.folder / PROGRESS, {"job": self.job, "done": merged([*self.done, *done])})
        else:
            results.write_json(self.folder / f"progress-{rank}.json", {"job": self.job, "done": done})

    def finish(self) -> None:
        """Take away all that only a restart needs."""
        (self.folder / PROGRESS).unlink()  # first: from here on nothing goes on in this folder
        for pattern in ("progress-*.json", "*.part", "*.full"):
            for file in self.folder.glob(pattern):
                file.unlink()


def merged(intervals: list[Interval]) -> list[Interval]:
    """The same numbers in as few intervals as there can be, ascending."""
    out: list[Interval] = []
    for first, last in sorted(intervals):
        if out and first <= out[-1][1]:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        elif first < last:
            out.append((first, last))
    return out


def share_of(done: list[Interval], total: int, step: int, ranks: Ranks) -> list[Interval]:
    """What is left for one of several processes.

    Args:
        done: numbers that are done, see `merged`.
        total: how many there are.
        step: intervals begin and end at its multiples, or at the total.
        ranks: this process and the others; each gets as many steps as the others, or one more.
    """
    undone, begin = [], 0
    for first, last in [*done, (total, total)]:
        undone += range(begin // step, -(-first // step))
        begin = last
    mine = undone[len(undone) * ranks.rank // ranks.world : len(undone) * (ranks.rank + 1) // ranks.world]
    return merged([(number * step, min((number + 1) * step, total)) for number in mine])


def open_array(path: Path, shape: tuple[int, ...], dtype) -> np.memmap:
    """An array in a file, gone on with if it is there; its room on the disk is taken at once."""
    if not _is_of_size(path, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with path.open("wb") as file:
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
    return np.memmap(path, dtype, "r+", shape=shape)


def _is_of_size(path: Path, shape: tuple[int, ...], dtype) -> bool:
    return path.is_file() and path.stat().st_size == int(np.prod(shape)) * np.dtype(dtype).itemsize
