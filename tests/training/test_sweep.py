"""Many runs and many processes: what is done once, left out or shared, and what a killed process costs."""

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from processes import torchrun
from tiny import large, write_described

import datasets
import engine
import main
from inference.partial_map import merged, work_of_rank
from training import outputs, prepare, sweep
from training.distributed import Ranks

SMALL = ["--patch_size", "3", "--epoch", "2", "--visdom", "off", "--cuda", "-1"]


@pytest.fixture
def scene(tmp_path):
    """The path of the described tiny scene, with its masks; other processes find it too."""
    return write_described(tmp_path / "data" / "Field", large())


@pytest.fixture
def call(tmp_path, scene, capfd):
    """Call main.py on the scene; gives the exit code and what it said."""

    def call(*arguments, output="runs"):
        command = ["--dataset", scene, *SMALL, "--output", tmp_path / output, *arguments]
        code = main.main([str(each) for each in command])
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return call


def rows(output):
    with (output / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def complete(output):
    """Folders of complete runs by model, patch size and seed."""
    found = {}
    for path in output.glob("*/*/*/metrics.json"):
        protocol = json.loads(path.read_text())["protocol"]
        key = protocol["model"]["name"], protocol["model"]["patch_size"], protocol["seed"]
        found.setdefault(key, []).append(path.parent)
    return found


# one process


def test_a_sweep_does_every_combination_and_reads_the_scene_once(call, tmp_path, monkeypatch):
    read, load = [], datasets.load_scene
    monkeypatch.setattr(sweep, "load_scene", lambda *a, **k: read.append(a) or load(*a, **k))
    prepared, fit = [], sweep.prepare.__globals__["fit_preprocessing"]
    monkeypatch.setitem(
        sweep.prepare.__globals__, "fit_preprocessing", lambda *a, **k: prepared.append(a) or fit(*a, **k)
    )
    code, said = call("--model", "cnn", "CNN", "--epoch", 1, "--patch_size", 3, 5, "--runs", 2)
    assert code == 0, said
    expected = {("CNN", patch, seed) for patch in (3, 5) for seed in (0, 1)}
    assert set(complete(tmp_path / "runs")) == expected
    assert len(rows(tmp_path / "runs")) == len(expected)
    assert len(read) == len(prepared) == 1


def test_the_same_command_again_does_only_what_is_missing(call, tmp_path, monkeypatch):
    command = ["--model", "CNN", "--runs", 3]
    original, calls = engine.Steps.epoch, iter(range(100))

    def interrupted(*arguments):
        if next(calls) == 3:  # the second epoch of the second run
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(engine.Steps, "epoch", interrupted)
    code, said = call(*command)
    assert code == 130, said
    monkeypatch.setattr(engine.Steps, "epoch", original)
    code, said = call(*command)
    assert code == 0, said
    assert said.count("is done already") == 1 and said.count("resuming ") == 1 and "after epoch 1" in said
    assert "over 3 runs" in said
    found = complete(tmp_path / "runs")
    assert {key: len(folders) for key, folders in found.items()} == {("CNN", 3, seed): 1 for seed in range(3)}
    assert len(list((tmp_path / "runs" / "CNN" / "Field").iterdir())) == 3
    call(*command, output="whole")
    for key, (folder,) in complete(tmp_path / "whole").items():
        assert (folder / "prediction.npy").read_bytes() == (found[key][0] / "prediction.npy").read_bytes()
        ours, theirs = (
            torch.load(f / "last.pt", weights_only=True)["state"]["weights"] for f in (folder, found[key][0])
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_was_done_with_other_settings_is_not_taken_for_it(call, tmp_path):
    n_rows = 0
    for more, trained in (
        ([], 2),
        ([], 0),
        (["--again"], 2),
        (["--seed", "1"], 1),
        (["--normalize", "minmax"], 2),
        (["--dropout", "0.1"], 2),
    ):
        code, said = call("--model", "CNN", "--epoch", 1, "--runs", 2, *more)
        assert code == 0, said
        n_rows += trained
        assert len(rows(tmp_path / "runs")) == n_rows, more


def test_a_run_killed_while_its_pictures_are_drawn_is_completed_by_the_same_command(call, tmp_path, monkeypatch):
    def killed(path, *more):
        raise KeyboardInterrupt

    command = ["--model", "CNN", "--epoch", 1, "--runs", 2]
    with monkeypatch.context() as patch:
        patch.setattr(outputs.curves, "save_confusion", killed)
        assert call(*command)[0] == 130
    assert not complete(tmp_path / "runs")
    code, said = call(*command)
    assert code == 0 and "resuming " in said and "after epoch 1" in said, said
    assert [row["seed"] for row in rows(tmp_path / "runs")] == ["0", "1"]
    for (folder,) in complete(tmp_path / "runs").values():
        assert {"report.html", "confusion.pdf", "distance.png"} <= {path.name for path in folder.iterdir()}


def test_a_damaged_checkpoint_of_a_run_that_was_cut_off_is_told_with_what_to_do(call, tmp_path):
    command = ["--model", "CNN", "--epoch", 1, "--runs", 2]
    call(*command)
    folder = complete(tmp_path / "runs")["CNN", 3, 0][0]
    (folder / "metrics.json").unlink()
    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:500])
    code, said = call(*command)
    assert code == 2 and f"{folder / 'last.pt'} is damaged; delete it" in said
    (folder / "last.pt").unlink()
    assert call(*command)[0] == 0
    assert len(complete(tmp_path / "runs")) == 2


