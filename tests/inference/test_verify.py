"""--verify: a run as it was left agrees, and every part that is changed afterwards is named."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from tiny import large, write_described

import main
from utils import fingerprint_file

MODELS = {
    "CNN": ["--model", "CNN", "--patch_size", 3],
    "best, stride and border": [
        *("--model", "CNN", "--patch_size", 3, "--val_fraction", 0.3, "--eval_weights", "best"),
        *("--test_stride", 3, "--border", "skip", "--calibrate", "--normalize", "minmax", "--fit_on", "train"),
    ],
    "folds": ["--model", "CNN", "--patch_size", 3, "--sampling_mode", "spatial", "--folds", 2, "--block_size", 5],
    "context": ["--model", "CNN", "--patch_size", 3, "--context", "gaussian", "--context_size", 5],
    "MiM": ["--model", "MiM-v1", "--patch_size", 3, "--dim", 8, "--d_inner", 8, "--pca", 3],
    "bfloat16": ["--model", "CNN", "--patch_size", 3, "--precision", "bfloat16"],
    "whole scene": ["--model", "MambaHSI"],
    "fitted at once": ["--model", "SVM"],
    "place": ["--model", "Location"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the described tiny scene."""
    home = tmp_path_factory.mktemp("verify")
    write_described(home / "Field", large())
    return home


@pytest.fixture(scope="module")
def finished(home):
    """A run of the CNN that nothing changes."""
    return train(home, *MODELS["CNN"], output=home / "runs")


@pytest.fixture
def run(home, finished, tmp_path):
    """A copy of it, and of the scene."""
    shutil.copytree(home / "Field", tmp_path / "Field")
    return shutil.copytree(finished, tmp_path / "run")


def train(home, *flags, output):
    epochs = [] if {"SVM", "Location"} & {*flags} else ["--epoch", 2]
    command = ["--dataset", "Field", "--folder", home, *epochs, "--visdom", "off", "--cuda", -1, *flags]
    assert main.main([str(each) for each in (*command, "--output", output)]) == 0
    (folder,) = output.glob("*/*/2*")
    return folder


def verify(run, capsys, *flags):
    """The exit code, and what was said."""
    code = main.main(["--verify", str(run), *map(str, flags)])
    said = capsys.readouterr()
    return code, said.out if code == 0 else said.err


def change(path, **entries):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | entries))


@pytest.mark.parametrize("name", MODELS)
def test_a_run_as_it_was_left_is_verified(home, tmp_path, capsys, name):
    folder = train(home, *MODELS[name], output=tmp_path / "runs")
    code, said = verify(folder, capsys)
    assert code == 0 and said.strip().endswith(f"{folder} is verified"), said
    for words in ("overall_accuracy, average_accuracy, kappa", "intervals", "masks are those of the run"):
        assert words in said
    tested = json.loads((folder / "metrics.json").read_text())["n_test"]
    (n_pixels,) = map(int, re.findall(r"(\d+) pixels predicted again with the checkpoint have the labels", said))
    assert tested < n_pixels < 14 * 17 if "stride" in name else n_pixels == 14 * 17  # all, fewer than 500
    assert ("and the bits of the confidences" in said) == (name != "context")


def test_of_a_large_map_some_500_pixels_are_predicted_again(home, tmp_path, capsys, monkeypatch):
    from inference import verify as module

    monkeypatch.setattr(module, "N_PIXELS", 40)
    monkeypatch.setattr("mapping.PREDICT_BATCH", 15)
    folder = train(home, *MODELS["CNN"], output=tmp_path / "runs")
    code, said = verify(folder, capsys)
    assert code == 0 and "58 pixels predicted again" in said and "and the bits" in said  # the last batch has 13


@pytest.mark.parametrize("key", ["overall_accuracy", "kappa", "n_test"])
def test_a_score_that_does_not_follow_from_the_map_is_named(run, capsys, key):
    noted = json.loads((run / "metrics.json").read_text())[key]
    other = noted + 1 if isinstance(noted, int) else noted - 0.25
    change(run / "metrics.json", **{key: other})
    code, said = verify(run, capsys)
    assert code == 2 and f"{key} of metrics.json is {other}, and {noted} from prediction.npy" in said
    assert said.count("of metrics.json") == 1


OTHERWISE = {
    "confusion": lambda rows: [row[::-1] for row in rows],
    "class_recall": lambda values: [1 - value if value is not None else 0.5 for value in values],
    "intervals": lambda entries: entries | {"n_blocks": entries["n_blocks"] + 1},
    "accuracy_by_distance": lambda entries: entries[:-1],
}


@pytest.mark.parametrize("key", OTHERWISE)
def test_a_table_that_does_not_follow_from_the_map_is_named(run, capsys, key):
    noted = json.loads((run / "metrics.json").read_text())[key]
    change(run / "metrics.json", **{key: OTHERWISE[key](noted)})
    code, said = verify(run, capsys)
    assert code == 2 and f"{key} of metrics.json is another from prediction.npy" in said


