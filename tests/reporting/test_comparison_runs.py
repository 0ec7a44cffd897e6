"""Runs put side by side: which are found, which are one method, and which protocols are refused."""

import csv
import json
import logging
import shutil

import numpy as np
import pytest
from made_runs import SIDE, change, make_run

from reporting.comparison.methods import labels, settings
from reporting.comparison.runs import compare, find_runs
from utils import InputError


@pytest.fixture(autouse=True)
def _told(caplog):
    caplog.set_level(logging.INFO)


def write_csv(path, folders):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["model", "folder"])
        writer.writeheader()
        writer.writerows({"model": "CNN", "folder": folder} for folder in folders)
    return path


def folders_of(paths):
    return [run.folder for run in find_runs(paths)]


def only(paths, **options):
    (comparison,) = compare(paths, **options)
    return comparison


# Which runs


def test_a_run_is_named_by_its_folder_a_folder_above_it_its_metrics_or_a_row(tmp_path):
    run = make_run(tmp_path / "runs")
    named = [run, tmp_path / "runs", tmp_path, run / "metrics.json", write_csv(tmp_path / "results.csv", [run])]
    for path in named:
        assert folders_of([path]) == [run]
    assert folders_of(named) == [run]  # each run once, however often it is named


def test_the_runs_of_a_folder_are_in_order_of_model_and_patch_and_arguments_in_theirs(tmp_path):
    runs = [make_run(tmp_path, "MiM-v1", patch=p) for p in (11, 9)] + [
        make_run(tmp_path, "CNN", patch=p) for p in (5, 3)
    ]
    assert folders_of([tmp_path]) == [runs[3], runs[2], runs[1], runs[0]]
    assert folders_of([tmp_path / "MiM-v1", tmp_path / "CNN"]) == [runs[1], runs[0], runs[3], runs[2]]


def test_rows_are_looked_up_as_given_then_beside_the_table_and_gone_ones_are_reported_in_a_line(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "moved" / "runs")
    below = run.relative_to(tmp_path / "moved" / "runs")
    for folder in (run, run.relative_to(tmp_path), below, f"elsewhere/runs/{below}"):
        assert [path.resolve() for path in folders_of([write_csv(tmp_path / "moved/runs/results.csv", [folder])])] == [
            run
        ]
    table = write_csv(tmp_path / "moved/runs/results.csv", [run, "runs/gone-1", "", run, "runs/gone-2"])
    caplog.clear()
    assert folders_of([table]) == [run]
    (line,) = caplog.messages
    assert "folder is missing" in line
    assert "gone-1" in line
    assert "gone-2" in line


def test_unfinished_and_damaged_runs_below_a_folder_are_reported_and_left_out(tmp_path, caplog):
    runs = [make_run(tmp_path, seed=seed) for seed in range(4)]
    (runs[1] / "metrics.json").unlink()
    (runs[2] / "metrics.json").write_text('{"half')
    change(runs[3], class_recall=[1.0])
    assert folders_of([tmp_path]) == [runs[0]]
    unfinished, damaged = caplog.messages
    assert "not complete" in unfinished
    assert str(runs[1]) in unfinished
    assert "damaged" in damaged
    assert str(runs[2]) in damaged
    assert str(runs[3]) in damaged


def test_a_run_that_is_named_itself_must_be_complete_and_readable(tmp_path):
    run = make_run(tmp_path)
    change(run, n_parameters="many")
    with pytest.raises(InputError, match=r"is damaged: n_parameters must be .*, not 'many'; give the folder of a run"):
        find_runs([run])
    (run / "metrics.json").unlink()
    for path in (run, run / "metrics.json"):
        with pytest.raises(InputError, match=rf"{run} is not complete; `python main.py --resume {run}`"):
            find_runs([path])


