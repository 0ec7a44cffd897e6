"""How fast the networks train and map, beside peers and the machine's own rate, and how time and memory grow.

python -m benchmarks.speed --json speed.json                                   # all of it, about an hour on two cores
python -m benchmarks.speed --parts table peers --patches 7 --rounds 3          # a quarter of an hour

All figures are medians of rounds in which the measured take turns, so that other work on the machine hits all alike;
compare their ratios, not those of different runs. The machine's rate is that of a thin matrix product, 12544 x 128 by
128 x 128, in the same rounds; a network whose products are larger can come to a share of it above 1. Scenes are noise
and the networks untrained.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch

import engine
import mapping
from benchmarks.bench_selective_scan import print_table, pscan
from benchmarks.peers import ItemLoader, PatchByPatch
from models import MODELS, create_model
from patches import Augmentation, PatchLoader
from utils import count_flops, keep_freed_memory

THIN = (12544, 128, 128)
N_CLASSES, LIMIT_GIB = 16, 16.0
GROWTH = {"patch": (5, 7, 11, 15), "bands": (50, 100, 200, 400), "batch": (16, 32, 64, 128), "scene": (24, 34, 48, 68)}


class Silent:
    """A monitor that shows nothing."""

    def epoch(self, record, model):
        pass


class Subject:
    """A network with a scene to train on and to map.

    Args:
        name, patch_size, bands, batch: a key of MODELS, and the sizes.
        side: of the scene to map, at least the patch's.
        scan_peer, loader_peer: with mambapy's scan; with a DataLoader that cuts patches one by one.
        precision: a key of `engine.PRECISIONS`.
    """

    def __init__(
        self, name, patch_size, bands=200, batch=64, side=32, *, scan_peer=False, loader_peer=False, precision="float32"
    ):
        torch.manual_seed(0)
        self.precision = precision
        self.scan_peer, self.loader_peer, self.batch = scan_peer, loader_peer, batch
        options = {"scan_backend": "reference"} if scan_peer else {}
        self.model = create_model(name, n_bands=bands, n_classes=N_CLASSES, patch_size=patch_size, **options)
        self.bands, self.patch_size = bands, patch_size
        self.cube = torch.randn(max(side, patch_size), max(side, patch_size), bands)
        self.pixels = torch.ones(self.cube.shape[:2]).nonzero()
        self.targets = torch.arange(len(self.pixels)) % N_CLASSES

    def _loader(self, n, batch, train) -> PatchLoader:
        """Make the loader, or the peer's, which is used in the same way."""
        chosen, targets = self.pixels.repeat(-(-n // len(self.pixels)), 1)[:n], torch.arange(n) % N_CLASSES
        if self.loader_peer:
            peer = ItemLoader(PatchByPatch(self.cube, chosen, targets, self.patch_size), batch, train)
            return cast(PatchLoader, peer)
        options = {"generator": torch.Generator().manual_seed(0), "augment": Augmentation()} if train else {}
        image = self.cube.permute(2, 0, 1)
        return PatchLoader(image, chosen, targets, patch_size=self.patch_size, batch_size=batch, **options)

    def _scan(self):
        """The scan of the peer in place of ours."""

        def scan(u, delta, A, B, C, D, *, delta_bias, **_):
            return pscan(u, delta, A, B, C, D, delta_bias)

        return mock.patch("models.ssm.selective_scan", scan) if self.scan_peer else mock.patch.dict({})

    def train(self, steps=4):
        """Seconds of one training step, patches included."""
        loader = self._loader(steps * self.batch, self.batch, train=True)
        with self._scan():
            started = time.perf_counter()
            engine.train(self.model, loader, None, engine.TrainConfig(1, precision=self.precision), Silent())
            return (time.perf_counter() - started) / steps

    def map(self, n=None):
        """Seconds to map a pixel; of the whole scene, or of n pixels."""
        n = min(n or len(self.pixels), len(self.pixels))
        with self._scan():
            started = time.perf_counter()
            if self.loader_peer:
                engine.evaluate(self.model, self._loader(n, mapping.PREDICT_BATCH, train=False))
            else:
                mapping.predict(self.model, self.cube, self.pixels[:n], precision=self.precision)
            return (time.perf_counter() - started) / n


def thin_product() -> float:
    """Seconds of the thin matrix product."""
    a, b = torch.ones(THIN[0], THIN[1]), torch.ones(THIN[1], THIN[2])
    torch.mm(a, b)
    started = time.perf_counter()
    for _ in range(5):
        torch.mm(a, b)
    return (time.perf_counter() - started) / 5


def in_rounds(calls: dict, rounds: int) -> dict:
    """Median seconds of each call; they take turns, after a round that does not count."""
    times = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            taken = call()
            if i:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def peak(what: str, name: str, patch_size: int, **sizes) -> float:
    """MiB that a training step ("train") or a map ("map") takes at its peak, in a process of its own."""
    code = f"from benchmarks.speed import growth_of_memory as g; print(g({what!r}, {name!r}, {patch_size}, **{sizes}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def growth_of_memory(what, name, patch_size, **sizes) -> float:
    """`peak`, in this process."""
    keep_freed_memory()
    Subject(name, patch_size, batch=2, side=2).train()  # loads what is loaded once
    subject, before = Subject(name, patch_size, **sizes), _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    subject.train(1) if what == "train" else subject.map()
    return (_resident("VmHWM") - before) / 2**20


def _resident(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(entry)).split()[1])


def fitting_batch(name: str, patch_size: int) -> int:
    """64, or the largest power of two below it whose training step fits into LIMIT_GIB."""
    batch, per_patch = 64, peak("train", name, patch_size, batch=8) / 8
    while batch > 1 and batch * per_patch > 1024 * LIMIT_GIB:
        batch //= 2
    return batch


def pixels_to_map(patch_size: int) -> int:
    """So many that a round takes seconds, whatever the patch."""
    return max(64, 60_000 // patch_size**2)


def flops_per_pixel(subject: Subject) -> int:
    """Operations of mapping a pixel: those of its patch, of whose pixels all but one are embedded for other patches."""
    patch = torch.zeros(1, subject.bands, subject.patch_size, subject.patch_size)
    embedding = 2 * subject.bands * asdict(subject.model.options)["dim"]
    return count_flops(subject.model, patch) - (subject.patch_size**2 - 1) * embedding


def table(names, patch_sizes, rounds) -> list[dict]:
    """A row for every network and patch size."""
    rows = []
    for patch_size in patch_sizes:
        batches = {name: fitting_batch(name, patch_size) for name in names}
        subjects = {name: Subject(name, patch_size, batch=batches[name]) for name in names}
        calls = {("thin", ""): thin_product}
        for name, subject in subjects.items():
            calls[name, "train"] = subject.train
            calls[name, "map"] = functools.partial(subject.map, pixels_to_map(patch_size))
        times = in_rounds(calls, rounds)
        rate = 2 * np.prod(THIN) / times["thin", ""]
        for name, subject in subjects.items():
            flops = flops_per_pixel(subject)
            rows.append(
                {"model": name, "patch": patch_size, "batch": batches[name]}
                | {"step_ms": 1e3 * times[name, "train"], "pixels_per_s": 1 / times[name, "map"]}
                | {"train_mib": peak("train", name, patch_size, batch=batches[name])}
                | {"map_mib": peak("map", name, patch_size), "mflop_per_mapped_pixel": flops / 1e6}
                | {"thin_gflops": rate / 1e9, "share_of_thin": flops / times[name, "map"] / rate}
            )
    return rows


def peers(names, patch_size, rounds) -> list[dict]:
    """Ours and the peers at one patch size, in the same rounds.

    Each has a process of its own: ours begins as main.py does, a peer as PyTorch comes, or also with freed memory kept.
    """
    loader, scan = {"loader_peer": True}, {"scan_peer": True}
    kinds = {  # whether freed memory is kept, and what is the peer's
        "ours": (True, {}),
        "DataLoader": (False, loader),
        "pscan": (False, scan),
        "pscan, DataLoader": (False, scan | loader),
        "pscan, DataLoader, memory kept": (True, scan | loader),
    }
    rows = []
    for name in names:
        with contextlib.ExitStack() as stack:
            calls, spawn = {}, multiprocessing.get_context("spawn")
            for kind, (keep, how) in kinds.items():
                if name == "CNN" and "scan_peer" in how:
                    continue
                process = ProcessPoolExecutor(1, spawn, _prepare, (keep, name, patch_size, how))
                stack.enter_context(process)
                calls[kind, "train"] = functools.partial(_seconds_in, process, "train")
                calls[kind, "map"] = functools.partial(_seconds_in, process, "map", 256)
            times = in_rounds(calls, rounds)
        for kind in dict.fromkeys(kind for kind, _ in calls):
            row = {"model": name, "kind": kind, "step_ms": 1e3 * times[kind, "train"]}
            row |= {"pixels_per_s": 1 / times[kind, "map"]}
            row |= {f"{what}_ratio": times[kind, what] / times["ours", what] for what in ("train", "map")}
            rows.append(row)
    return rows


def _prepare(keep: bool, name: str, patch_size: int, how: dict) -> None:
    """Makes the subject that this process measures."""
    global _subject
    if keep:
        keep_freed_memory()
    _subject = Subject(name, patch_size, **how)


def _measure(what: str, *args) -> float:
    return getattr(_subject, what)(*args)


def _seconds_in(process: ProcessPoolExecutor, what: str, *args) -> float:
    """What `Subject.train` or `Subject.map` returns there."""
    return process.submit(_measure, what, *args).result()


def growth(name, rounds) -> list[dict]:
    """Exponents of time and memory over each size, the others at patch 7, 200 bands, batch 64, scene 32 x 32."""
    rows = []
    for size, values in GROWTH.items():
        keys = {"patch": "patch_size", "scene": "side"}
        made: dict[int, dict[str, Any]] = {v: {"patch_size": 7} | {keys.get(size, size): v} for v in values}
        subjects = {v: Subject(name, **options) for v, options in made.items()}
        calls = {}
        for v, subject in subjects.items():
            calls[v, "train"] = subject.train
            calls[v, "map"] = lambda subject=subject: subject.map() * len(subject.pixels)
        used = ("map",) if size == "scene" else ("train",) if size == "batch" else ("train", "map")
        times = in_rounds({key: call for key, call in calls.items() if key[1] in used}, rounds)
        for what in used:
            memory = [peak(what, name, **options) for options in made.values()]
            x = [v * v for v in values] if size in ("patch", "scene") else values
            row = {
                "model": name,
                "what": what,
                "over": {"patch": "pixels of the patch", "scene": "pixels"}.get(size, size),
            }
            row |= {"values": x, "seconds": [times[v, what] for v in values], "mib": memory}
            for figure in ("seconds", "mib"):
                row[f"{figure}_exponent"] = np.polyfit(np.log(x), np.log(np.maximum(row[figure], 1e-3)), 1)[0]
            rows.append(row)
    return rows


def _show(title: str, rows: list[dict]) -> None:
    def text(x):
        if isinstance(x, (list, tuple)):
            return " ".join(map(text, x))
        return x if isinstance(x, str) else f"{x:,.0f}" if x == int(x) or abs(x) >= 1000 else f"{x:.3g}"

    print_table(title, [[text(x) for x in row.values()] for row in rows], list(rows[0]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", default=["table", "peers", "growth"], choices=["table", "peers", "growth"]
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--patches", nargs="+", type=int, default=[5, 7, 9, 11, 13, 15, 17, 19, 21])
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    keep_freed_memory()
    figures = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rounds": args.rounds}
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, float32, medians of {args.rounds} rounds")
    parts = {
        "table": ("Training and mapping", lambda: table(args.models, args.patches, args.rounds)),
        "peers": ("Peers at patch 7, times as multiples of ours", lambda: peers(args.models, 7, args.rounds)),
        "growth": ("Growth", lambda: growth(args.models[0], args.rounds)),
    }
    for part in args.parts:
        title, measure = parts[part]
        figures[part] = measure()
        _show(title, figures[part])
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
