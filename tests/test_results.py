"""What a run leaves: folders, JSON, the common table of results, the final table, pictures."""

import csv
import json
import multiprocessing
import os
from datetime import datetime

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import ndimage

from metrics import scores
from reporting import results, visualize
from utils import InputError

NAMES = ("Corn", "Woods", "Water")
PALETTE = ("#1f77b4", "#e13c2d", "#0f960f")
RGB = {0: (0, 0, 0), 1: (0x1F, 0x77, 0xB4), 2: (0xE1, 0x3C, 0x2D), 3: (0x0F, 0x96, 0x0F)}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_rows(path, process):
    """What one of several runs does at the same time; each has a column of its own."""
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
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

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
    with pytest.raises(InputError, match=rf"{path} is missing or not readable; give the folder of a run"):
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
    text = results.table(scores([[800, 200, 0], [1, 1233, 0], [0, 0, 0]]), NAMES)
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


def test_the_summary_is_mean_and_sample_deviation_in_per_cent():
    runs = [scores([[8, 2], [1, 9]]), scores([[9, 1], [1, 9]])]
    assert results.summary(runs) == "2 runs: OA 87.50 +- 3.54, AA 87.50 +- 3.54, kappa 75.00 +- 7.07"


# Pictures


def read_png(path):
    assert path.read_bytes().startswith(b"\x89PNG")
    return (255 * imread(path)[..., :3]).round().astype(int)


def count(image, colour):
    return int((image == colour).all(-1).sum())


def test_a_label_map_has_exactly_its_classes_colours():
    labels = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    expected = np.array([[RGB[0], RGB[1]], [RGB[2], RGB[3]]])
    image = visualize.colour_map(labels, PALETTE)
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == np.uint8
    greys = visualize.colour_map(
        np.arange(256)[None], tuple(f"#{value:02x}{value:02x}{value:02x}" for value in range(1, 256))
    )
    np.testing.assert_array_equal(greys[0, :, 1], np.arange(256))


@pytest.mark.parametrize("shape", [(40, 30), (30, 90)], ids=["legend beside", "legend below"])
def test_the_picture_of_a_map_has_the_colours_in_the_maps_shares(tmp_path, shape):
    labels = np.zeros(shape, dtype=np.int64)
    labels[: shape[0] // 2], labels[-shape[0] // 4 :, : shape[1] // 2] = 1, 3
    visualize.save_label_map(tmp_path / "map.png", labels, NAMES, PALETTE, "a title")
    image = read_png(tmp_path / "map.png")
    on_map = {label: count(image, RGB[label]) for label in (1, 3)}
    assert on_map[1] / on_map[3] == pytest.approx((labels == 1).sum() / (labels == 3).sum(), rel=0.06)
    assert on_map[1] > 0.1 * image.shape[0] * image.shape[1]
    assert count(image, RGB[0]) > 0
    assert count(image, RGB[2]) == 0  # a class that is not in the map is not in the legend


def test_the_picture_of_a_map_has_each_pixel_in_its_place(tmp_path):
    labels = np.ones((20, 20), dtype=np.int64)
    labels[:10, :10] = 2
    visualize.save_label_map(tmp_path / "map.png", labels, NAMES, PALETTE, "")
    image = read_png(tmp_path / "map.png")
    coloured = (image == RGB[1]).all(-1) | (image == RGB[2]).all(-1)
    areas, _ = ndimage.label(coloured)
    box = ndimage.find_objects(areas)[np.bincount(areas[coloured]).argmax() - 1]
    assert coloured[box].all()  # no mixed colours between the classes
    corner = (image[box] == RGB[2]).all(-1)
    height, width = corner.shape
    expected = (np.arange(height)[:, None] < height / 2) & (np.arange(width) < width / 2)
    assert (corner != expected).mean() < 0.01


def test_a_false_colour_picture_stretches_each_band_and_bears_a_constant_one():
    ramp = np.linspace(100, 300, 10_000, dtype=np.float32).reshape(100, 100)
    cube = np.stack([ramp, np.full_like(ramp, 7), 1000 - ramp], axis=-1)
    image = visualize.false_colour(cube, (2, 0, 1))
    assert image.shape == (100, 100, 3)
    assert image.dtype == np.uint8
    assert (image[0, 0].tolist(), image[-1, -1].tolist()) == ([255, 0, 0], [0, 255, 0])
    assert abs(int(image[50, 0, 1]) - 128) <= 1
    assert (image[..., 1] == 0).mean() == pytest.approx(0.02, abs=0.005)


def test_a_confusion_matrix_is_drawn_even_where_a_class_has_no_pixels(tmp_path):
    visualize.save_confusion(tmp_path / "confusion.png", np.array([[50, 1, 0], [0, 7, 7], [0, 0, 0]]), NAMES)
    image = read_png(tmp_path / "confusion.png")
    assert min(image.shape[:2]) > 300
    dark = (image.sum(-1) < 250) & (image[..., 2] > image[..., 0] + 40)  # the full blue of the first cell
    assert dark.any()


def test_the_curve_over_distance_is_higher_where_more_is_right(tmp_path):
    entries = [{"from": i, "to": i, "n": 10, "accuracy": accuracy} for i, accuracy in ((1, 0.9), (2, 0.5), (3, 0.1))]
    visualize.save_accuracy_by_distance(tmp_path / "distance.png", entries, "")
    rows, columns = np.nonzero((read_png(tmp_path / "distance.png") == RGB[1]).all(-1))
    on_plot = rows < rows.max() - 40  # without the legend
    left, right = columns[on_plot].min(), columns[on_plot].max()
    heights = [rows[on_plot & (np.abs(columns - place) < 8)].mean() for place in (left, (left + right) / 2, right)]
    assert heights[0] < heights[1] < heights[2]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], rel=0.1)


@pytest.mark.parametrize("shape", [(30, 20), (20, 60)], ids=["histogram beside", "histogram below"])
def test_the_picture_of_an_audit_has_training_pixels_and_distances_in_their_shares(tmp_path, shape):
    train, test = np.zeros((2, *shape), dtype=np.int64)
    train[:, :5], test[:, 5:7] = 1, 2
    distance = np.maximum(np.arange(shape[1]) - 4, 0)[None].repeat(shape[0], 0)
    visualize.save_audit(tmp_path / "audit.png", train, test, distance, 3, "a title")
    image = read_png(tmp_path / "audit.png")
    trained = count(image, (0xD6, 0x27, 0x28))
    assert trained > 0.02 * image.shape[0] * image.shape[1]
    assert count(image, (0xEE, 0xEE, 0xEE)) / trained == pytest.approx((shape[1] - 7) / 5, rel=0.1)


def test_the_picture_of_an_audit_bears_test_pixels_that_train(tmp_path):
    labels = np.ones((4, 4), dtype=np.int64)
    visualize.save_audit(tmp_path / "audit.png", labels, labels, 0 * labels, 7, "overlap")
    assert min(read_png(tmp_path / "audit.png").shape[:2]) > 300