@pytest.mark.parametrize(
    "damage",
    [
        {"confusion": 1, "class_names": None},
        {"protocol": {"model": 3}},
        {"protocol": {"seed": None}},
        {"seconds": {}},
        {"class_names": ["A", 2, "C"]},
        {"protocol": {"fingerprints": []}},
        {"class_support": [1, 2, "x"]},
        {"kappa": "high"},
    ],
)
def test_metrics_of_other_types_are_refused_in_one_sentence(tmp_path, damage):
    run = make_run(tmp_path)
    content = json.loads((run / "metrics.json").read_text())
    if damage == {"seconds": {}}:
        content["seconds"] = {}
    (run / "metrics.json").write_text(json.dumps(content))
    change(run, **damage)
    with pytest.raises(InputError, match="does not belong to a run"):
        find_runs([run])


def test_whatever_else_a_json_file_holds_is_refused(tmp_path):
    for content in ("[1, 2]", "null", '"text"', "{}", "3"):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(InputError):
            find_runs([tmp_path])


def test_nothing_to_compare_is_one_sentence(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no finished run was found"):
        find_runs([empty])
    with pytest.raises(InputError, match=r"nowhere does not exist; give the folder of a run"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no finished run was found"):
        find_runs([write_csv(tmp_path / "results.csv", ["gone"])])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"other.csv is not a results.csv"):
        find_runs([tmp_path / "other.csv"])
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfefolder\x00")
    with pytest.raises(InputError, match=r"bytes.csv is not a results.csv"):
        find_runs([tmp_path / "bytes.csv"])


def test_metrics_alone_are_enough(tmp_path):
    run = make_run(tmp_path / "runs", maps=False)
    shutil.copy(run / "metrics.json", tmp_path / "metrics.json")
    assert only([tmp_path / "metrics.json"]).methods[0].values("overall_accuracy").shape == (1,)


# Methods


def test_runs_that_differ_in_the_seed_alone_are_one_method(tmp_path):
    runs = [make_run(tmp_path, seed=seed) for seed in (5, 0, 1, 2)]
    (method,) = only([tmp_path]).methods
    assert (method.label, method.seeds) == ("CNN", "0-2, 5")
    assert [run.folder for run in method.runs] == [runs[1], runs[2], runs[3], runs[0]]
    figures = [json.loads((run.folder / "metrics.json").read_text()) for run in method.runs]
    np.testing.assert_array_equal(method.values("kappa"), [each["kappa"] for each in figures])
    np.testing.assert_array_equal(method.values("train_seconds"), [10, 11, 12, 15])
    np.testing.assert_array_equal(method.recall("Woods"), [each["class_recall"][1] for each in figures])


@pytest.mark.parametrize(
    ("change_of", "expected"),
    [
        ({"patch": 9}, ["CNN, patch 7", "CNN, patch 9"]),
        ({"recipe": {"epochs": 100}}, ["CNN, 60 epochs", "CNN, 100 epochs"]),
        ({"recipe": {"lr": 5e-4}}, ["CNN, lr 0.001", "CNN, lr 0.0005"]),
        ({"recipe": {"precision": "bfloat16"}}, ["CNN, float32", "CNN, bfloat16"]),
        ({"recipe": {"class_weights": [1.0, 2.0]}}, ["CNN", "CNN, class weights"]),
        ({"augmentation": {"flip": False}}, ["CNN, flips", "CNN, no flips"]),
        ({"augmentation": {"mixture": True}}, ["CNN", "CNN, mixture"]),
        ({"protocol": {"pca": 30}}, ["CNN", "CNN, PCA 30"]),
        ({"protocol": {"normalize": "minmax"}}, ["CNN, normalize zscore", "CNN, normalize minmax"]),
        ({"protocol": {"test_stride": 4}}, ["CNN, test stride 1", "CNN, test stride 4"]),
        ({"options": {"dim": 32}}, ["CNN, dim 64", "CNN, dim 32"]),
    ],
)
def test_a_label_names_the_setting_in_which_methods_differ(tmp_path, change_of, expected):
    make_run(tmp_path)
    make_run(tmp_path, **change_of)
    assert [method.label for method in only([tmp_path]).methods] == expected


def test_the_parts_of_a_model_are_named_where_they_differ_within_the_model(tmp_path):
    first = {"scales": [5, 3, 1]}
    for model, patch, options in (
        ("CNN", 7, {}),
        ("MiM-v1", 7, first),
        ("MiM-v1", 9, {"scales": [7, 5, 3, 1]}),  # its own at this patch: not named
        ("MiM-v2", 7, {"scan_types": [1, 2]}),
        ("MiM-v2", 7, {}),
    ):
        make_run(tmp_path, model, patch=patch, options=options)
    assert [method.label for method in only([tmp_path]).methods] == [
        "CNN, patch 7", "MiM-v1, patch 7", "MiM-v1, patch 9", "MiM-v2, patch 7, scan types 1 2",
        "MiM-v2, patch 7, scan types 1 2 3 4",
    ]  # fmt: skip
    make_run(tmp_path, "MiM-v1", patch=9, options={"scales": [1]})
    found = [method.label for method in only([tmp_path / "MiM-v1"]).methods]
    assert found == ["MiM-v1, patch 7", "MiM-v1, patch 9, scales 7 5 3 1", "MiM-v1, patch 9, scales 1"]


def test_a_part_that_differs_together_with_the_patch_is_named_too(tmp_path):
    for patch, dim in ((7, 64), (9, 32)):
        make_run(tmp_path, "MiM-v1", patch=patch, options={"dim": dim})
    assert [method.label for method in only([tmp_path]).methods] == [
        "MiM-v1, patch 7, dim 64",
        "MiM-v1, patch 9, dim 32",
    ]


def test_labels_of_different_settings_never_agree(tmp_path):
    runs = [make_run(tmp_path, "MiM-v1")]
    runs += [make_run(tmp_path, "MiM-v1", recipe=recipe) for recipe in ({"epochs": 1}, {"class_weights": [1.0]})]
    runs += [make_run(tmp_path, "MiM-v1", options=options) for options in ({"dim": 8}, {"scales": [1]})]
    runs += [make_run(tmp_path, "MiM-v1", protocol=each) for each in ({"pca": 3}, {"batch_size": 8})]
    names = labels([settings(run) for run in find_runs([tmp_path])])
    assert len(set(names)) == len(runs), names


def test_a_run_with_the_same_seed_and_settings_counts_once_the_last_one_which_is_reported(tmp_path):
    first, last = (make_run(tmp_path, seed=3, accuracy=accuracy) for accuracy in (0.6, 0.9))
    for paths in ([tmp_path], [last, first]):
        comparison = only(paths)
        assert [run.folder for run in comparison.runs] == [last]
        assert str(first) in comparison.notes[-1]
        assert str(last) not in comparison.notes[-1]


def test_a_class_without_test_pixels_is_nan_and_a_class_without_them_in_some_runs_is_reported(tmp_path):
    runs = [make_run(tmp_path, seed=seed) for seed in range(3)]
    change(runs[1], class_recall=[0.5, None, None])
    change(runs[0], class_recall=[0.5, 0.5, None])
    change(runs[2], class_recall=[0.5, 0.7, None])
    comparison = only([tmp_path])
    np.testing.assert_array_equal(comparison.methods[0].recall("Woods"), [0.5, np.nan, 0.7])
    assert np.isnan(comparison.methods[0].recall("Water")).all()
    assert comparison.notes == ("the mean leaves out runs that have no test pixels of a class: Woods",)


def test_training_pixels_are_those_of_the_audit_for_runs_of_earlier_versions(tmp_path):
    run = make_run(tmp_path)
    content = json.loads((run / "metrics.json").read_text())
    assert only([run]).pixels("Corn") == ("7", "127")
    assert only([run]).pixels() == ("20", "380")
    del content["class_train"]
    (run / "metrics.json").write_text(json.dumps(content))
    assert only([run]).pixels("Corn") == ("-", "127")
    (run / "audit.json").write_text('{"class_train": [48, 50, 50]}')
    assert only([run]).pixels("Corn") == ("48", "127")


def test_other_machines_versions_and_seeds_are_reported(tmp_path):
    make_run(tmp_path, seed=0)
    make_run(
        tmp_path, "MiM-v1", seed=1, protocol={"machine": {"device": "cuda:0: H", "threads": "4", "git_commit": "b"}}
    )
    notes = " ".join(only([tmp_path]).notes)
    assert "the seeds differ: CNN 0, MiM-v1 1" in notes
    assert "seconds are of different machines" in notes
    assert "cuda:0: H with 4 threads" in notes
    assert "different versions of the code: b, f7f9a2a85c71" in notes


# Protocols


DIFFERENT = {
    "split": {"split": "random, 10 % of each class train"},
    "cube": {"fingerprints": {"cube": "ab" * 32}},
    "ground truth": {"fingerprints": {"ground_truth": "ab" * 32}},
    "masks": {"fingerprints": {"masks": "ab" * 32, "split": "ab" * 32}},
    "border": {"border": "skip"},
    "normalisation fitted on": {"fit_on": "train"},
    "held out for validation": {"val_fraction": 0.1, "n_validation": 2},
    "weights": {"weights": "best"},
    "restored from": {"restored_from": "runs/CNN/last.pt"},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_different_protocols_are_refused_in_one_sentence_unless_they_are_to_be_marked(tmp_path, what):
    first = make_run(tmp_path)
    second = make_run(tmp_path, "MiM-v1")
    content = json.loads((second / "metrics.json").read_text())
    for name, value in DIFFERENT[what].items():
        content["protocol"][name] = content["protocol"][name] | value if isinstance(value, dict) else value
    (second / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        compare([tmp_path])
    said = str(error.value)
    assert f"{what} (" in said
    assert str(first) in said
    assert str(second) in said
    assert "mixed_protocols" in said
    others = set(DIFFERENT) - {what} - ({"masks"} if what == "split" else set())
    assert not [other for other in others if f"{other} (" in said]
    comparison = only([tmp_path], mixed_protocols=True)
    assert [(method.label, method.mark) for method in comparison.methods] == [("CNN", "a"), ("MiM-v1", "b")]
    notes = [note for note in comparison.notes if note.startswith("(")]
    assert len(notes) == 2
    assert all(f"{what}: " in note for note in notes)
    assert notes[0].startswith("(a) ")


def test_settings_of_a_method_are_no_other_protocol(tmp_path):
    make_run(tmp_path, "CNN")
    make_run(tmp_path, "MiM-v1", patch=9, recipe={"epochs": 3, "lr": 0.1, "class_weights": [1.0]},
             augmentation={"flip": False}, protocol={"pca": 30, "normalize": "minmax", "batch_size": 8})  # fmt: skip
    comparison = only([tmp_path])
    assert [method.mark for method in comparison.methods] == ["", ""]
    assert comparison.split == "fixed masks"


def test_where_nothing_is_fitted_it_does_not_matter_on_what(tmp_path):
    make_run(tmp_path, "CNN", protocol={"normalize": "none", "fit_on": "train"})
    make_run(tmp_path, "MiM-v1", protocol={"normalize": "none", "fit_on": "scene"})
    assert len(only([tmp_path]).methods) == 2


def drawn(tmp_path, model, seeds, shift=0, patch=7, split="random, 10 % of each class train"):
    """Runs on random splits: other pixels at every seed."""
    for seed in seeds:
        test = np.zeros((SIDE, SIDE), dtype=np.int64)
        test[3 + seed + shift] = np.arange(SIDE) % 3 + 1
        make_run(tmp_path, model, seed, test=test, patch=patch, protocol={"split": split.format(seed % 5)})


def test_drawn_splits_are_compared_seed_by_seed(tmp_path):
    drawn(tmp_path, "CNN", range(4))
    drawn(tmp_path, "MiM-v1", range(2, 6))
    comparison = only([tmp_path])
    assert [method.seeds for method in comparison.methods] == ["0-3", "2-5"]
    assert len(set(comparison.methods[0].by_seed) & set(comparison.methods[1].by_seed)) == 2
    assert "the seeds differ: CNN 0-3, MiM-v1 2-5" in comparison.notes


def test_other_pixels_at_the_same_seed_are_another_protocol(tmp_path):
    drawn(tmp_path, "CNN", range(3))
    drawn(tmp_path, "MiM-v1", range(2, 5), shift=4)
    with pytest.raises(InputError, match=r"differ in protocol.*pixels that train and test at seed 2"):
        compare([tmp_path])
    notes = only([tmp_path], mixed_protocols=True).notes
    assert "(a) pixels at seed 0: " in notes[0]
    assert "(b) pixels at seed 2: " in notes[1]


def test_the_folds_of_a_cross_validation_are_one_method_and_another_patch_is_another_protocol(tmp_path):
    split = "spatial cross-validation, fold {} of 5 (from 0), blocks of 21 x 21, 7 pixels apart"
    drawn(tmp_path, "CNN", range(5), split=split)
    (method,) = only([tmp_path]).methods
    assert len(method.runs) == 5
    assert only([tmp_path]).split == "spatial cross-validation, 5 folds, blocks of 21 x 21, 7 pixels apart"
    drawn(tmp_path, "CNN", range(5), shift=5, patch=9, split=split.replace("7 pixels", "9 pixels"))
    with pytest.raises(InputError, match=r"split \(spatial.*, 5 folds.*7 pixels apart / spatial.*9 pixels apart\)"):
        compare([tmp_path])


def test_a_spatial_split_that_an_earlier_version_called_buffered_is_the_same_protocol(tmp_path):
    split = "{}, fold {{}} of 5 (from 0), blocks of 21 x 21, 7 pixels apart"
    drawn(tmp_path, "CNN", range(5), split=split.format("buffered"))
    drawn(tmp_path, "MiM-v1", range(5), split=split.format("spatial cross-validation"))
    comparison = only([tmp_path])
    assert len(comparison.methods) == 2
    assert comparison.split == "spatial cross-validation, 5 folds, blocks of 21 x 21, 7 pixels apart"


def test_skipped_borders_are_another_protocol_with_another_patch_whatever_the_seeds(tmp_path):
    make_run(tmp_path, seed=0, patch=7, protocol={"border": "skip"})
    make_run(tmp_path, seed=1, patch=5, protocol={"border": "skip"})
    with pytest.raises(InputError, match=r"border \(skip at patch 5 / skip at patch 7\)"):
        compare([tmp_path])


def test_runs_of_earlier_versions_lack_entries_that_have_usual_values(tmp_path):
    make_run(tmp_path, seed=0)
    old = make_run(tmp_path, seed=1)
    content = json.loads((old / "metrics.json").read_text())
    for name in ("val_fraction", "test_stride"):
        del content["protocol"][name]
    (old / "metrics.json").write_text(json.dumps(content))
    assert only([tmp_path]).methods[0].seeds == "0-1"


def test_columns_of_one_protocol_stand_together(tmp_path):
    make_run(tmp_path, "CNN")
    make_run(tmp_path, "CNN", protocol={"weights": "best"})
    make_run(tmp_path, "MiM-v1")
    found = only([tmp_path], mixed_protocols=True).methods
    assert [method.name for method in found] == ["CNN (a)", "MiM-v1 (a)", "CNN (b)"]


def test_each_scene_is_compared_by_itself(tmp_path):
    for scene, names in (("PaviaU", ("Asphalt", "Trees")), ("Tiny", ("Corn", "Woods", "Water"))):
        make_run(tmp_path, scene=scene, names=names)
    found = compare([tmp_path])
    assert [(each.scene, len(each.class_names)) for each in found] == [("PaviaU", 2), ("Tiny", 3)]


def test_classes_that_are_numbered_otherwise_meet_by_their_names(tmp_path):
    make_run(tmp_path, "CNN", names=("Corn", "Woods", "Water"))
    make_run(tmp_path, "MiM-v1", names=("Water", "Corn", "Ice"), protocol={"split": "random"})
    comparison = only([tmp_path], mixed_protocols=True)
    assert comparison.class_names == ["Corn", "Woods", "Water", "Ice"]
    cnn, mim = comparison.methods
    assert cnn.recall("Corn")[0] == cnn.runs[0].metrics["class_recall"][0]
    assert mim.recall("Corn")[0] == mim.runs[0].metrics["class_recall"][1]
    assert np.isnan(cnn.recall("Ice")).all()
    assert np.isnan(mim.recall("Woods")).all()
