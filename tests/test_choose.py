"""Cross-validation within training pixels: what is held out is far from what trains, and nothing else is looked at."""

import json

import numpy as np
from scipy.ndimage import distance_transform_cdt

from benchmarks import choose
from benchmarks.science import method
from splits.split import Split
from training.config import RunConfig


def make_split():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 4, (60, 80))
    train = np.where(rng.random((60, 80)) < 0.1, labels, 0)
    train[train == 3] = 0
    train[2, 3] = 3  # a class of one pixel, which cannot be on both sides
    return Split(train, np.where(train == 0, labels, 0), ("a", "b", "c"), ("#000000",) * 3, "drawn", ())


def test_held_out_pixels_are_training_pixels_far_from_those_that_train():
    split = make_split()
    pairs = choose.held_out(split, 4, 5)
    assert len(pairs) == 4
    for kept, held in pairs:
        assert np.array_equal(kept[kept > 0], split.train[kept > 0])
        assert np.array_equal(held[held > 0], split.train[held > 0])
        assert np.asarray(distance_transform_cdt(kept == 0, "chessboard"))[held > 0].min() >= 5
        assert 3 not in held
    of_1_and_2 = (split.train > 0) & (split.train < 3)
    assert np.array_equal(sum(held > 0 for _, held in pairs), of_1_and_2)


def test_a_context_leaves_out_what_is_near_to_the_pixels_that_train(tmp_path, monkeypatch):
    seen = []

    def spy(model, cube, pixels, **options):
        seen.append(options["surroundings"].valid.numpy())
        return predict(model, cube, pixels, **options)

    predict = choose.predict
    monkeypatch.setattr(choose, "predict", spy)
    pairs, held_out = [], choose.held_out
    monkeypatch.setattr(choose, "held_out", lambda *given: pairs.extend(held_out(*given)) or pairs)
    config = RunConfig(dataset="Simulated", model="LR", patch_size=1, context="gaussian", context_size=5)
    result = choose.measure(config, 3, 4)
    assert len(seen) == len(pairs) == 3
    for valid, (kept, held) in zip(seen, pairs, strict=True):
        assert np.array_equal(valid, np.asarray(distance_transform_cdt(kept == 0, "chessboard")) >= 4)
        assert valid[held > 0].all()
    assert result["n_held_out"] == sum((held > 0).sum() for _, held in pairs)
    assert 0.3 < result["overall_accuracy"] < 1


def test_the_command_prints_a_line_a_candidate_and_resumes(tiny_scene, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "kept.json"
    ours = ["choose", "--folds", "2", "--json", str(kept), "--spectral none", "--no-flip_augmentation", "--"]
    theirs = ["--dataset", "Tiny", "--folder", str(tiny_scene.folder), "--model", "CNN", "--patch_size", "1"]
    monkeypatch.setattr("sys.argv", [*ours, *theirs, "--epoch", "1"])
    choose.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("OA")[0].split()[3] for line in lines] == ["--spectral", "--no-flip_augmentation"]
    rows = json.loads(kept.read_text())
    assert [row["settings"]["flip_augmentation"] for row in rows] == [True, False]
    assert all(0 <= row["overall_accuracy"] <= 1 and row["n_held_out"] > 0 for row in rows)
    monkeypatch.setattr(choose, "measure", None)  # nothing is measured again
    choose.main()
    assert capsys.readouterr().out.splitlines() == lines


def test_a_method_is_named_by_the_parts_that_are_not_the_default():
    options = {"dim": 64, "stem": "full", "scales": [1], "scan": "whole", "scan_backend": "cpu"}
    protocol = {"model": {"name": "MiM-v1", "patch_size": 7, "options": options}}
    assert method(protocol) == ("MiM-v1, stem full, scales 1, scan whole", "none", "none")
    options |= {"stem": "depthwise", "scales": [5, 3, 1], "scan": "halves"}
    assert method(protocol | {"spectral": "snv", "context": {"size": 15}}) == ("MiM-v1", "snv", "15")
