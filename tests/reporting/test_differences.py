"""Differences between methods: the block bootstrap against scenes put together by hand, and what the tables say."""

import numpy as np
import pytest
from made_runs import SIDE, make_run

import metrics
from metrics import confusion_matrix, interval, scores
from reporting.comparison.differences import differences_of_methods, gaps_to_best
from reporting.comparison.runs import compare
from reporting.comparison.tables import render_comparisons
from reporting.results import read_json, write_json
from utils import InputError


def two_methods(folder, seeds=(0, 1), **options):
    """A method that is right on 70 % and one on 90 %; each seed tests other pixels."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        test = np.where(rng.random((SIDE, SIDE)) < 0.5, rng.integers(1, 4, (SIDE, SIDE)), 0)
        test[0] = 0
        for model, accuracy in (("CNN", 0.9), ("MiM-v1", 0.7)):
            make_run(folder, model, seed, test=test, accuracy=accuracy, protocol={"split": "random"}, **options)
    return compare([folder])[0].methods


def test_the_interval_is_that_of_scenes_put_together_from_the_same_blocks_for_both(tmp_path, monkeypatch):
    monkeypatch.setitem(metrics.block_bootstrap.__kwdefaults__, "n_draws", 200)
    best, other = two_methods(tmp_path)
    drawn = np.random.default_rng(0).multinomial(25, np.full(25, 1 / 25), size=200)
    found = differences_of_methods(other, best)
    for name in ("overall_accuracy", "average_accuracy", "kappa"):
        of_draws = []
        for times in drawn:
            gaps = []
            for pair in zip(other.runs, best.runs, strict=True):
                values = []
                for run in pair:
                    weight = np.where(run.maps["test"] > 0, times[run.maps["blocks"]], 0).ravel()
                    pixels = np.repeat(np.arange(SIDE * SIDE), weight)
                    target, prediction = (each.ravel()[pixels] - 1 for each in (run.maps["test"], run.prediction))
                    values.append(getattr(scores(confusion_matrix(target, prediction, 3)), name))
                gaps.append(values[0] - values[1])
            of_draws.append(np.mean(gaps))
        low, high = interval(np.array(of_draws), 25)
        assert (found[name].low, found[name].high) == (pytest.approx(low), pytest.approx(high))
        means = [np.mean([run.metrics[name] for run in each.runs]) for each in (other, best)]
        assert found[name].mean == pytest.approx(means[0] - means[1])
        assert found[name].low < found[name].mean < found[name].high < 0


def test_of_blocks_of_two_sizes_the_larger_are_drawn(tmp_path):
    for model, side in (("CNN", 2), ("MiM-v1", 5)):
        make_run(tmp_path / "two", model, block_side=side, accuracy=0.8)
        make_run(tmp_path / "one", model, block_side=5, accuracy=0.8)
    two, one = (compare([tmp_path / name])[0].methods for name in ("two", "one"))
    assert differences_of_methods(*two) == differences_of_methods(*one)


def test_what_cannot_be_compared_is_one_sentence(tmp_path):
    make_run(tmp_path / "a", "CNN", 0)
    make_run(tmp_path / "a", "MiM-v1", 1)
    with pytest.raises(InputError, match="CNN and MiM-v1 have no seed in common"):
        differences_of_methods(*compare([tmp_path / "a"])[0].methods)
    for model in ("CNN", "MiM-v1"):
        run = make_run(tmp_path / "b", model)
        with np.load(run / "maps.npz") as archive:
            maps = {name: archive[name] for name in archive if name != "blocks"}
        np.savez(run / "maps.npz", **maps)
    with pytest.raises(InputError, match="earlier version, without the blocks"):
        differences_of_methods(*compare([tmp_path / "b"])[0].methods)
    text = render_comparisons(compare([tmp_path / "b"]), "text")
    assert "a difference to the best method is left out" in " ".join(text.split()).replace("A diff", "a diff")


def test_a_scene_of_few_blocks_has_a_difference_without_an_interval(tmp_path):
    methods = two_methods(tmp_path, block_side=10)
    gap = differences_of_methods(*methods)["overall_accuracy"]
    assert abs(gap.mean) > 0.1 and np.isnan([gap.low, gap.high]).all()
    assert gaps_to_best(methods).cells[1][1] == "-"


def test_the_table_has_the_gap_to_the_best_its_interval_and_a_note(tmp_path):
    two_methods(tmp_path)
    text = render_comparisons(compare([tmp_path]), "text")
    gap, ends = (next(line for line in text.splitlines() if words in line).split() for words in ("minus", "interval  "))
    assert gap[:5] == ["OA", "minus", "best", "(%)", "best"] and float(gap[5]) < 0
    low, high = (float(each.strip("[],")) for each in ends[-2:])
    assert low < float(gap[5]) < high
    assert "paired bootstrap over blocks of the scene" in " ".join(text.split())


def test_the_table_has_calibration_and_accuracy_of_the_most_certain_pixels_if_the_runs_have_them(tmp_path):
    assert "Calibration" not in render_comparisons(compare([make_run(tmp_path / "without")]), "text")
    run = make_run(tmp_path / "with")
    content = read_json(run / "metrics.json")
    content |= {"calibration": {"expected_calibration_error": 0.125, "bins": []}}
    content |= {
        "accuracy_by_coverage": [
            {"coverage": 1.0, "n": 9, "accuracy": 0.5},
            {"coverage": 0.8, "n": 8, "accuracy": 0.75},
        ]
    }
    write_json(run / "metrics.json", content)
    text = render_comparisons(compare([tmp_path / "with"]), "text")
    assert [line.split()[-1] for line in text.splitlines() if "Calibration" in line or "most certain" in line] == [
        "12.50",
        "75.00",
    ]


def test_csv_has_the_gap_with_its_ends(tmp_path):
    two_methods(tmp_path)
    lines = render_comparisons(compare([tmp_path]), "csv").splitlines()
    head = lines[0].split(",")
    (gap,) = [dict(zip(head, line.split(","), strict=True)) for line in lines if "minus_best" in line]
    assert gap["method"] == "MiM-v1" and float(gap["low"]) < float(gap["mean"]) < float(gap["high"]) < 0
