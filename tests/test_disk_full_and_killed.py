"""A training whose disk becomes full at each of its writes, or that is killed at any moment: the same command ends it.

Both are of the marker "long", see `make test-long`. The processes are forked from one that has imported everything.
"""

import io
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from utils import write_atomically

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are not forked here"),
]
FLAGS = ["--dataset", "Simulated", "--model", "CNN", "--dim", "8", "--patch_size", "3", "--epoch", "2", "--runs", "2"]
FLAGS += ["--val_fraction", "0.2", "--eval_weights", "best", "--calibrate", "--conformal", "0.2", "--save_every", "5"]
FLAGS += ["--visdom", "off", "--cuda", "-1"]  # of several runs, finished ones are left out and others are resumed
DIFFERS = ("checkpoint", "seconds")  # between equal runs
PRELOADED = ["main", "training.sweep", "reporting.run_report", "scenes.simulate", "models.cnn", "torch._inductor"]
PRELOADED += ["torch.utils.flop_counter", "tqdm.contrib.logging"]  # else each process would import them
N_KILLED, TIME_LIMIT = 40, 120


class FullDisk:
    """A disk on which a write, numbered from 1, fails as all later ones do: of bytes, to the device, of a new file."""

    def __init__(self, folder: Path, full_at: int):
        self.folder, self.full_at, self.n_writes = str(folder), full_at, 0

    def count(self, path):
        if not str(path).startswith(self.folder):
            return
        self.n_writes += 1
        if self.n_writes >= self.full_at:
            raise OSError(28, "No space left on device", str(path))

    def install(self):
        """Have this process write to the disk; it is not undone."""
        disk, make, open_number, open_file = self, os.mkdir, os.open, Path.open

        class Raw(io.FileIO):
            def write(self, data):
                disk.count(self.name)
                return super().write(data)

        def opened(path, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
            if not {*mode} & {*"wax"}:
                return open_file(path, mode, buffering, encoding, errors, newline)
            disk.count(path)
            file = io.BufferedWriter(Raw(str(path), mode.replace("b", "")))
            return file if "b" in mode else io.TextIOWrapper(file, encoding, errors, newline)

        def made(path, *arguments, **options):
            disk.count(path)
            return make(path, *arguments, **options)

        def numbered(path, flags, *arguments, **options):
            if flags & os.O_CREAT:
                disk.count(path)
            return open_number(path, flags, *arguments, **options)

        def synced(number):
            disk.count(Path(f"/proc/self/fd/{number}").readlink())

        for place, name, new in ((Path, "open", opened), (os, "mkdir", made), (os, "open", numbered)):
            setattr(place, name, new)
        os.fsync = synced


def written(path, *_, **__):
    """Write the two files of a picture, without drawing it."""
    for suffix in (".png", ".pdf"):
        write_atomically(path.with_name(path.name + suffix), b"picture")


def train(home: Path, full_at: int) -> None:
    """Run the command in this process, which ends with its exit code; what it says goes to home/said."""
    import main
    from reporting.figures import curves, maps

    said = (home / "said").open("w")
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    sys.stdout = sys.stderr = said
    for module in (curves, maps):  # drawing would take most of the time
        for name in dir(module):
            if name.startswith("save_"):
                setattr(module, name, written)
    disk = FullDisk(home / "runs", full_at)
    disk.install()
    try:
        code = main.main([*FLAGS, "--output", str(home / "runs")])
    finally:
        (home / "n_writes").write_text(str(disk.n_writes))
    sys.exit(code)


@pytest.fixture(scope="module")
def start():
    """Start the command; gives its process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def begin(home, full_at=10**9):
        home.mkdir(exist_ok=True)
        process = context.Process(target=train, args=(home, full_at))
        process.start()
        return process

    return begin


def ended(process):
    """Wait for a process, and give its exit code."""
    process.join(TIME_LIMIT)
    assert process.exitcode is not None, "it does not end"
    return process.exitcode


def outcome(home):
    """What must be the same in equal runs: their scores, their maps and the number of rows of the table, by seed."""
    found = {}
    for path in sorted((home / "runs").glob("CNN/*/*/metrics.json")):
        metrics = json.loads(path.read_text())
        scores = {name: value for name, value in metrics.items() if name not in DIFFERS}
        seed = metrics["protocol"]["seed"]
        del metrics["protocol"]["machine"]  # whose git commit is another one if the tester works on
        assert seed not in found, "a run was done twice"
        assert not [*path.parent.glob(".*.tmp")]
        found[seed] = scores, np.load(path.parent / "prediction.npy").tolist()
    rows = (home / "runs" / "results.csv").read_text().count("\n") - 1
    assert rows == len(found) == 2
    return found


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """The outcome of the command, the number of its writes, and its seconds."""
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    began = time.monotonic()
    assert ended(start(home)) == 0, (home / "said").read_text()
    return outcome(home), int((home / "n_writes").read_text()), time.monotonic() - began


def test_a_disk_that_becomes_full_at_any_write_ends_the_command_in_one_sentence(start, undisturbed, tmp_path):
    wanted, n_writes, _ = undisturbed
    assert n_writes > 100
    for full_at in range(1, n_writes + 1):
        home = tmp_path / str(full_at)
        code, said = ended(start(home, full_at)), (home / "said").read_text()
        assert code in (0, 2) and "Traceback" not in said, f"write {full_at}: exit code {code}\n{said}"
        if code == 2:
            sentence = said.rstrip("\n").rsplit("\n", 1)[-1]
            assert sentence.startswith("main.py: ") and "no space is left" in sentence, f"write {full_at}: {sentence}"
        assert ended(start(home)) == 0, f"again after write {full_at}: {(home / 'said').read_text()}"
        assert outcome(home) == wanted, f"write {full_at}"


def test_a_command_that_is_killed_at_any_moment_is_finished_by_the_same_command(start, undisturbed, tmp_path):
    wanted, _, seconds = undisturbed
    rng, resumed = np.random.default_rng(), 0
    for number, fraction in enumerate(rng.random(N_KILLED)):
        home = tmp_path / str(number)
        process = start(home)
        time.sleep(fraction * seconds)
        process.kill()
        ended(process)
        assert ended(start(home)) == 0, f"after {fraction * seconds:.3f} s: {(home / 'said').read_text()}"
        resumed += "resuming" in (home / "said").read_text()
        assert outcome(home) == wanted, f"after {fraction * seconds:.3f} s"
    assert resumed > N_KILLED // 10
