"""A map that is not complete yet: its folder, its arrays, and which pixels are done, so that it can be resumed."""

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
Interval = tuple[int, int]  # number of the first pixel, and of the one after the last


@dataclass
class PartialMap:
    """Keep the folder of a mapping and which of its pixels are done.

    Attributes:
        folder: holds the arrays.
        job: what is mapped with which network; only the same job resumes in the folder.
        done: numbers of the pixels that were done when this process started.
        lock: held by the first of the processes.
    """

    folder: Path
    job: dict
    done: list[Interval]
    lock: FileLock | None

    @classmethod
    def open(cls, home: Path, job: dict, parts: dict, ranks: Ranks) -> "PartialMap":
        """Open the newest folder in `home` in which this job was interrupted, or a new one.

        Args:
            home: holds the folders of all mappings of the scene.
            job: plain values.
            parts: shape and type of each array, by name.
            ranks: the first process chooses the folder, the others use the same.
        """
        if not ranks.first:
            opened = json.loads(ranks.wait_for("mapping"))
            return cls(Path(opened["folder"]), job, [(first, last) for first, last in opened["done"]], None)
        partial = cls._interrupted(home, job, parts) or cls._new(home, job)
        ranks.publish("mapping", json.dumps({"folder": str(partial.folder), "done": partial.done}))
        return partial

    @classmethod
    def _interrupted(cls, home, job, parts) -> "PartialMap | None":
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
            except (InputError, KeyError, TypeError, ValueError):  # of another program, or damaged
                lock.release()
        return None

    @classmethod
    def _new(cls, home, job) -> "PartialMap":
        folder = results.make_folder(home)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
        results.write_json(folder / PROGRESS, {"job": job, "done": []})
        return cls(folder, job, [], lock)

    def note(self, done: list[Interval], rank: int) -> None:
        """Write which pixels this process has done."""
        if rank == 0:
            results.write_json(self.folder / PROGRESS, {"job": self.job, "done": merged([*self.done, *done])})
        else:
            results.write_json(self.folder / f"progress-{rank}.json", {"job": self.job, "done": done})

    def finish(self) -> None:
        """Delete the files that are needed only to resume."""
        (self.folder / PROGRESS).unlink()  # first: without it no mapping resumes in this folder
        for pattern in ("progress-*.json", "*.part", "*.full"):
            for file in self.folder.glob(pattern):
                file.unlink()


def merged(intervals: list[Interval]) -> list[Interval]:
    """Return the same numbers in as few intervals as possible, ascending."""
    out: list[Interval] = []
    for first, last in sorted(intervals):
        if out and first <= out[-1][1]:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        elif first < last:
            out.append((first, last))
    return out


def work_of_rank(done: list[Interval], total: int, step: int, ranks: Ranks) -> list[Interval]:
    """Return the numbers that are left for this process.

    Args:
        done: numbers that are done, see `merged`.
        total: number of all.
        step: intervals begin and end at multiples of this, or at the total.
        ranks: this process and the others; the processes differ by one step at most.
    """
    undone, begin = [], 0
    for first, last in [*done, (total, total)]:
        undone += range(begin // step, -(-first // step))
        begin = last
    mine = undone[len(undone) * ranks.rank // ranks.world : len(undone) * (ranks.rank + 1) // ranks.world]
    return merged([(number * step, min((number + 1) * step, total)) for number in mine])


def open_array(path: Path, shape: tuple[int, ...], dtype) -> np.memmap:
    """Open an array in a file, or create it if the file does not exist; its disk space is allocated at once."""
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