def test_another_map_is_named_with_its_scores(run, capsys):
    labels = np.load(run / "prediction.npy")
    np.save(run / "prediction.npy", labels % 3 + 1)
    code, said = verify(run, capsys)
    assert code == 2 and "overall_accuracy of metrics.json is" in said
    assert "238 of 238 pixels predicted again with the checkpoint have other labels in prediction.npy" in said


def test_a_map_of_another_size_is_named(run, capsys):
    np.save(run / "prediction.npy", np.load(run / "prediction.npy")[:-1])
    code, said = verify(run, capsys)
    assert code == 2 and "prediction.npy does not fit maps.npz" in said


def test_other_masks_are_named(run, capsys):
    maps = dict(np.load(run / "maps.npz"))
    maps["test"] = np.where(maps["test"] == 1, 2, maps["test"])
    np.savez_compressed(run / "maps.npz", **maps)
    code, said = verify(run, capsys)
    assert code == 2 and "confusion of metrics.json is another from prediction.npy" in said
    assert "test of maps.npz is another than from the scene's files" in said


def test_other_confidences_are_named(run, capsys):
    maps = dict(np.load(run / "maps.npz"))
    maps["confidence"] = np.nextafter(maps["confidence"], np.float16(0))
    np.savez_compressed(run / "maps.npz", **maps)
    code, said = verify(run, capsys)
    assert (
        code == 2 and "238 of 238 pixels" in said and "have other confidences in maps.npz, on the same machine" in said
    )


def test_another_checkpoint_is_named_by_its_sum_and_by_its_map(run, capsys):
    change(run / "metrics.json", checkpoint=fingerprint_file(run / "last.pt"))
    code, said = verify(run, capsys)
    assert code == 0 and "last.pt has the SHA-256 that metrics.json notes" in said
    content = torch.load(run / "last.pt", weights_only=True)
    for value in content["state"]["weights"].values():
        value.mul_(-1)
    torch.save(content, run / "last.pt")
    code, said = verify(run, capsys)
    assert code == 2 and "last.pt has another SHA-256 than metrics.json notes; " in said
    assert "pixels predicted again with the checkpoint have other labels in prediction.npy" in said
    (run / "last.pt").write_bytes(b"no checkpoint")
    code, said = verify(run, capsys)
    assert code == 2 and "another SHA-256" in said and "last.pt is not a readable checkpoint" in said
    (run / "last.pt").unlink()
    assert "last.pt is missing; " in verify(run, capsys)[1]


def test_a_run_without_the_sum_says_so(run, capsys):
    content = json.loads((run / "metrics.json").read_text())
    content.pop("checkpoint", None)
    (run / "metrics.json").write_text(json.dumps(content))
    code, said = verify(run, capsys)
    assert code == 0 and "last.pt: metrics.json has no SHA-256 of it" in said


def test_another_scene_is_named_and_nothing_is_predicted(run, tmp_path, capsys):
    cube = np.load(tmp_path / "Field" / "cube.npy")
    np.save(tmp_path / "Field" / "cube.npy", cube[:, :, ::-1])
    change_dataset(run, tmp_path)
    code, said = verify(run, capsys, "--folder", tmp_path)
    assert code == 2 and "the scene's cube is another than in the run" in said and "predicted again" not in said


def test_a_scene_that_is_not_there_is_named(run, tmp_path, capsys):
    shutil.rmtree(tmp_path / "Field")
    change_dataset(run, tmp_path)
    code, said = verify(run, capsys, "--folder", tmp_path)
    assert code == 2 and "is not verified" in said and "Field" in said


def change_dataset(run, folder):
    content = json.loads((run / "config.json").read_text())
    content["config"]["dataset"] = str(folder / "Field")
    (run / "config.json").write_text(json.dumps(content))


def test_on_another_machine_labels_are_compared_but_for_ties_and_no_bits(run, capsys):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["protocol"]["machine"] |= {"torch": "1.0", "threads": "99"}
    (run / "metrics.json").write_text(json.dumps(metrics))
    code, said = verify(run, capsys)
    assert code == 0 and "bits are not compared: another torch, threads computed it" in said
    maps = dict(np.load(run / "maps.npz"))
    maps["confidence"] = maps["confidence"] - np.float16(0.01)
    np.savez_compressed(run / "maps.npz", **maps)
    code, said = verify(run, capsys)
    assert code == 2 and "238 of 238 pixels predicted again with the checkpoint have other confidences" in said


def test_what_is_no_finished_run_is_refused(run, tmp_path, capsys):
    (run / "metrics.json").unlink()
    assert "is not complete" in verify(run, capsys)[1]
    assert verify(tmp_path / "nothing", capsys)[0] == 2
    assert main.main(["--verify", str(run), "--epoch", "3"]) == 2
    assert "--verify does not use --epoch" in capsys.readouterr().err