def test_the_last_rank_shows_all_results_in_the_order_of_the_command(monkeypatch):
    class LastOfTwo:
        rank, world = 1, 2

        def __init__(self):
            self.told = {"folders/0": "000000001 b\n000000010 d"}
            self.publish, self.wait_for = self.told.__setitem__, self.told.__getitem__

        def next_number(self, _):
            return 1

    seen = []
    monkeypatch.setattr(sweep, "compare", lambda folders, **_: seen.extend(folders))
    monkeypatch.setattr(sweep, "render_comparisons", lambda *_: "")
    sweep._finish({9: Path("c c"), 0: Path("a"), 11: None}, [], 12, cast(Ranks, LastOfTwo()))
    assert seen == [Path("a"), Path("b"), Path("c c"), Path("d")]


def test_other_code_or_another_scene_means_training_anew(call, tmp_path, scene, monkeypatch):
    assert call("--model", "CNN", "--runs", 2)[0] == 0
    np.save(scene / "cube.npy", np.load(scene / "cube.npy")[:, :, ::-1])
    assert call("--model", "CNN", "--runs", 2)[0] == 0
    assert len(rows(tmp_path / "runs")) == 4
    described = prepare.describe_machine
    monkeypatch.setattr(prepare, "describe_machine", lambda *facts: described(*facts) | {"code": "other"})
    assert call("--model", "CNN", "--runs", 2)[0] == 0
    assert len(rows(tmp_path / "runs")) == 6


def cut_off(call, tmp_path, monkeypatch, *command):
    """The folder of the first run of a command, interrupted after its first epoch."""
    original, calls = engine.Steps.epoch, iter(range(100))

    def interrupted(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Steps, "epoch", interrupted)
        assert call(*command)[0] == 130
    (folder,) = (tmp_path / "runs").glob("*/*/2*")
    return folder


@pytest.mark.parametrize("name", ["code", "torch"])
def test_other_versions_resume_a_run_only_if_they_are_allowed_and_are_noted(call, tmp_path, monkeypatch, capfd, name):
    folder = cut_off(call, tmp_path, monkeypatch, "--model", "CNN")
    config = json.loads((folder / "config.json").read_text())
    then = config["protocol"]["machine"][name]
    config["protocol"]["machine"][name] = "9.9"
    (folder / "config.json").write_text(json.dumps(config))
    before = (folder / "last.pt").read_bytes()
    assert main.main(["--resume", str(folder)]) == 2
    what = "other code" if name == "code" else f"torch 9.9 instead of {then}"
    said = capfd.readouterr().err
    assert f"{folder} began with {what}; go back to that, or give --other_versions to resume it all the same" in said
    assert (folder / "last.pt").read_bytes() == before and not (folder / "metrics.json").exists()
    assert main.main(["--resume", str(folder), "--other_versions"]) == 0
    assert f"note: {folder} began with {what}; the result may differ in its last digits" in capfd.readouterr().err
    notes = json.loads((folder / "metrics.json").read_text())["protocol"]["notes"]
    assert notes[-1] == f"the run was interrupted, and began with {what}"


