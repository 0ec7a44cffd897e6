"""Measure what the live view costs the training loop: runs with and without a visdom server, in turn, in one process.

python -m benchmarks.live_view --folder Datasets --dataset IndianPines --model MiM-v1 --epochs 10 --repeats 3

Start a server first (make visdom). It prints the seconds of the whole loop, monitors included; how many of them were
spent in the live view; and the processor time of the loop's thread, which other processes disturb less.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import engine
import main as command_line
from reporting.live.visdom_monitor import VisdomMonitor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visdom", default="http://localhost:8097", metavar="URL")
    parser.add_argument("--model", default="MiM-v1")
    parser.add_argument("--dataset", default="IndianPines")
    parser.add_argument("--folder", type=Path, default=Path("Datasets"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cuda", type=int, default=-1)
    args = parser.parse_args()

    job = ["--model", args.model, "--dataset", args.dataset, "--folder", str(args.folder), "--cuda", str(args.cuda)]
    job += ["--epoch", str(args.epochs), "--test_stride", "20"]
    times = {"off": [], args.visdom: []}
    print(f"{args.model} on {args.dataset}, {args.epochs} epochs")
    print("visdom        loop s   inside the live view s   thread s")
    for repeat in range(-1, args.repeats):
        for visdom, measured in times.items():
            loop, inside, thread = _measure([*job, "--visdom", visdom])
            if repeat >= 0:  # the first of each only warms up
                measured.append((loop, thread, inside))
                print(
                    f"{'off' if visdom == 'off' else 'on':<12} {loop:>7.2f} {inside:>24.4f} {thread:>10.2f}", flush=True
                )
    (loop, thread, _), (loop_with, thread_with, inside) = (
        [statistics.median(column) for column in zip(*measured, strict=True)] for measured in times.values()
    )
    print(f"median: loop {loop_with / loop - 1:+.2%}, thread {thread_with / thread - 1:+.2%}", end="; ")
    print(f"inside the live view {inside / loop_with:.3%} of the loop")


def _measure(arguments: list[str]) -> tuple[float, float, float]:
    """Seconds of the training loop, of the calls of the live view in it, and of its thread's processor time."""
    spent = {"loop": 0.0, "inside": 0.0, "thread": 0.0}
    training, epoch = engine.training, VisdomMonitor.epoch

    def timed_training(*positional, **named):
        started, processor = time.perf_counter(), time.thread_time()
        try:
            return (yield from training(*positional, **named))
        finally:
            spent["loop"] = time.perf_counter() - started
            spent["thread"] = time.thread_time() - processor

    def timed_epoch(self, record, model):
        started = time.perf_counter()
        epoch(self, record, model)
        spent["inside"] += time.perf_counter() - started

    engine.training, VisdomMonitor.epoch = timed_training, timed_epoch  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(io.StringIO()):
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                code = command_line.main([*arguments, "--output", f"{output}/benchmark"])
            if code:
                raise SystemExit(errors.getvalue())
    finally:
        engine.training, VisdomMonitor.epoch = training, epoch
    return spent["loop"], spent["inside"], spent["thread"]


if __name__ == "__main__":
    main()
