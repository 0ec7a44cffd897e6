"""Run folders of version 0.1 still resume, report, compare, predict and interpret.

tests/data/runs_0.1 holds a finished run of MiM-v3 and an interrupted one of the CNN, both of the simulated scene.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import main
from training.checkpoint import Checkpoint
from training.config import RunConfig

RUNS = Path(__file__).resolve().parents[1] / "data" / "runs_0.1"


@pytest.fixture
def old(tmp_path):
    """A copy of the runs."""
    return shutil.copytree(RUNS, tmp_path / "old")


def test_an_interrupted_run_resumes_as_if_it_had_not_been_interrupted(old, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # its --output is "runs"
    folder = old / "interrupted"
    assert main.main(["--resume", str(folder), "--other_versions"]) == 0, capsys.readouterr().err
    words = RunConfig.read(folder).command().replace("\\\n", " ").split()[2:]
    assert main.main([*words, "--output", "whole", "--visdom", "off"]) == 0
    (whole,) = Path("whole").glob("*/*/*seed0")
    assert len((whole / "log.jsonl").read_text().splitlines()) == 4
    # The first two epochs ran on another processor. Seen were differences of 0.0006 after them and 0.005 at the end,
    # and ten other labels. Without the state of optimiser, schedule or generators they are 0.16 or more, and 4 % of
    # the labels.
    assert (np.load(folder / "prediction.npy") == np.load(whole / "prediction.npy")).mean() > 0.99
    ours, theirs = (Checkpoint.load(each / "last.pt").state["weights"] for each in (folder, whole))
    assert ours.keys() == theirs.keys()
    apart = max((ours[name].float() - theirs[name].float()).abs().max().item() for name in ours)
    assert apart < 0.02, apart


def test_a_finished_run_is_reported_again_with_its_command(old, capsys):
    folder = old / "finished"
    assert main.main(["--report", str(folder)]) == 0, capsys.readouterr().err
    page = (folder / "report.html").read_text()
    assert "--model MiM-v3" in page and "--eval_weights last" in page and "--runs" not in page
    assert (folder / "map.png").exists()


def test_a_finished_run_compares(old, capsys):
    assert main.main(["--compare", str(old / "finished"), "--table_format", "csv"]) == 0
    out = capsys.readouterr().out
    score = json.loads((old / "finished" / "metrics.json").read_text())["overall_accuracy"]
    assert "MiM-v3" in out and f"{score:.4f}"[:5] in out


def test_a_checkpoint_maps_the_scene_as_then(old, tmp_path, capsys):
    checkpoint = old / "finished" / "last.pt"
    command = ["--predict", "Simulated", "--restore", str(checkpoint), "--output", str(tmp_path), "--cuda", "-1"]
    assert main.main([*command, "--test_stride", "4"]) == 0, capsys.readouterr().err
    (made,) = tmp_path.glob("predict/*/*/prediction.npy")
    labels, before = np.load(made), np.load(old / "finished" / "prediction.npy")
    every_fourth = np.s_[1::4, 1::4]  # a run predicts its test pixels besides
    assert (labels[every_fourth] == before[every_fourth]).mean() > 0.99  # all, on the machine of then
    assert len(np.unique(labels)) > 3


def test_a_finished_run_is_interpreted(old, capsys):
    assert main.main(["--interpret", str(old / "finished"), "--cuda", "-1"]) == 0, capsys.readouterr().err
    assert (old / "finished" / "figures" / "scan_orders.png").exists()
