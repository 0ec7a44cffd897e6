"""What a run shows on a terminal, and what it writes without one."""

import json
import os
import re
import subprocess
import sys

import pytest

from reporting.live import monitor
from reporting.live.monitor import JsonLog, Progress, ProgressBar

PROGRAM = """
from reporting.live.monitor import ProgressBar
bar = ProgressBar(30, 100, 6000)
for epoch in range(1, 31):
    accuracy = 0.4 + epoch / 60
    bar.epoch({"epoch": epoch, "loss": 3 / epoch, "train_accuracy": accuracy, "val_accuracy": accuracy - 0.1}, None)
for _ in range(60):
    bar.mapping(100, 6000)
bar.close()
"""


def record(epoch, loss=0.5, train=0.75, val=None):
    return {"epoch": epoch, "loss": loss, "train_accuracy": train, "val_accuracy": val}


@pytest.fixture
def lines(caplog, monkeypatch):
    """The lines of a bar without a terminal, which come at once."""
    monkeypatch.setattr(monitor, "LINE_EVERY", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level("INFO")
    return lambda: caplog.messages


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now[0])
    return now


def on_a_terminal(columns):
    """What PROGRAM draws on a terminal of that width."""
    fcntl = pytest.importorskip("fcntl", reason="this system has no pseudo-terminals")
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        drawn += piece
    os.close(ours)
    assert child.wait() == 0
    return drawn.decode()


@pytest.mark.parametrize("columns", [140, 90, 60, 40, 20])
def test_the_bar_stays_in_one_line_of_any_terminal(columns):
    drawn = on_a_terminal(columns)
    states = [state for state in re.split(r"[\r\n]+", drawn) if state.strip()]
    assert len(states) >= 2
    assert all(len(state) <= columns for state in states), max(states, key=len)
    assert drawn.strip("\r\n").count("\n") == 0
    assert "100%" in states[-1]
    assert "left" in states[-1]
    if columns >= 60:
        assert "loss 0.100" in states[-1]
        assert "train 90.0 %" in states[-1]
    if columns >= 90:
        assert "val 80.0 %" in states[-1]


def test_without_a_terminal_there_are_whole_lines_with_loss_accuracy_and_time_left(lines, clock, capfd):
    bar = ProgressBar(2, n_train=100, n_map=200)
    clock[0] += 40
    bar.epoch(record(1, val=0.625), None)
    clock[0] += 40
    bar.epoch(record(2), None)
    clock[0] += 10
    bar.mapping(100, 200)
    bar.close()
    assert lines() == [
        "40 %, 01:00 left: epoch 1/2, loss 0.500, train 75.0 %, val 62.5 %",
        "80 %, 00:20 left: epoch 2/2, loss 0.500, train 75.0 %",
        "90 %, 00:10 left: mapping 50 %, loss 0.500, train 75.0 %",
    ]
    assert capfd.readouterr().err == ""


def test_without_a_terminal_a_line_comes_now_and_then_alone(lines, clock, monkeypatch):
    monkeypatch.setattr(monitor, "LINE_EVERY", 30.0)
    bar = ProgressBar(1000, n_train=10, n_map=10)
    for epoch in range(1, 1001):
        clock[0] += 0.1
        bar.epoch(record(epoch), None)
    assert len(lines()) == 3


def test_a_resumed_run_counts_its_time_left_from_what_it_does_itself(lines, clock):
    bar = ProgressBar(4, n_train=100, n_map=0, first=2)
    clock[0] += 7
    bar.epoch(record(3), None)
    assert lines() == ["75 %, 00:07 left: epoch 3/4, loss 0.500, train 75.0 %"]


def test_the_bar_of_a_mapping_knows_its_total_when_it_begins(lines, clock):
    progress = Progress("mapping", "px")
    progress(500, 2000)
    clock[0] += 5
    progress(500, 2000)
    assert lines() == ["25 %, ? left: mapping 500/2,000 px", "50 %, 00:05 left: mapping 1,000/2,000 px"]


def test_the_log_has_a_line_per_epoch_that_can_be_read_while_the_run_continues(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl", [record(1)])
    log.epoch(record(2, loss=0.25), None)
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [record(1), record(2, loss=0.25)]
