"""What a run leaves: folders, JSON, the common table of results, the final table."""

import csv
import json
import multiprocessing
import os
from datetime import datetime

import numpy as np
import pytest

from metrics import scores
from reporting import results
from utils import InputError

NAMES = ("Corn", "Woods", "Water")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_rows(path, process):
    """Add the rows of one of several simultaneous runs; each run has its own column."""
    for number in range(5):
        results.append_result(path, {"run": f"{process}-{number}", "seed": number, f"column {process}": process})


# results.csv


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system starts no process by fork")
def test_eight_processes_at_once_lose_no_row_and_no_column(tmp_path):
    path = tmp_path / "runs" / "results.csv"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_rows, args=(path, number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    rows = rows_of(path)
    assert sorted(row["run"] for row in rows) == sorted(f"{p}-{number}" for p in range(8) for number in range(5))
    for row in rows:
        process, number = row["run"].split("-")
        assert row["seed"] == number
        assert [row[f"column {p}"] for p in range(8)] == [process if str(p) == process else "" for p in range(8)]


def test_new_columns_are_added_and_absent_values_are_empty(tmp_path):
    path = tmp_path / "results.csv"
    results.append_result(path, {"model": "MiM-v1", "kappa": float("nan")})
    results.append_result(path, {"model": 'a "quoted", one', "seed": np.int64(3), "note": None, "folder": tmp_path})
    assert path.read_text(encoding="utf-8").splitlines()[0] == "model,kappa,seed,note,folder"
    assert rows_of(path) == [
        {"model": "MiM-v1", "kappa": "", "seed": "", "note": "", "folder": ""},
        {"model": 'a "quoted", one', "kappa": "", "seed": "3", "note": "", "folder": str(tmp_path)},
    ]


# Folders


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(results, "datetime", Stopped)
    folders = [results.make_run_folder(tmp_path, "MiM-v1", "PaviaU", seed=7) for _ in range(3)]
    assert [folder.name for folder in folders] == [
        "20260102-030405-seed7",
        "20260102-030405-seed7-2",
        "20260102-030405-seed7-3",
    ]
    assert all(folder.is_dir() and folder.parent == tmp_path / "MiM-v1" / "PaviaU" for folder in folders)


# JSON


def test_json_holds_null_for_nan_and_plain_values_for_arrays_and_paths(tmp_path):
    path = tmp_path / "metrics.json"
    content = {
        "kappa": float("nan"),
        "lr": float("inf"),
        "recall": np.array([0.5, np.nan]),
        "nested": {"names": ("a", "b"), "deep": [{"x": np.float64("nan")}]},
        "confusion": np.eye(2, dtype=np.int64),
        "folder": tmp_path,
        "flag": True,
        "nothing": None,
    }
    results.write_json(path, content)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "kappa": None,
        "lr": None,
        "recall": [0.5, None],
        "nested": {"names": ["a", "b"], "deep": [{"x": None}]},
        "confusion": [[1, 0], [0, 1]],
        "folder": str(tmp_path),
        "flag": True,
        "nothing": None,
    }
    assert results.read_json(path)["recall"] == [0.5, None]


def test_json_takes_numpys_own_numbers(tmp_path):
    path = tmp_path / "a.json"
    results.write_json(path, {"n": np.int64(3), "x": np.float32(0.5), "nan": np.float32("nan"), "flag": np.bool_(True)})
    assert results.read_json(path) == {"n": 3, "x": 0.5, "nan": None, "flag": True}


@pytest.mark.parametrize("content", [None, "", "{half", b"\xff\xfe\x00"])
def test_json_that_is_missing_or_damaged_is_refused(tmp_path, content):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fault = "does not exist; give the folder of a run" if content is None else "is damaged or cannot be read; leave"
    with pytest.raises(InputError, match=f"{path} {fault}"):
        results.read_json(path)


def test_the_entries_of_metrics_json_are_fractions_under_their_documented_names(tmp_path):
    confusion = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    path = tmp_path / "metrics.json"
    results.write_json(path, results.score_entries(scores(confusion), confusion, NAMES))
    entries = results.read_json(path)
    assert entries["overall_accuracy"] == pytest.approx(0.85)
    assert entries["average_accuracy"] == pytest.approx(0.85)
    assert entries["kappa"] == pytest.approx(0.7)
    assert entries["class_names"] == list(NAMES)
    assert entries["class_recall"] == [0.8, 0.9, None]
    assert entries["class_f1"] == [pytest.approx(16 / 19), pytest.approx(18 / 21), None]
    assert entries["class_support"] == [10, 10, 0]
    assert entries["confusion"] == confusion.tolist()


def test_an_array_comes_back_as_it_was(tmp_path):
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    results.write_array(tmp_path / "prediction.npy", labels)
    loaded = np.load(tmp_path / "prediction.npy")
    np.testing.assert_array_equal(loaded, labels)
    assert loaded.dtype == np.uint8


# The final table


def test_the_table_shows_per_cent_and_the_pixels_of_each_class():
    text = results.table(scores(np.array([[800, 200, 0], [1, 1233, 0], [0, 0, 0]])), NAMES)
    cells = [line.split() for line in text.splitlines()]
    assert cells[1] == ["1", "Corn", "80.00", "88.84", "1,000"]
    assert cells[2] == ["2", "Woods", "99.92", "92.46", "1,234"]
    assert cells[3] == ["3", "Water", "-", "-", "0"]
    assert cells[5] == ["overall", "accuracy", "(OA)", "91.00", "2,234"]
    assert cells[6] == ["average", "accuracy", "(AA)", "89.96"]
    assert cells[7] == ["kappa", "x", "100", "81.46"]
    assert len(cells) == 8


def test_the_columns_of_the_table_stand_under_their_headings_whatever_the_names():
    for names in (NAMES, ("A", "B", "C"), ("A name that is longer than all of the table's own", "B", "C")):
        lines = results.table(scores(np.diag([5, 6, 7])), names).splitlines()
        assert len({len(line) for line in lines[:6]}) == 1
        recall = lines[0].index("recall %") + len("recall %")
        assert all(line[recall - 6 : recall] == "100.00" for line in lines[1:4] + lines[5:])


ENTRIES = [
    {"from": 1, "to": 1, "n": 1234, "accuracy": 0.98765},
    {"from": 4, "to": 5, "n": 20, "accuracy": 1.0},
    {"from": 21, "to": None, "n": 3, "accuracy": 0.0},
]


def test_the_table_of_distances_has_a_column_per_step():
    lines = results.distance_table(ENTRIES).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["distance", "(pixels)", "1", "4-5", "21+"],
        ["right", "%", "98.77", "100.00", "0.00"],
        ["test", "pixels", "1,234", "20", "3"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1