def test_another_number_of_threads_is_noted_and_the_same_machine_is_not(call, tmp_path, monkeypatch, capfd):
    folder = cut_off(call, tmp_path, monkeypatch, "--model", "CNN")
    config = json.loads((folder / "config.json").read_text())
    assert main.main(["--resume", str(folder)]) == 0
    assert "began with" not in capfd.readouterr().err
    (folder / "metrics.json").unlink()
    now, config["protocol"]["machine"]["threads"] = config["protocol"]["machine"]["threads"], "77"
    (folder / "config.json").write_text(json.dumps(config))
    assert main.main(["--resume", str(folder)]) == 0
    assert f"note: {folder} began with threads 77 instead of {now}; the result may" in capfd.readouterr().err


def test_a_command_of_several_runs_names_the_interrupted_run_of_other_code(call, tmp_path, monkeypatch):
    command = ["--model", "CNN", "--runs", 2]
    folder = cut_off(call, tmp_path, monkeypatch, *command)
    config = json.loads((folder / "config.json").read_text())
    config["protocol"]["machine"]["code"] = "other"
    (folder / "config.json").write_text(json.dumps(config))
    code, said = call(*command)
    assert code == 0 and said.count(f"{folder} is this run with other code, interrupted; it is left as it is") == 1
    assert not (folder / "metrics.json").exists() and len(rows(tmp_path / "runs")) == 2


def test_a_single_run_is_always_trained(call, tmp_path):
    for _ in range(2):
        assert call("--model", "CNN")[0] == 0
    assert len(rows(tmp_path / "runs")) == 2


def test_a_run_that_fails_does_not_hold_up_the_others(call, tmp_path):
    code, said = call("--model", "CNN", "--patch_size", 17, 3)
    assert code == 2
    assert "patch 17, seed 0: --patch_size 17 is larger than the scene of 14 x 17 pixels; with CNN this scene" in said
    last = said.strip().splitlines()[-1]
    assert "1 of 2 runs failed, for the reasons above: CNN on" in last and last.endswith("patch 17, seed 0")
    assert set(complete(tmp_path / "runs")) == {("CNN", 3, 0)}


def test_what_can_be_seen_to_be_wrong_is_told_before_the_first_run(call, tmp_path):
    for arguments in (
        ["--patch_size", 3, 4],
        ["--model", "CNN", "MiM-v9"],
        ["--patch_size", 3, "--seed", -1],
        ["--model", "MiM-v1", "CNN", "--decay", "none"],
        ["--model", "CNN", "MiM-v1", "--patch_size", 1],
        ["--model", "MiM-v1", "--patch_size", 7, 3, "--scales", 5, 1],
    ):
        code, said = call(*arguments)
        assert code == 2 and "Traceback" not in said
    assert not (tmp_path / "runs").exists()
    code, said = call("--audit", "--model", "CNN", "MiM-v1")
    assert code == 2


def test_a_run_in_which_another_process_is_at_work_is_left_to_it(call, tmp_path):
    call("--model", "CNN", "--runs", 2)
    folder = complete(tmp_path / "runs")["CNN", 3, 1][0]
    (folder / "metrics.json").unlink()
    with FileLock(folder / sweep.LOCK):
        code, said = call("--model", "CNN", "--runs", 2)
        assert code == 0 and f"another process works in {folder}" in said
        assert main.main(["--resume", str(folder), "--visdom", "off", "--cuda", "-1"]) == 2
    assert len(rows(tmp_path / "runs")) == 2


