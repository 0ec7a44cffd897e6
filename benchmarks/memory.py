"""Train and map a simulated scene of Pavia University's size in a process of its own and print its peak memory.

python -m benchmarks.memory --epochs 2
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import scipy.io

from scenes.catalogue import SCENES
from scenes.simulate import simulate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="MiM-v1")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=4.0, help="GiB; the exit code is 1 above it")
    args = parser.parse_args()
    spec = SCENES["PaviaU"]
    assert spec.shape is not None and spec.cube_file is not None and spec.gt_file is not None
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / spec.folder
        home.mkdir()
        cube, gt = simulate(0, shape=spec.shape, n_classes=spec.n_classes)
        scipy.io.savemat(home / spec.cube_file, {spec.cube_key: cube})
        scipy.io.savemat(home / spec.gt_file, {spec.gt_key: gt})
        command = [sys.executable, "main.py", "--dataset", spec.name, "--folder", folder, "--output", f"{folder}/runs"]
        command += ["--model", args.model, "--epoch", str(args.epochs), "--visdom", "off"]
        command += ["--sampling_mode", "fixed", "--training_sample", "100"]
        subprocess.run(command, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # ru_maxrss is in KiB on Linux
    print(f"peak memory of the run on {spec.shape}: {peak:.2f} GiB")
    return int(peak > args.limit)


if __name__ == "__main__":
    sys.exit(main())
