"""What two training runs at the same time cost, with OpenMP's threads asleep or spinning while they wait.

One run alone, then two at once, with as many threads each as the machine has cores: as main.py has the threads wait,
and as OpenMP does by default. Prints the seconds of training, and how many times those of one run alone they are.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

POLICIES = {"as main.py has it": None, "OpenMP's default": ""}  # an empty value keeps main.py from setting one


def train(policy: str | None, n_runs: int, flags: list[str]) -> float:
    """Train in so many processes at once; give the mean seconds of training."""
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    env |= {"OMP_NUM_THREADS": str(os.cpu_count())} | ({} if policy is None else {"OMP_WAIT_POLICY": policy})
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(i)) for i in range(n_runs)]
        command = [
            sys.executable,
            "main.py",
            *flags,
            "--cuda",
            "-1",
            "--visdom",
            "off",
            "--test_stride",
            "8",
            "--output",
        ]
        quiet = subprocess.DEVNULL
        processes = [subprocess.Popen([*command, str(each)], env=env, stdout=quiet, stderr=quiet) for each in outputs]
        if any(process.wait() for process in processes):
            raise RuntimeError("a run failed")
        files = [next(output.glob("*/*/*/metrics.json")) for output in outputs]
        return statistics.mean(json.loads(file.read_text())["seconds"]["train"] for file in files)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="MiM-v1")
    parser.add_argument("--dataset", default="Simulated")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    flags = ["--model", args.model, "--dataset", args.dataset, "--epoch", str(args.epochs)]
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(args.rounds):
        for name, policy in POLICIES.items():
            for n_runs in (1, 2):
                seconds.setdefault((name, n_runs), []).append(train(policy, n_runs, flags))
    alone = statistics.median(seconds["OpenMP's default", 1])
    print(f"{args.model} on {args.dataset}, {args.epochs} epochs, {os.cpu_count()} cores and as many threads a run")
    print(f"{'waiting threads':<18} {'runs at once':>12} {'training, s':>12} {'times one run by default':>25}")
    for (name, n_runs), values in seconds.items():
        median = statistics.median(values)
        print(f"{name:<18} {n_runs:>12} {median:>12.1f} {median / alone:>25.2f}")


if __name__ == "__main__":
    main()
