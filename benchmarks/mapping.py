"""Map an ENVI file of any size, kill the run once, and show that memory stays flat and the result is the same.

python -m benchmarks.mapping --height 1000 --width 1000 --bands 100
python -m benchmarks.mapping --height 200 --width 200 --bands 25000    # 4 GB
python -m benchmarks.mapping --model MiM-v1 --patch_size 7 --height 2000 --width 2000 --bands 20 --smaller 8 4 2

The scene is noise and the network untrained: what is measured is memory, time and sameness, not accuracy. Each mapping
runs in a process of its own; the growth is its peak memory above that of mapping a scene of 16 x 16 pixels and 8 bands.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch

from models import create_model
from preprocessing import Preprocessing
from scenes.rasters import write_bands
from training.checkpoint import Checkpoint, model_facts


class Noise:
    """A cube (H, W, n_bands) that is drawn row by row as it is sliced."""

    def __init__(self, *shape):
        self.shape, self.dtype = shape, np.dtype(np.float32)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        rows = range(*rows.indices(self.shape[0]))
        drawn = [np.random.default_rng(row).standard_normal(self.shape[1:], np.float32) for row in rows]
        return np.stack(drawn) if drawn else np.empty((0, *self.shape[1:]), self.dtype)


def write_inputs(folder: Path, args, height: int, width: int, bands: int) -> list[str]:
    """Write a scene and a checkpoint; the command that maps the one with the other."""
    folder.mkdir()
    scene = folder / "scene.hdr"
    write_bands(scene, cast(np.ndarray, Noise(height, width, bands)), [f"band {i}" for i in range(bands)])
    torch.manual_seed(0)
    model = create_model(args.model, n_bands=bands, n_classes=9, patch_size=args.patch_size)
    preprocessing = Preprocessing("zscore", "scene", np.zeros(bands, np.float32), np.ones(bands, np.float32))
    Checkpoint(
        model=model_facts(args.model, model),
        preprocessing=preprocessing.state(),
        class_names=tuple(f"class {i}" for i in range(1, 10)),
        palette=("#1f77b4",) * 9,
        scene="noise",
        wavelengths=None,
        border="mirror",
        state={"weights": model.state_dict()},
    ).save(folder / "last.pt")
    return [sys.executable, "main.py", "--predict", str(scene), "--restore", str(folder / "last.pt"), "--cuda", "-1"]


def run(command, output: Path, kill_at: float | None = None) -> tuple[float, float]:
    """Peak memory in MiB and seconds of one mapping; killed once this share of the pixels is done."""
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--output", str(output)], stderr=subprocess.DEVNULL)
    look, done = os.WEXITED | os.WNOHANG | os.WNOWAIT, 0  # wait4 below wants to see it end itself
    while kill_at is not None and done < kill_at and os.waitid(os.P_PID, process.pid, look) is None:
        time.sleep(0.05)
        done = sum(last - first for path in output.rglob("progress.json") for first, last in _done(path))
    if kill_at is not None:
        os.kill(process.pid, signal.SIGKILL)
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def _done(path: Path) -> list[tuple[int, int]]:
    return json.loads(path.read_text())["done"]


def _show(pixels: int, seconds: float, growth: float) -> None:
    rate = f"{pixels / seconds:,.0f} px/s"
    print(f"{pixels:,} pixels mapped in {seconds:.0f} s, {rate}; memory grew by {growth:.0f} MiB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"height": 1000, "width": 1000, "bands": 100, "patch_size": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="CNN")
    parser.add_argument(
        "--smaller", nargs="*", type=int, default=[], help="also scenes with sides so many times smaller"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, pixels = Path(folder), args.height * args.width
        base, _ = run(write_inputs(home / "small", args, 16, 16, 8), home / "base")
        for factor in args.smaller:
            height, width = args.height // factor, args.width // factor
            peak, seconds = run(
                write_inputs(home / f"{factor}", args, height, width, args.bands), home / f"{factor} out"
            )
            _show(height * width, seconds, peak - base)
        command = write_inputs(home / "large", args, args.height, args.width, args.bands)
        size = (home / "large" / "scene.img").stat().st_size / 2**30
        print(f"{args.height} x {args.width} x {args.bands}, {size:.2f} GiB, {args.model}, patch {args.patch_size}")
        peak, seconds = run(command, home / "whole")
        _show(pixels, seconds, peak - base)
        run(command, home / "killed", kill_at=pixels / 2)
        _, seconds = run(command, home / "killed")
        maps = [next((home / name).rglob("prediction.npy")).read_bytes() for name in ("whole", "killed")]
        print(
            f"killed half-way and started again: {seconds:.0f} s more, {'equal' if maps[0] == maps[1] else 'DIFFERENT'}"
        )
    return int(maps[0] != maps[1] or peak - base > 1024)


if __name__ == "__main__":
    sys.exit(main())
