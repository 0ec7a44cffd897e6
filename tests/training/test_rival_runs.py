"""Every model from the command line: trained or fitted, mapped, resumed, compared; recipes, buffers and refusals."""

import json
from dataclasses import fields

import numpy as np
import pytest
from tiny import large, write_described

import main
from cli.arguments import parse
from models import MODELS
from recipe import OPTIMISERS, TrainConfig, make_schedule
from training.config import RunConfig
from training.run import run as run_job
from training.settings import OPTIMISERS as NAMES
from training.settings import SCHEDULES
from utils import InputError

STRIDES = {"Chen": 16, "Sharma": 8, "morphFormer": 4}  # of maps that would take long
OTHERS = [name for name in MODELS if not name.startswith("MiM")]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a scene of three fields and 18 bands, with the same in 42 and 94 bands, and on larger ground."""
    home = tmp_path_factory.mktemp("rivals")
    for name, n_bands, times in (("Fields", 18, 1), ("Fields42", 42, 1), ("Fields94", 94, 2), ("Large", 18, 5)):
        arrays = large()
        arrays.cube = np.tile(np.repeat(arrays.cube, 16, axis=2)[:, :, :n_bands], (times, times, 1))
        more = [(0, (times - 1) * side) for side in arrays.gt.shape]  # unlabelled
        arrays.gt, arrays.train = (np.pad(each, more) for each in (arrays.gt, arrays.train))
        write_described(home / name, arrays)
    return home


def scene_for(name):
    """The scene with enough bands and pixels for a model."""
    entry = MODELS[name]
    if entry.smallest_patch > 27:
        return "Large"
    return "Fields" if entry.fewest_bands <= 18 else f"Fields{entry.fewest_bands}"


def train(home, *more, scene="Fields"):
    command = ["--dataset", scene, "--folder", home, "--cuda", -1, "--visdom", "off", "--output", home / "runs"]
    return main.main([str(each) for each in (*command, *more)])


def small(name):
    """Flags with which a network is quick."""
    entry = MODELS[name]
    flags = ["--model", name, "--patch_size", max(entry.smallest_patch, 3 if entry.trained else 1)]
    return [*flags, *(["--epoch", 2] if entry.trained else []), *(["--pca", 0] if entry.pca else [])]


@pytest.mark.parametrize("name", OTHERS)
def test_every_model_trains_maps_resumes_and_maps_a_file(home, name, tmp_path, monkeypatch):
    scene, flags = scene_for(name), [*small(name), "--test_stride", STRIDES.get(name, 1)]
    assert train(home, *flags, "--output", tmp_path / "runs", scene=scene) == 0
    folder = folder_of(tmp_path / "runs")
    metrics = json.loads((folder / "metrics.json").read_text())
    labels = np.load(folder / "prediction.npy")
    assert labels.min() >= 1 and metrics["overall_accuracy"] > 0.2
    assert len((folder / "log.jsonl").read_text().splitlines()) == (2 if MODELS[name].trained else 0)
    assert {"report.html", "map.png", "last.pt"} <= {path.name for path in folder.iterdir()}
    # interrupted after the first checkpoint, and resumed

    def stopping(job, run_folder, *arguments, **options):
        for step in run_job(job, run_folder, *arguments, **options):
            if (run_folder / "last.pt").exists():
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr("training.sweep.run", stopping)
    assert train(home, *flags, "--output", tmp_path / "again", scene=scene) == 130
    monkeypatch.undo()
    again = folder_of(tmp_path / "again")
    assert not (again / "metrics.json").exists()
    assert main.main(["--resume", str(again), "--visdom", "off"]) == 0
    assert np.array_equal(np.load(again / "prediction.npy"), labels)
    # a file
    command = ["--predict", home / scene / "cube.npy", "--restore", folder / "last.pt", "--output", tmp_path / "maps"]
    code = main.main([*map(str, command), "--cuda", "-1", "--test_stride", str(flags[-1])])
    if name == "Location":
        assert code == 2
        return
    assert code == 0
    (mapped,) = (tmp_path / "maps" / "predict" / "cube").iterdir()
    same = np.load(mapped / "prediction.npy") == labels
    assert same.all() if flags[-1] == 1 else same.mean() > 0.5  # a run predicts every test pixel whatever the stride


def folder_of(output):
    return next(output.glob("*/*/*"), output)


def test_models_of_all_kinds_end_in_one_table(home, tmp_path, capsys):
    kinds = ("SVM", "hu", "CNN", "Location")
    assert train(home, "--model", *kinds, "--epoch", 1, "--runs", 2, "--output", tmp_path) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("SVM", "Hu", "CNN", "Location")) and "nan" not in said and "epoch" not in said
    (folder,) = (tmp_path / "Location" / "Fields").glob("*seed0")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["overall_accuracy"] == metrics["protocol"]["audit"]["location_accuracy"]
    assert metrics["n_parameters"] is None and metrics["flops_per_patch"] is None


def configs(*flags):
    return parse(["--dataset", "Simulated", *flags]).configs


def test_a_model_takes_patch_and_components_of_its_paper_unless_they_are_given():
    found = configs("--model", "SSFTT", "CNN", "SVM")
    assert [(each.patch_size, each.pca, each.epoch) for each in found] == [(13, 30, 150), (7, 0, 150), (1, 0, 0)]
    found = configs("--model", "SSFTT", "--patch_size", "9", "--pca", "0", "--epoch", "3")
    assert [(each.patch_size, each.pca, each.epoch) for each in found] == [(9, 0, 3)]


@pytest.mark.parametrize("name", MODELS)
def test_the_published_recipe_names_settings_of_a_run_and_flags_win(name):
    published = MODELS[name].published
    assert {*published} <= {each.name for each in fields(RunConfig)}
    (found,) = configs("--model", name, "--recipe", "published")
    assert {key: getattr(found, key) for key in published} == {**published}
    if MODELS[name].trained and published:
        assert found.epoch == published["epoch"] and found.label_smoothing == 0
        assert found.flip_augmentation == (name == "GAHT")
    (ours,) = configs("--model", name)
    usual = RunConfig(dataset="Simulated")
    assert (ours.optimiser, ours.lr, ours.batch_size) == (usual.optimiser, usual.lr, usual.batch_size)
    if MODELS[name].trained:
        (given,) = configs("--model", name, "--recipe", "published", "--lr", "0.5", "--weight_decay", "0.25")
        assert (given.lr, given.weight_decay) == (0.5, 0.25)


def test_the_buffer_is_the_largest_patch_of_the_command_or_what_is_given():
    found = configs("--model", "SSFTT", "CNN", "--sampling_mode", "spatial")
    assert [each.buffer for each in found] == [13, 13]
    assert [each.buffer for each in configs("--model", "CNN", "--sampling_mode", "fields", "--buffer", "15")] == [15]
    assert configs("--model", "CNN")[0].buffer is None
    with pytest.raises(InputError, match="--buffer must be at least the patch size, 7, so that training and test"):
        configs("--model", "CNN", "--sampling_mode", "spatial", "--buffer", "5")
    with pytest.raises(InputError, match="--buffer is used with --sampling_mode spatial or fields"):
        configs("--model", "CNN", "--buffer", "9")


def test_models_with_other_patches_are_tested_on_the_same_pixels(home, tmp_path):
    flags = ("--sampling_mode", "spatial", "--folds", 2, "--block_size", 5, "--buffer", 3)
    for model, patch_size in (("CNN", 3), ("SVM", 1)):
        epochs = ("--epoch", 1) if MODELS[model].trained else ()
        one = ("--model", model, "--patch_size", patch_size, *epochs, "--output", tmp_path)
        assert train(home, *one, *flags) == 0
    splits = {
        json.loads(path.read_text())["protocol"]["fingerprints"]["split"] for path in tmp_path.glob("*/*/*/m*.json")
    }
    assert len(splits) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval_weights", "best", "--val_fraction", "0.1"], "SVM does not use --eval_weights "),
        (["--restore", "last.pt"], "SVM does not use --restore "),
        (["--weight_decay", "-1"], "--weight_decay must be 0 or more, not -1"),
        (["--label_smoothing", "1"], "--label_smoothing must be at least 0 and below 1, not 1"),
    ],
)
def test_what_does_not_fit_a_model_is_refused(flags, message):
    with pytest.raises(InputError, match=message):
        configs("--model", "SVM", *flags)


def test_a_network_that_has_not_learned_is_noted_and_one_that_has_is_not(home, tmp_path, capsys):
    note, common = "note: the network has not learned", ("--model", "CNN", "--patch_size", 3, "--output", tmp_path)
    assert train(home, *common, "--epoch", 1, "--lr", 1e-9) == 0
    assert note in capsys.readouterr().err
    assert train(home, *common, "--epoch", 5) == 0
    assert note not in capsys.readouterr().err


def test_what_changes_patches_is_refused_for_a_whole_scene(home, tmp_path, capsys):
    flags = ("--model", "MambaHSI", "--epoch", 1, "--radiation_augmentation", "--output", tmp_path)
    assert train(home, *flags) == 2
    why = "MambaHSI does not use --radiation_augmentation (what trains on the whole scene has no batches of patches)"
    assert f"{why}; leave it out" in capsys.readouterr().err


def test_the_command_line_knows_the_optimisers_and_schedules_of_the_engine():
    assert set(NAMES) == set(OPTIMISERS)
    assert {*SCHEDULES} == {"one_cycle", "constant", "cosine", "step", "exponential"}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_optimiser_goes_downhill_on_every_schedule(optimiser, schedule):
    import torch

    weight = torch.nn.Parameter(torch.tensor([1.0]))
    config = TrainConfig(8, optimiser=optimiser, schedule=schedule, lr=0.05)
    steps = OPTIMISERS[optimiser]([weight], lr=config.lr, weight_decay=0.0)
    rates = make_schedule(steps, config, 40)
    seen = []
    for _ in range(40):
        steps.zero_grad()
        (weight**2).sum().backward()
        steps.step()
        seen.append(steps.param_groups[0]["lr"])
        rates.step()
    assert weight.abs().item() < 1
    expected = {
        "constant": [0.05] * 40,
        "step": [0.05 * 0.9 ** (i // 4) for i in range(40)],
        "exponential": [0.05 * 0.99 ** (i // 5) for i in range(40)],
        "cosine": [0.025 * (1 + np.cos(np.pi * i / 40)) for i in range(40)],
    }
    if schedule in expected:
        np.testing.assert_allclose(seen, expected[schedule], rtol=1e-6)
    else:
        assert max(seen) == pytest.approx(0.05) and seen[0] < 0.01 and seen[-1] < 0.001


@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop"])
def test_a_run_uses_the_optimiser_and_says_so(home, optimiser, tmp_path):
    flags = ("--optimizer", optimiser, "--schedule", "constant", "--weight_decay", 0, "--label_smoothing", 0)
    assert train(home, "--model", "CNN", "--patch_size", 3, "--epoch", 2, *flags, "--output", tmp_path) == 0
    (path,) = tmp_path.glob("*/*/*/metrics.json")
    recipe = json.loads(path.read_text())["protocol"]["recipe"]
    assert (recipe["optimiser"], recipe["schedule"]) == (optimiser, "constant")
    assert (recipe["weight_decay"], recipe["label_smoothing"]) == (0, 0)
    records = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
    assert [record["lr"] for record in records] == [0.001, 0.001]