# intervals


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6),
    st.integers(1, 60),
    st.integers(1, 7),
    st.integers(1, 5),
)
def test_the_shares_of_the_ranks_are_what_is_left_and_nothing_twice(done, total, step, world):
    done = merged([(a, b) for a, b in done if a < b])
    steps_done = merged([(a // step * step, min(b // step * step, total)) for a, b in done] or [])
    shares = [work_of_rank(steps_done, total, step, Ranks(rank, world)) for rank in range(world)]
    numbers = [number for share in shares for first, last in share for number in range(first, last)]
    finished = {number for first, last in steps_done for number in range(first, last)}
    assert len(numbers) == len(set(numbers))
    assert set(numbers) | finished == set(range(total))
    assert all(first % step == 0 and (last % step == 0 or last == total) for s in shares for first, last in s)
    sizes = [sum(-(-(last - first) // step) for first, last in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


# several processes


def test_two_ranks_share_the_runs_of_a_sweep(call, tmp_path, scene):
    command = ["--dataset", scene, *SMALL, "--model", "CNN", "--runs", 4]
    said = torchrun(2, *command, "--output", tmp_path / "both")
    found = complete(tmp_path / "both")
    assert set(found) == {("CNN", 3, seed) for seed in range(4)}, said
    assert all(len(folders) == 1 for folders in found.values())
    assert "over 4 runs" in said
    assert {line.split("]")[0] for line in said.splitlines() if line.startswith("[rank")} == {"[rank 0", "[rank 1"}
    assert call("--model", "CNN", "--runs", 4, output="one")[0] == 0
    for key, (folder,) in complete(tmp_path / "one").items():
        assert (folder / "prediction.npy").read_bytes() == (found[key][0] / "prediction.npy").read_bytes()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the ranks' processes in /proc, which this system lacks")
def test_a_killed_rank_loses_its_own_run_and_the_same_command_does_the_rest(tmp_path, scene):
    output = tmp_path / "runs"
    command = ["--dataset", scene, *SMALL, "--epoch", 30, "--model", "CNN", "--runs", 4, "--output", output]
    process = torchrun(2, *command, wait=False)
    deadline = time.monotonic() + 120
    while not (output / "results.csv").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(rank_process(process.pid, 1), signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    before = complete(output)
    assert 1 <= len(before) < 4
    bits = {key: (folder, (folder / "metrics.json").stat().st_mtime_ns) for key, (folder,) in before.items()}
    said = torchrun(2, *command)
    after = complete(output)
    assert set(after) == {("CNN", 3, seed) for seed in range(4)}, said
    assert all(len(folders) == 1 for folders in after.values())
    assert said.count("is done already") == len(before)
    for key, (folder, written) in bits.items():
        assert after[key] == [folder] and (folder / "metrics.json").stat().st_mtime_ns == written


def rank_process(parent, rank):
    """The process of that rank among torchrun's children."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ours = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent
            if ours and f"\0RANK={rank}\0" in "\0" + (path / "environ").read_text():
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"torchrun has no process of rank {rank}")


@pytest.mark.parametrize("n", [2, 4])
def test_ranks_that_share_a_mapping_give_the_map_of_one(call, tmp_path, scene, n):
    assert call("--model", "MiM-v3", "--dim", 8, "--d_inner", 8)[0] == 0
    (run,) = (tmp_path / "runs" / "MiM-v3" / "Field").iterdir()
    rng = np.random.default_rng(1)
    np.save(tmp_path / "new.npy", rng.standard_normal((45, 30, 6)).astype(np.float32))
    maps = {}
    for world in (1, n):
        command = ["--predict", tmp_path / "new.npy", "--restore", run / "last.pt", "--probabilities", "--cuda", -1]
        said = torchrun(world, *command, "--block_rows", 3, "--output", tmp_path / f"out{world}")
        (folder,) = (tmp_path / f"out{world}" / "predict" / "new").iterdir()
        maps[world] = {name: (folder / name).read_bytes() for name in ("prediction.npy", "probabilities.img")}
        assert {path.suffix for path in folder.iterdir()} == {".json", ".npy", ".png", ".pdf", ".hdr", ".img"}, said
    assert maps[1] == maps[n]
