"""Whether all is right on a GPU, in under four minutes: `python3 -m benchmarks.gpu_right --output FOLDER`.

Runs the tests that need a GPU, and the scan's kernels under compute-sanitizer if it is installed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

TESTS = [
    "tests/selective_scan/test_gpu.py",
    "tests/selective_scan/test_selective_scan.py",
    "tests/selective_scan/test_scan_op.py",
    "tests/training/test_cuda_graph.py",
    "tests/test_on_gpu.py",
]
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def _run(command: list[str]) -> tuple[int, str, float]:
    """Exit code, output and seconds."""
    started = time.perf_counter()
    result = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return result.returncode, result.stdout, time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the report")
    parser.add_argument("--processes", type=int, default=6, help="tests at a time")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("gpu_right: PyTorch sees no GPU here; run it on a machine with one\n")
        return 2
    card = torch.cuda.get_device_name()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"gpu_right_{re.sub('[^A-Za-z0-9]+', '_', card).strip('_')}.txt"
    commands = [
        [
            sys.executable,
            "-m",
            "pytest",
            "-rsf",
            "-n",
            str(args.processes),
            "-p",
            "no:cacheprovider",
            "-p",
            "no:benchmark",
            *TESTS,
        ]
    ]
    sanitizer, failed = shutil.which("compute-sanitizer"), []
    if sanitizer:
        small = [sys.executable, "-m", "benchmarks.sanitized_kernels"]
        commands += [[sanitizer, "--tool", tool, "--error-exitcode", "9", *small] for tool in TOOLS]
    print(f"{len(commands)} commands side by side ...", flush=True)
    with path.open("w", encoding="utf-8") as report, ThreadPoolExecutor(len(commands)) as pool:
        report.write(f"{card}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
        for command, (code, said, seconds) in zip(commands, pool.map(_run, commands), strict=True):
            name = " ".join(command).replace(sys.executable, "python3")
            verdict = f"exit code {code}, {seconds:.0f} s"
            report.write(f"\n$ {name}\n{said}\n[{verdict}]\n")
            report.flush()
            print(f"{name}: {verdict}", flush=True)
            if code:
                failed.append(name)
                print("\n".join(said.splitlines()[-40:]))
    if not sanitizer:
        print("compute-sanitizer is not on the PATH; the kernels were not checked with it")
    print(f"{path} holds the report; failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
