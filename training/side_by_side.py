"""Several runs at a time on one GPU: each on a stream of its own, in turn, a training step after another."""

import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

import stops
from models import MODELS
from reporting.run_folder import Run
from reporting.run_report import write_pictures_and_page
from training.config import RunConfig
from utils import InputError

MOST = 16  # runs at a time
WAITING = "waiting"  # what a run yields while another process works for it

Work = Generator[Any, None, Any]


def most_at_a_time(configs: list[RunConfig], device: torch.device, *, shared: bool) -> int:
    """Return how many runs of a command may be trained at a time; those that `Job.uses_graphs` are independent."""
    alone = any(
        config.radiation_augmentation
        or config.mixture_augmentation
        or (config.optimiser, config.schedule) != ("adamw", "one_cycle")
        or not config.epoch  # fitted at once, on the CPU
        or MODELS[config.model].looks_at == "scene"
        for config in configs
    )
    return 1 if device.type != "cuda" or shared or alone else min(MOST, len(configs))


def in_turn(works: Iterable[tuple[int, Work]], device: torch.device, most: int) -> Iterator[tuple[int, Any]]:
    """Advance several generators in turn, each with a stream of its own if there may be more than one.

    Args:
        works: a number and a generator for each; the next one is taken when there is room and memory for it.
        device: of all.
        most: generators at a time.
    Yields:
        The number of each that has ended, and what it returned, or the InputError or FloatingPointError that ended it.
    Raises:
        KeyboardInterrupt: the process was asked to stop; each of several generators has come to a safe point.
    """
    with stops.deferred() if most > 1 else contextlib.nullcontext():
        yield from _in_turn(works, device, most)


def _in_turn(works: Iterable[tuple[int, Work]], device: torch.device, most: int) -> Iterator[tuple[int, Any]]:
    waiting, active = iter(works), {}
    try:
        while True:
            while len(active) < most and not (most > 1 and stops.requested()) and _has_room(device, len(active)):
                entry = next(waiting, None)
                if entry is None:
                    break
                number, work = entry
                active[number] = work, torch.cuda.Stream(device) if most > 1 else None
                yield from _advance(active, [number], most)[1]
            if not active:
                return
            busy, ended = _advance(active, list(active), most)
            yield from ended
            if not busy:
                time.sleep(0.01)
    finally:
        for work, _ in active.values():
            work.close()


def _advance(active: dict, numbers: list[int], most: int) -> tuple[bool, list[tuple[int, Any]]]:
    """Take one step of some generators; says whether any did more than wait, and which have ended with what."""
    busy, ended = False, []
    for number in numbers:
        work, stream = active[number]
        try:
            with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                busy |= next(work) != WAITING
            continue
        except StopIteration as end:
            ended.append((number, end.value))
        except (InputError, FloatingPointError) as error:
            ended.append((number, error))
        except KeyboardInterrupt:
            if most == 1 or not stops.requested():
                raise
            ended.append((number, None))  # it has saved its state; now the others do
        del active[number]
        busy = True
    return busy, ended


def _has_room(device: torch.device, n: int) -> bool:
    return n == 0 or _has_memory(device, n)


def _has_memory(device: torch.device, n: int) -> bool:
    """Whether twice as much is free as each of n runs has taken on average."""
    free, _ = torch.cuda.mem_get_info(device)
    return free > 2 * torch.cuda.memory_reserved(device) / n


@contextlib.contextmanager
def drawing(at_a_time: int) -> Iterator[Callable[[Run, str], Work]]:
    """Give `write_pictures_and_page` as a generator that yields while it waits.

    If several runs are trained at a time, other processes draw, so that training goes on meanwhile.
    """
    if at_a_time == 1:
        yield _draw_here
        return
    workers = min(at_a_time, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), stops.leave_to_parent) as pool:
        for _ in range(workers):  # they start while the runs are trained
            pool.submit(importlib.import_module, write_pictures_and_page.__module__)

        def draw(run: Run, command: str) -> Work:
            future = pool.submit(write_pictures_and_page, run, command)
            while not future.done():
                yield WAITING
                if stops.requested():
                    future.cancel()
                    raise KeyboardInterrupt
            future.result()

        yield draw


def _draw_here(run: Run, command: str) -> Work:
    yield WAITING
    write_pictures_and_page(run, command)
