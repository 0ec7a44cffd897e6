"""Settings that have no effect on a model: refused, noted, and not in its protocol; patches, bands and batches."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from cli.arguments import parse
from datasets import load_scene
from models import MODELS, create_model
from models.base import SceneClassifier, SpectrumClassifier
from models.classical import Classical
from training.config import RunConfig
from training.effects import FITTED, UNUSED
from training.fitted import fit, load
from training.interrupted import identity
from training.prepare import prepare
from utils import InputError

CPU = torch.device("cpu")
WHY = r"\(what is fitted at once has no epochs, batches and weights\)"
OF_TRAINING = {
    "class_balancing": [],
    "optimiser": ["sgd"],
    "lr": ["0.1"],
    "precision": ["bfloat16"],
    "radiation_augmentation": [],
    "no-flip_augmentation": [],
    "epoch": ["9"],
    "batch_size": ["1"],
    "data_parallel": [],
    "schedule": ["constant"],
}


def configs(*flags):
    return parse(["--dataset", "Simulated", *map(str, flags)]).configs


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return load_scene("Simulated", tmp_path_factory.mktemp("data"), need_gt=True)


def job(scene, *flags):
    (config,) = configs("--sampling_mode", "random", *flags)
    return prepare(config, scene, CPU)


@pytest.mark.parametrize("flag", OF_TRAINING)
@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.trained])
def test_a_flag_that_no_model_of_the_command_uses_is_refused_with_its_reason(flag, name):
    with pytest.raises(InputError, match=f"^{name} does not use --{flag} {WHY}; leave it out$"):
        configs("--model", name, f"--{flag}", *OF_TRAINING[flag])


def test_several_flags_and_models_are_named_in_one_sentence():
    with pytest.raises(InputError, match=f"^SVM, RF do not use --lr, --epoch {WHY}; leave them out$"):
        configs("--model", "SVM", "RF", "--lr", "0.1", "--epoch", "3")
    with pytest.raises(InputError, match=r"^MambaHSI does not use --batch_size \(what trains on the whole scene has"):
        configs("--model", "MambaHSI", "--batch_size", "32")
    with pytest.raises(InputError, match=r"^Location does not use --spectral \(places are no spectra\); leave it out$"):
        configs("--model", "Location", "--spectral", "snv")


@pytest.mark.parametrize(("flag", "value"), [("epoch", 0), ("epoch", -5), ("lr", -1), ("batch_size", 0)])
def test_values_are_checked_whether_or_not_the_model_uses_them(flag, value):
    with pytest.raises(InputError, match=rf"--{flag} must be .*, not {value}$"):
        configs("--model", "SVM", f"--{flag}", value)


def test_in_a_sweep_a_flag_reaches_the_models_that_use_it_and_a_note_names_the_others(caplog, scene):
    flags = [f"--{flag}" for flag in OF_TRAINING if flag != "data_parallel"]
    flags = [word for flag in flags for word in (flag, *OF_TRAINING[flag.removeprefix("--")])]
    with caplog.at_level(logging.INFO, "mim"):
        cnn, svm, whole = configs("--model", "CNN", "SVM", "MambaHSI", *flags)
    assert (cnn.lr, cnn.epoch, cnn.batch_size, cnn.flip_augmentation, cnn.class_balancing) == (0.1, 9, 1, False, True)
    assert svm == configs("--model", "SVM")[0]
    assert (whole.lr, whole.batch_size, whole.radiation_augmentation) == (0.1, 64, False)
    assert "note: SVM does not use --class_balancing, --optimiser, --lr" in caplog.text
    assert "note: MambaHSI does not use --radiation_augmentation, --batch_size" in caplog.text.replace(
        "--batch_size, --radiation_augmentation", "--radiation_augmentation, --batch_size"
    )


def test_the_protocol_of_a_fitted_model_holds_nothing_that_has_no_effect(scene):
    protocol = job(scene, "--model", "SVM").protocol
    assert protocol["recipe"] == {"epochs": 0} and protocol["augmentation"] == {} and protocol["batch_size"] is None
    swept = configs("--model", "SVM", "CNN", "--sampling_mode", "random", "--class_balancing", "--lr", "0.5")[0]
    assert identity(prepare(swept, scene, CPU).protocol) == identity(protocol)
    assert json.dumps(protocol["notes"]).count("class_balancing") == 0


def test_the_settings_without_effect_are_settings_and_the_command_leaves_them_out():
    for names in UNUSED.values():
        assert {*names} <= {*RunConfig.__dataclass_fields__}
    words = configs("--model", "SVM")[0].command()
    assert not [name for name in UNUSED[FITTED] if f"--{name} " in words or f"--no-{name}" in words]


@pytest.mark.parametrize("name", MODELS)
def test_a_patch_size_matters_to_a_model_as_the_table_says(name):
    entry = MODELS[name]
    n_bands = max(entry.fewest_bands, 4)
    with torch.device("meta"):
        model = create_model(name, n_bands=n_bands, n_classes=2, patch_size=entry.patch_size)
    assert isinstance(model, SpectrumClassifier | SceneClassifier) == (entry.looks_at != "patch")


def test_without_a_window_the_patch_is_1_and_a_note_says_so(caplog, scene):
    with caplog.at_level(logging.INFO, "mim"):
        found = configs("--model", "SVM", "CNN", "--patch_size", 3, 5)
    assert [(each.model, each.patch_size) for each in found] == [("SVM", 1), ("CNN", 3), ("CNN", 5)]
    assert "note: --patch_size has no effect on SVM" in caplog.text
    protocol = job(scene, "--model", "Hu", "--patch_size", 99999).protocol
    assert protocol["model"]["patch_size"] == protocol["audit"]["patch_size"] == 1
    with pytest.raises(InputError, match="--patch_size must be odd"):
        configs("--model", "SVM", "--patch_size", 4)


def test_one_model_by_two_names_is_one_run():
    assert [each.model for each in configs("--model", "svmgrid", "SVM", "roy", "hybrid-sn")] == ["SVM", "HybridSN"]


# bands, patches and batches


def test_a_patch_that_is_too_large_is_told_with_those_that_are_not(scene):
    small = replace(scene, cube=scene.cube[:20, :30], gt=scene.gt[:20, :30])
    for model, size, remedy in (
        ("CNN", 21, "with CNN this scene allows odd sizes from 1 to 19"),
        ("HybridSN", 25, "with HybridSN this scene allows odd sizes from 9 to 19"),
        ("Chen", 27, "Chen needs 25 at least, so choose another model"),
    ):
        with pytest.raises(InputError, match=f"^--patch_size {size} is larger than the scene of 20 x 30 .*; {remedy}$"):
            prepare(configs("--model", model, "--patch_size", size)[0], small, CPU)


def few_bands(scene, n_bands):
    wavelengths = None if scene.spec.wavelengths is None else scene.spec.wavelengths[:n_bands]
    return replace(scene, cube=scene.cube[:, :, :n_bands], spec=replace(scene.spec, wavelengths=wavelengths))


def test_too_few_bands_are_told_before_components_and_a_default_is_called_one(scene):
    flags = ("--patch_size", 9, "--model")
    with pytest.raises(InputError, match=r"^HybridSN needs 13 bands or more, not the 6 of the scene; choose another m"):
        job(few_bands(scene, 6), *flags, "HybridSN")
    with pytest.raises(InputError, match=r"not the 5 of --pca; give a larger --pca or choose another model$"):
        job(scene, *flags, "HybridSN", "--pca", 5)
    default = r"^--pca 30: at most \d+ components .* \(30 is the default of HybridSN; it takes 13 or more, or 0 for all"
    with pytest.raises(InputError, match=default):
        job(few_bands(scene, 20), *flags, "HybridSN")
    with pytest.raises(InputError, match=r"^--pca 29: at most .*; lower it$"):
        job(few_bands(scene, 20), *flags, "HybridSN", "--pca", 29)


@pytest.mark.parametrize(
    ("model", "more", "refused"),
    [
        ("Hu", (), False),  # no BatchNorm
        ("Mou", (), True),
        ("CNN", ("--patch_size", 3), False),  # nine values of each channel
        ("CNN", ("--patch_size", 1), True),
    ],
)
def test_batches_of_one_patch_are_refused_where_batchnorm_gets_a_single_value(scene, model, more, refused):
    flags = ("--model", model, *more, "--batch_size", 1)
    if not refused:
        assert job(scene, *flags).config.batch_size == 1
        return
    with pytest.raises(InputError, match=f"^--batch_size 1 and .* BatchNorm layer of {model} .*; raise --batch_size$"):
        job(scene, *flags)


def test_that_check_draws_nothing_and_changes_nothing(scene):
    states = []
    for size in (1, 64):
        network = job(scene, "--model", "CNN", "--patch_size", 3, "--batch_size", size).model
        states.append([*network.state_dict().values(), torch.get_rng_state()])
        assert network.training
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))


def test_places_need_no_bands_and_get_no_note_on_spectra(scene):
    constant = replace(scene, cube=np.ones_like(scene.cube))
    assert job(constant, "--model", "Location").notes == ()
    with pytest.raises(InputError, match="constant"):
        job(constant, "--model", "SVM")
    bright = replace(scene, cube=np.random.default_rng(0).random(scene.cube.shape, np.float32) + scene.gt[..., None])
    (note,) = job(bright, "--model", "SVM").notes
    assert "--spectral snv takes away" in note
    assert job(bright, "--model", "Location", "--context", "gaussian").notes[0].startswith("the class probabilities")


def test_a_fit_of_many_spectra_is_announced(caplog):
    spectra, labels = torch.rand(1000, 4, generator=torch.Generator().manual_seed(0)), torch.arange(1000) % 2
    model = create_model("SGD", n_bands=4, n_classes=2, patch_size=1)
    assert isinstance(model, Classical)
    with caplog.at_level(logging.INFO, "mim"):
        fit(model, "SGD", spectra[1:], labels[1:], 0)
        assert caplog.text == ""
        fit(model, "SGD", spectra, labels, 0)
        load(model, "SGD", model.state_dict())
    assert caplog.messages == ["fitting SGD on 1,000 spectra"] * 2
