"""The command line end to end on a tiny scene: exit codes, files, messages, repeatability."""

import csv
import errno
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from tiny import TinyScene, large

import engine
import main
from models.options import MiMOptions
from scenes import catalogue

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--dataset", "tiny", "--patch_size", "3", "--epoch", "2", "--visdom", "off", "--cuda", "-1"]
SMALL = ["--dim", "8", "--d_inner", "8", "--d_state", "4"]
RUN_FILES = {"audit.json", "maps.npz", "config.json", "log.jsonl", "metrics.json", "prediction.npy", "last.pt"}
PICTURES = ("map", "map_labelled", "ground_truth", "errors", "confusion", "curves", "distance", "calibration")
RUN_FILES |= {"report.html"} | {f"{picture}.{kind}" for picture in PICTURES for kind in ("png", "pdf")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data root with the larger scene Tiny, (14, 17, 6), and its fixed masks; the catalogue knows it."""
    scene = TinyScene(tmp_path / "data", monkeypatch, large())
    scene.change(rgb_bands=(4, 2, 0), urls={"Tiny.mat": "http://127.0.0.1:9/Tiny.mat"})
    return scene.folder


@pytest.fixture
def run(folder, tmp_path, capsys, monkeypatch):
    """Call the command line on Tiny; gives the exit code, what it said, and the newest run's folder."""

    def call(*arguments, tiny=True):
        common = [*TINY, "--folder", str(folder), "--output", str(tmp_path / "runs")] if tiny else []
        code = main.main([*common, *map(str, arguments)])
        captured = capsys.readouterr()
        folders = sorted((tmp_path / "runs").glob("*/*/2*"), key=lambda path: path.stat().st_ctime_ns)
        return code, captured.out + captured.err, folders[-1] if folders else None

    return call


def _metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def _scores(folder):
    return {
        name: value for name, value in _metrics(folder).items() if name not in ("seconds", "protocol", "checkpoint")
    }


@pytest.mark.parametrize("model", ["MiM-v1", "mim_v2", "MIMV3", "cnn"])
def test_the_main_job_leaves_a_complete_folder(run, tmp_path, model):
    code, said, folder = run("--model", model)
    assert code == 0, said
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    metrics = _metrics(folder)
    labels = np.load(folder / "prediction.npy")
    assert labels.shape == (14, 17) and labels.dtype == np.uint8 and labels.min() >= 1 and labels.max() <= 3
    test = scipy.io.loadmat(tmp_path / "data" / "Tiny" / "TEST_GT.mat")["TE"]
    tested = test > 0
    assert metrics["overall_accuracy"] == pytest.approx((labels[tested] == test[tested]).mean())
    assert np.array(metrics["confusion"]).sum() == metrics["n_test"] == tested.sum()
    assert metrics["class_names"] == ["Land", "Water", "Roof"]
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2
    for words in ("Land", "overall accuracy", "kappa", folder.name, "map.png"):
        assert words in said


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(run):
    folders = [run("--model", "MiM-v1", *SMALL, "--seed", seed)[2] for seed in (3, 3, 4)]
    assert _scores(folders[0]) == _scores(folders[1])
    bits = [(folder / "prediction.npy").read_bytes() for folder in folders]
    assert bits[0] == bits[1]
    weights = [torch.load(folder / "last.pt", weights_only=True)["state"]["weights"] for folder in folders]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(
        torch.equal(weights[0][name], weights[2][name]) for name in weights[0] if name.endswith("in_proj.weight")
    )


def test_several_runs_take_following_seeds_and_end_with_mean_and_deviation(run, tmp_path):
    code, said, _ = run("--model", "cnn", "--runs", 2, "--seed", 5)
    assert code == 0 and "over 2 runs" in said and "OA (%)" in said and "+-" in said
    with (tmp_path / "runs" / "results.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["5", "6"]


def test_the_runs_of_a_cross_validation_test_every_fold_once(run, tmp_path, folder):
    buffered = ["--model", "cnn", "--epoch", 1, "--sampling_mode", "buffered", "--folds", 3, "--block_size", 5]
    code, said, _ = run(*buffered, "--seed", 4, "--runs", 3)
    assert code == 0, said
    metrics = [_metrics(path) for path in sorted((tmp_path / "runs" / "CNN" / "Tiny").iterdir())]
    protocols = [each["protocol"] for each in metrics]
    assert sorted(protocol["split"].split("fold ")[1][0] for protocol in protocols) == ["0", "1", "2"]
    assert sum(each["n_test"] + each["protocol"]["unlearned_test_pixels_dropped"] for each in metrics) == 180
    for each in metrics:
        protocol = each["protocol"]
        dropped = protocol["guard_pixels_dropped"] + protocol["unlearned_test_pixels_dropped"]
        assert each["n_train"] + each["n_test"] + dropped == 180 and protocol["guard_pixels_dropped"] > 0
        assert protocol["audit"]["train_window_overlap"] == 0
        assert all(entry["from"] >= 3 for entry in each["accuracy_by_distance"])
    assert said.count("neither train nor test (the buffer)") == 3  # each fold is announced


def test_the_accuracy_by_distance_and_the_audit_are_those_of_the_map_and_the_masks(run, folder):
    _, said, made = run("--model", "cnn", "--epoch", 1)
    train, test = (scipy.io.loadmat(folder / "Tiny" / file)[key] for file, key in catalogue.MASK_KEYS.items())
    labels, steps = np.load(made / "prediction.npy"), {}
    for pixel in map(tuple, np.argwhere(test)):
        step = int(np.abs(np.argwhere(train) - pixel).max(1).min())
        steps.setdefault({4: "4-5", 5: "4-5"}.get(step, str(step)), []).append(labels[pixel] == test[pixel])
    metrics = _metrics(made)
    entries = metrics["accuracy_by_distance"]
    ends = [str(e["from"]) if e["from"] == e["to"] else f"{e['from']}-{e['to']}" for e in entries]
    assert ends == sorted(steps)
    assert [(e["n"], e["accuracy"]) for e in entries] == [(len(steps[s]), np.mean(steps[s])) for s in ends]
    audit = metrics["protocol"]["audit"]
    assert audit["train_pixel_in_window"] == pytest.approx(len(steps["1"]) / metrics["n_test"])
    assert (
        f"{100 * audit['train_pixel_in_window']:.1f} % of the test pixels have a training pixel in their 3 x 3" in said
    )
    assert "accuracy by chessboard distance to the nearest training pixel" in said
    config = json.loads((made / "config.json").read_text())
    assert config["protocol"]["audit"] == audit


def test_a_run_that_was_interrupted_is_resumed_to_the_same_bits(run, monkeypatch, folder):
    _, _, whole = run("--model", "MiM-v1", *SMALL, "--epoch", 3)
    original = engine.Steps.epoch
    calls = iter([original, KeyboardInterrupt])

    def interrupted(*arguments):
        call = next(calls)
        if call is KeyboardInterrupt:
            raise KeyboardInterrupt
        return call(*arguments)

    monkeypatch.setattr(engine.Steps, "epoch", interrupted)
    code, said, broken = run("--model", "MiM-v1", *SMALL, "--epoch", 3)
    assert code == 130 and "interrupted" in said and "Traceback" not in said
    assert not (broken / "metrics.json").exists() and (broken / "last.pt").exists()
    monkeypatch.setattr(engine.Steps, "epoch", original)
    code, said, _ = run("--resume", broken, "--visdom", "off", tiny=False)
    assert code == 0, said
    assert _scores(broken) == _scores(whole)
    assert (broken / "prediction.npy").read_bytes() == (whole / "prediction.npy").read_bytes()
    assert len((broken / "log.jsonl").read_text().splitlines()) == 3
    code, said, _ = run("--resume", broken, tiny=False)
    assert code == 2 and "complete" in said


def test_a_checkpoint_alone_maps_a_scene(run, folder, tmp_path):
    _, _, trained = run("--model", "MiM-v1", *SMALL, "--pca", 4)
    for name in ("TRAIN_GT.mat", "TEST_GT.mat", "Tiny_gt.mat"):
        (folder / "Tiny" / name).unlink()
    arguments = [
        "--predict",
        "tiny",
        "--restore",
        trained / "last.pt",
        "--folder",
        folder,
        "--output",
        tmp_path / "new",
    ]
    code, said, _ = run(*arguments, tiny=False)
    assert code == 0, said
    mapped = next((tmp_path / "new" / "predict" / "Tiny").iterdir())
    assert np.array_equal(np.load(mapped / "prediction.npy"), np.load(trained / "prediction.npy"))
    assert (mapped / "map.png").stat().st_size > 1000


def test_training_starts_from_restored_weights(run):
    _, _, first = run("--model", "cnn", "--lr", "1e-2", "--epoch", 6)
    _, _, cold = run("--model", "cnn", "--epoch", 1)
    _, _, warm = run("--model", "cnn", "--epoch", 1, "--restore", first / "last.pt")
    losses = [json.loads((folder / "log.jsonl").read_text().splitlines()[0])["loss"] for folder in (cold, warm)]
    assert losses[1] < losses[0]
    code, said, _ = run("--model", "cnn", "--dim", 32, "--restore", first / "last.pt")
    assert code == 2 and "another network" in said and "32" in said


def test_validation_pixels_come_out_of_training_and_best_weights_are_used(run):
    code, said, folder = run("--model", "cnn", "--val_fraction", 0.25, "--weights", "best", "--epoch", 4)
    assert code == 0, said
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    best = 1 + int(np.argmax([record["val_accuracy"] for record in records]))
    assert f"epoch {best}" in said and (folder / "best.pt").exists()
    assert len(torch.load(folder / "best.pt", weights_only=True)["state"]["history"]["records"]) == best
    without = _metrics(run("--model", "cnn")[2])
    metrics = _metrics(folder)
    assert metrics["n_test"] == without["n_test"]
    assert metrics["n_train"] + metrics["protocol"]["n_validation"] == without["n_train"]


MODEL_SWITCHES = [
    *[
        ["--" + option.name, value]
        for option in fields(MiMOptions)
        if option.name != "scan_backend"
        for value in option.metadata.get("choices", ())
    ],
    ["--scan_types", "2"],
    ["--scan_types", "1", "4"],
    ["--scales", "3", "1"],
    ["--separate_types"],
    ["--depth", "2"],
    ["--dropout", "0"],
    ["--scan_backend", "reference"],
]


@pytest.mark.parametrize("switch", MODEL_SWITCHES, ids=" ".join)
def test_every_part_of_the_model_can_be_switched_from_the_command_line(run, switch):
    code, said, folder = run("--model", "MiM-v1", *SMALL, *switch, "--epoch", 1, "--test_stride", 4)
    assert code == 0, said
    options = json.loads((folder / "config.json").read_text())["protocol"]["model"]["options"]
    values = switch[1:]
    got = options[switch[0][2:]]
    assert (
        got is True if not values else [str(item) for item in np.ravel(got)] == values or float(got) == float(values[0])
    )


@pytest.mark.parametrize(
    "flags",
    [
        ["--class_balancing"],
        ["--no-flip_augmentation"],
        ["--radiation_augmentation", "--mixture_augmentation"],
        ["--sampling_mode", "random", "--training_sample", "0.2"],
        ["--sampling_mode", "fixed", "--training_sample", "12"],
        ["--sampling_mode", "disjoint"],
        ["--sampling_mode", "buffered", "--folds", "2", "--fold", "1", "--block_size", "7", "--training_sample", "20"],
        ["--normalize", "minmax", "--fit_on", "train"],
        ["--normalize", "none", "--pca", "3"],
        ["--precision", "bfloat16"],
        ["--batch_size", "7", "--lr", "0.01"],
    ],
    ids=" ".join,
)
def test_every_flag_of_data_and_training_works_and_changes_the_result(run, flags):
    _, _, plain = run("--model", "cnn")
    code, said, folder = run("--model", "cnn", *flags)
    assert code == 0, said
    losses = [json.loads((f / "log.jsonl").read_text().splitlines()[-1])["loss"] for f in (plain, folder)]
    assert losses[0] != losses[1]


def test_skipping_the_border_predicts_and_counts_no_pixel_there(run):
    code, said, folder = run("--model", "cnn", "--patch_size", 5, "--border", "skip")
    assert code == 0 and "leaves out" in said
    labels = np.load(folder / "prediction.npy")
    inside = np.zeros_like(labels, dtype=bool)
    inside[2:-2, 2:-2] = True
    assert (labels[inside] > 0).all() and (labels[~inside] == 0).all()
    metrics = _metrics(folder)
    skipped = metrics["protocol"]["border_test_pixels_skipped"]
    assert skipped > 0 and metrics["n_test"] + skipped == _metrics(run("--model", "cnn")[2])["n_test"]


def test_a_strided_map_still_predicts_every_test_pixel_by_the_network(run):
    flags = ["--model", "cnn", "--epoch", 6, "--lr", "0.01"]
    folders = [run(*flags, "--test_stride", stride)[2] for stride in (1, 4)]
    assert _scores(folders[0]) == _scores(folders[1])
    full, coarse = (np.load(folder / "prediction.npy") for folder in folders)
    assert (coarse > 0).all() and 0 < (full != coarse).mean() < 0.5


ERRORS = {
    "no dataset": (["--dataset"], "--dataset"),
    "unknown scene": (["--dataset", "Tinny"], "did you mean Tiny"),
    "unknown model": (["--model", "MiM-v4"], "choose from MiM, MiM-v1, MiM-v2, MiM-v3, CNN"),
    "unknown flag": (["--modle", "cnn"], "--modle"),
    "unknown choice": (["--scan", "both"], "halves"),
    "even patch": (["--patch_size", "4"], "odd"),
    "large patch": (["--patch_size", "15"], "larger than the scene of 14 x 17"),
    "patch 1 for MiM": (["--model", "MiM-v1", "--patch_size", "1"], "at least 3"),
    "flag of another model": (["--model", "cnn", "--scan", "whole"], "CNN does not use --scan"),
    "bad scales": (["--model", "MiM-v1", "--patch_size", "5", "--scales", "3", "4"], "--scales 3 4"),
    "no GPU of that number": (["--cuda", "99"], "cuda 99"),
    "one mask": (["--test_set", "TEST_GT.mat"], "--test_set needs --train_set"),
    "masks and sampling": (
        ["--train_set", "TRAIN_GT.mat", "--test_set", "TEST_GT.mat", "--sampling_mode", "random"],
        "leave out --sampling_mode",
    ),
    "missing mask": (["--train_set", "nowhere.mat", "--test_set", "TEST_GT.mat"], "nowhere.mat"),
    "swapped masks": (["--train_set", "TEST_GT.mat", "--test_set", "TRAIN_GT.mat"], "swapped"),
    "sample without a mode": (["--training_sample", "0.2"], "sampling_mode"),
    "sample too large": (["--sampling_mode", "random", "--training_sample", "1.5"], "between 0 and 1"),
    "sample without end": (["--sampling_mode", "fixed", "--training_sample", "inf"], "such as 50"),
    "mask and fold": (
        ["--train_set", "TRAIN_GT.mat", "--test_set", "TEST_GT.mat", "--fold", "1"],
        "fix the split; leave out --fold",
    ),
    "folds of another mode": (["--sampling_mode", "random", "--folds", "3"], "--folds is used with --sampling_mode"),
    "fold without a mode": (["--fold", "1"], "--fold is used with --sampling_mode spatial or fields"),
    "one fold": (["--sampling_mode", "buffered", "--folds", "1"], "--folds must be at least 2"),
    "fold too large": (["--sampling_mode", "buffered", "--fold", "5"], "--fold must lie between 0 and 4 (--folds 5)"),
    "no block": (["--sampling_mode", "buffered", "--block_size", "0"], "--block_size must be at least 1"),
    "large block": (["--sampling_mode", "buffered", "--block_size", "9"], "5 folds need as many blocks"),
    "seed too large": (["--seed", "99999999999999999999"], "--seed must be below"),
    "masks are a folder": (["--train_set", ".", "--test_set", "."], ". is a folder; give a file"),
    "negative patch": (["--patch_size", "-3"], "at least 1"),
    "endless rate": (["--lr", "inf"], "a number above 0"),
    "best without validation": (["--weights", "best"], "--val_fraction"),
    "no epochs": (["--epoch", "0"], "--epoch must be at least 1"),
    "no rate": (["--lr", "-1"], "--lr"),
    "predict without a checkpoint": (["--predict", "tiny"], "--predict does not use"),
    "missing checkpoint": (["--restore", "nowhere.pt"], "nowhere.pt"),
    "too many components": (["--pca", "9"], "at most 6 components"),
    "diverging": (["--lr", "1e30"], "lower the learning rate"),
}


@pytest.mark.parametrize("seed", ["-5", "4294967296"])
def test_a_wrong_seed_is_refused_in_every_mode(run, seed):
    code, said, _ = run("--interpret", "runs", "--seed", seed, tiny=False)
    assert code == 2
    assert said.startswith("main.py: --seed must be ") and "Traceback" not in said


@pytest.mark.parametrize("mode", ["--audit", "--compare", "--describe", "--interpret", "--verify"])
def test_that_a_run_is_not_shown_live_can_be_said_in_every_mode(run, mode):
    arguments = ("--audit", "--dataset", "nowhere") if mode == "--audit" else (mode, "nowhere")
    code, said, _ = run(*arguments, "--visdom", "off", tiny=False)
    assert code == 2 and "nowhere" in said and "--visdom" not in said
    code, said, _ = run(*arguments, "--visdom", "http://localhost:1", tiny=False)
    assert code == 2 and "does not use --visdom" in said


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_wrong_gets_one_sentence_and_exit_code_2(run, tmp_path, name):
    flags, words = ERRORS[name]
    small = [] if "--model" in flags else ["--model", "cnn"]
    code, said, folder = run(*small, *flags)
    assert code == 2
    assert words in said and "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("main.py: ")]) == 1
    if name != "diverging":
        assert folder is None, "nothing is written before the input is known to be good"


def test_an_output_that_is_a_file_and_a_config_that_is_no_runs_are_refused(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    code, said, _ = run("--model", "cnn", "--output", tmp_path / "file")
    assert code == 2 and "is a file" in said
    (tmp_path / "config.json").write_text("{}")
    code, said, _ = run("--resume", tmp_path, tiny=False)
    assert code == 2 and "not that of a run" in said


def test_a_lone_fixed_mask_is_not_passed_over(run, folder):
    (folder / "Tiny" / "TEST_GT.mat").unlink()
    code, said, _ = run("--model", "cnn")
    assert code == 2 and "TRAIN_GT.mat exists without its counterpart" in said
    assert run("--model", "cnn", "--sampling_mode", "random")[0] == 0


def test_a_misspelt_scene_is_found_before_anything_is_downloaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "download", lambda name, folder: pytest.fail("a download was begun"))
    code, said, _ = run("--download", "PaviaC", "NoSuch", tiny=False)
    assert code == 2 and "NoSuch" in said


def test_a_missing_scene_is_named_with_the_way_to_get_it(run, folder):
    (folder / "Tiny" / "Tiny.mat").unlink()
    code, said, _ = run("--model", "cnn")
    assert code == 2 and "Tiny.mat is missing" in said and "--download Tiny" in said


def test_a_constant_band_is_left_out_and_named(run, folder):
    path = folder / "Tiny" / "Tiny.mat"
    cube = scipy.io.loadmat(path)["tiny"]
    cube[:, :, 4] = 7
    scipy.io.savemat(path, {"tiny": cube})
    code, said, _ = run("--model", "cnn")
    assert code == 0 and "Tiny.mat: band (from 0) 4 left out, with one value everywhere" in said


def test_a_full_disk_is_one_sentence_and_leaves_no_half_written_file(run, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, said, folder = run("--model", "cnn")
    assert code == 2 and "no space is left on the disk for " in said and "config.json" in said
    assert "Traceback" not in said and str(tmp_path) in said
    assert not list(folder.iterdir()) and not (tmp_path / "runs" / "results.csv").exists()


def test_help_names_every_flag_with_its_default():
    result = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr
    text = " ".join(result.stdout.split())
    for words in (
        "--patch_size",
        "(default: 7)",
        "--scan_types",
        "MiM-v1 halves, MiM-v2 whole",
        "Houston2018",
        "--download",
    ):
        assert words in text


def test_the_real_masks_are_named_in_their_own_numbering(tmp_path, capsys):
    data = Path(os.environ.get("MIM_DATA", "Datasets"))
    if not (data / "IndianPines" / "Indian_pines_corrected.mat").is_file():
        pytest.skip(f"the real Indian Pines scene is not in {data}")
    arguments = ["--dataset", "IndianPines", "--folder", str(data), "--output", str(tmp_path), "--model", "CNN"]
    assert main.main([*arguments, "--epoch", "1", "--visdom", "off", "--test_stride", "9", "--cuda", "-1"]) == 0
    first = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  1 "))
    assert first[1] == "Corn-notill" and first[-1] == "1,384"
    metrics = _metrics(next(tmp_path.glob("CNN/IndianPines/*")))
    assert metrics["n_train"] == 695 and metrics["n_test"] == 9671


def test_the_sweep_of_the_examples_runs_and_gives_a_row_per_run(tmp_path):
    settings = {"PYTHON": sys.executable, "MODELS": "MiM-v1 MiM-v3", "PATCH_SIZES": "3", "EPOCHS": "1"}
    flags = ["--test_stride", "8", "--visdom", "off", "--training_sample", "0.02", "--sampling_mode", "random"]
    result = subprocess.run(
        ["bash", "examples/sweep_patch_sizes.sh", *flags, *SMALL],
        cwd=ROOT,
        env=os.environ | settings | {"OUTPUT": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    with (tmp_path / "results.csv").open() as file:
        assert [(row["model"], row["patch_size"]) for row in csv.DictReader(file)] == [("MiM-v1", "3"), ("MiM-v3", "3")]
