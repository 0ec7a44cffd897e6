"""What bfloat16 and torch.compile are worth: training steps and mapping of each network, as multiples of the default.

python -m benchmarks.choices --json choices.json

The default is float32, nothing compiled. Medians of rounds in which all take turns; what is compiled is compiled
before, and the seconds of that are shown. What bfloat16 costs in accuracy, whole runs say (--precision bfloat16).
"""

import argparse
import functools
import json
import time
from pathlib import Path

import torch

from benchmarks.bench_selective_scan import print_table
from benchmarks.speed import Subject, in_rounds, pixels_to_map
from models import MODELS
from utils import keep_freed_memory


def compiled(name: str, patch_size: int) -> tuple[Subject, float]:
    """A network whose training step and mapping are compiled, and the seconds that compiling took."""
    subject = Subject(name, patch_size)
    subject.model.forward_scales = torch.compile(subject.model.forward_scales)
    subject.model.encode = torch.compile(subject.model.encode)
    started = time.perf_counter()
    subject.train()
    subject.map(pixels_to_map(patch_size))
    return subject, time.perf_counter() - started


def choices(name: str, patch_size: int, rounds: int) -> list[dict]:
    """A row for each way to run a network."""
    subjects = {"default": Subject(name, patch_size)}
    subjects["bfloat16"] = Subject(name, patch_size, precision="bfloat16")
    subjects["torch.compile"], seconds = compiled(name, patch_size)
    calls = {}
    for kind, subject in subjects.items():
        calls[kind, "train"] = functools.partial(subject.train, 4)
        calls[kind, "map"] = functools.partial(subject.map, pixels_to_map(patch_size))
    times = in_rounds(calls, rounds)
    return [
        {"model": name, "kind": kind, "step_ms": 1e3 * times[kind, "train"], "pixels_per_s": 1 / times[kind, "map"]}
        | {f"{what}_ratio": times[kind, what] / times["default", what] for what in ("train", "map")}
        | {"compile_s": seconds if kind == "torch.compile" else 0.0}
        for kind in subjects
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--patch_size", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    keep_freed_memory()
    rows = [row for name in args.models for row in choices(name, args.patch_size, args.rounds)]
    text = [
        [x if isinstance(x, str) else f"{x:,.3g}" if x < 1000 else f"{x:,.0f}" for x in row.values()] for row in rows
    ]
    print_table(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads", text, list(rows[0]))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
