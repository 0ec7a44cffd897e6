"""Every GPU test and benchmark in one command, `python -m benchmarks.gpu_check` or make gpu-check, and a report file.

The report goes to benchmarks/results/, named after the card. Packages that only the benchmarks use may be absent.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
COMMANDS = [
    ["main.py", "--doctor"],
    ["-m", "pytest", "-q", "-rs", *(f"tests/selective_scan/test_{name}.py" for name in ("selective_scan", "scan_op", "gpu"))],
    ["-m", "benchmarks.bench_selective_scan", "--device", "cuda", "--rounds", "11"],
]


def main() -> int:
    if not torch.cuda.is_available():
        sys.stderr.write("gpu-check: PyTorch sees no GPU here; run it on a machine with one\n")
        return 2
    card = torch.cuda.get_device_name()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"gpu_check_{re.sub('[^A-Za-z0-9]+', '-', card).strip('-')}.txt"
    failed = []
    with path.open("w", encoding="utf-8") as report:
        report.write(f"{card}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
        for command in COMMANDS:
            name = f"python {' '.join(command)}"
            started = time.perf_counter()
            result = subprocess.run(
                [sys.executable, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            verdict = f"exit code {result.returncode}, {time.perf_counter() - started:.0f} s"
            report.write(f"\n$ {name}\n{result.stdout}\n[{verdict}]\n")
            report.flush()
            print(f"{name}: {verdict}")
            if result.returncode:
                failed.append(name)
    print(f"{path} holds the report; failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
