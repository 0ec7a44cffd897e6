"""The .pt file: it comes back as it was, and nothing else is taken for one or can run code."""

import io
import math
import tracemalloc
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from models import MODELS, create_model
from training.checkpoint import KIND, Checkpoint, model_facts
from training.checkpoint_schema import check_network
from utils import InputError

WEIGHTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
CHECKPOINT = Checkpoint(
    model={"name": "CNN", "n_bands": 4, "n_classes": 2, "patch_size": 3, "options": {"dim": 8, "scales": (3, 1)}},
    preprocessing={
        "normalize": "zscore",
        "fit_on": "scene",
        "offset": torch.zeros(4),
        "scale": torch.ones(4),
        "mean": None,
        "components": None,
    },
    class_names=("Corn", "Woods"),
    palette=("#1f77b4", "#e13c2d"),
    scene="Tiny",
    wavelengths=None,
    border="mirror",
    state={"weights": {"a": WEIGHTS}, "history": {"best_epoch": 3, "best_accuracy": 0.5}},
)


class Intruder:
    """Stands for whatever a stranger's checkpoint would run when unpickled."""

    ran = False

    def __reduce__(self):
        return setattr, (Intruder, "ran", True)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    CHECKPOINT.save(tmp_path / "last.pt")
    loaded = Checkpoint.load(tmp_path / "last.pt")
    assert torch.equal(loaded.state["weights"]["a"], WEIGHTS)
    assert torch.equal(loaded.preprocessing["offset"], torch.zeros(4))
    same = {each.name for each in fields(Checkpoint)} - {"state", "preprocessing"}
    assert {name: getattr(loaded, name) for name in same} == {name: getattr(CHECKPOINT, name) for name in same}
    assert loaded.state["history"] == CHECKPOINT.state["history"]


def test_the_file_has_the_fields_as_entries_and_its_kind(tmp_path):
    CHECKPOINT.save(tmp_path / "last.pt")
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(content) == {"kind", *(each.name for each in fields(Checkpoint))} and content["kind"] == KIND


@pytest.mark.parametrize("missing", ["model", "state", "kind"])
def test_a_checkpoint_that_lacks_an_entry_is_refused(tmp_path, missing):
    CHECKPOINT.save(tmp_path / "last.pt")
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    del content[missing]
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(InputError, match="is not a MiM checkpoint"):
        Checkpoint.load(tmp_path / "last.pt")


def test_a_missing_checkpoint_is_refused(tmp_path):
    for path in (tmp_path / "last.pt", tmp_path):
        with pytest.raises(InputError, match=rf"{path}: no such checkpoint; give a last.pt or best.pt"):
            Checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PK\x03\x04" + bytes(200), b"\x80\x02."])
def test_garbage_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{path} is not a readable checkpoint") as caught:
        Checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    replace(CHECKPOINT, state={"weights": {"a": torch.zeros(1000)}}).save(path)
    whole = path.read_bytes()
    for fraction in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(InputError, match="is not a readable checkpoint"):
            Checkpoint.load(path)


@pytest.mark.parametrize("content", [{"weights": 1}, {"kind": "another"}, [1, 2], torch.zeros(3)])
def test_a_foreign_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "last.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"{path} is not a MiM checkpoint"):
        Checkpoint.load(path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"kind": KIND, "intruder": Intruder()}, path)
    with pytest.raises(InputError, match="is not a readable checkpoint"):
        Checkpoint.load(path)
    assert not Intruder.ran


# Files of strangers


def small(name):
    entry = MODELS[name]
    sizes = {"n_bands": max(entry.fewest_bands, 20), "n_classes": 3, "patch_size": max(entry.smallest_patch, 3)}
    return create_model(name, **sizes)


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_of_every_network_fit_it_and_those_of_another_size_do_not(name):
    model = small(name)
    facts, weights = model_facts(name, model), model.state_dict()
    if "spectra" in weights:
        weights = {"spectra": torch.ones(4, 20), "labels": torch.tensor([0, 1, 2, 1]), "seed": torch.tensor(0)}
    check_network(facts, weights)
    with pytest.raises(InputError, match=f"the checkpoint does not hold the weights of {name}"):
        check_network(facts | {(size := "n_bands" if "spectra" in weights else "n_classes"): facts[size] + 1}, weights)
    with pytest.raises(InputError, match="does not hold the weights"):
        check_network(facts, {part: weights[part] for part in [*weights][:-1]})


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"depth": 10**7}, {}),
        ({"dim": 10**9}, {}),
        ({"d_inner": 10**15}, {}),
        ({"d_state": 10**12}, {}),
        ({}, {"n_classes": 60_000}),
        ({}, {"n_bands": 100_000}),
        ({"scales": (999,) * 500}, {"patch_size": 999}),
    ],
)
def test_a_network_of_absurd_size_is_refused_before_memory_is_asked_for(options, sizes):
    model = small("MiM-v1")
    facts = model_facts("MiM-v1", model) | sizes
    tracemalloc.start()
    with pytest.raises(InputError, match="does not hold the weights of MiM-v1"):
        check_network(facts | {"options": facts["options"] | options}, model.state_dict())
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path):
    replace(CHECKPOINT, state={"weights": {"a": torch.zeros(1_000_000)}}).save(tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "a.pt", "w", 8) as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "a.pt").stat().st_size < 20_000
    with pytest.raises(InputError, match=r"a\.pt is not a readable checkpoint: it is compressed"):
        Checkpoint.load(tmp_path / "a.pt")


def test_a_tensor_that_claims_more_values_than_are_stored_is_refused(tmp_path):
    huge = torch.zeros(1).expand(10**12)
    preprocessing = CHECKPOINT.preprocessing | {"offset": huge, "scale": huge}
    replace(CHECKPOINT, preprocessing=preprocessing).save(tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"preprocessing.offset is said to have 1,000,000,000,000 values"):
        Checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_names": ("Corn",)}, "class_names is of size 1, and the other entries require 2"),
        ({"temperature": float("nan")}, "temperature must be a number"),
        ({"palette": ("red", "#000000")}, r"palette\[0\] must be a colour"),
        ({"border": "none"}, "border must be one of mirror, skip, not 'none'"),
        ({"bands": (0, 1, 1, 2), "n_in_file": 4}, "bands must be different"),
        ({"wavelengths": (1.0, 2.0)}, "wavelengths is of size 2"),
        ({"p_right": (0.5, 2.0)}, r"p_right\[1\] must be a number"),
    ],
)
def test_an_entry_that_is_wrong_is_named(tmp_path, changes, said):
    replace(CHECKPOINT, **changes).save(tmp_path / "a.pt")
    with pytest.raises(InputError, match=rf"a\.pt is a damaged checkpoint: {said}"):
        Checkpoint.load(tmp_path / "a.pt")


SPECTRA = {"spectra": torch.ones(4, 20), "labels": torch.tensor([0, 1, 2, 1]), "seed": torch.tensor(0)}
SEED = "'seed' must be a single number of type int64"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(
            ({"spectra": torch.ones(4, 20, dtype=kind)}, "'spectra' must be of 2 axes of type float32")
            for kind in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool)
        ),
        ({"spectra": torch.ones(4, 20).to(torch.float8_e4m3fn)}, "'spectra' must be of 2 axes of type float32"),
        ({"spectra": torch.full((4, 20), 1e13)}, "the spectra must be finite and below 1e"),
        ({"spectra": torch.full((4, 20), math.nan)}, "the spectra must be finite"),
        ({"seed": torch.tensor(1.5)}, SEED),
        ({"seed": torch.tensor(True)}, SEED),
        ({"seed": torch.zeros(1, 1, dtype=torch.int64)}, SEED),
        ({"seed": torch.tensor(-1)}, "the seed must lie between"),
        ({"more": torch.zeros(1)}, "'more' is unknown"),
        ({"chosen": torch.tensor(16)}, "the chosen settings must lie between -1 and 15"),
        ({"chosen": torch.tensor([0])}, "'chosen' must be a single number"),
    ],
)
def test_what_a_classifier_is_fitted_to_again_must_be_as_it_was_written(changes, said):
    facts = model_facts("SVM", small("SVM"))
    check_network(facts, SPECTRA)
    check_network(facts, SPECTRA | {"chosen": torch.tensor(15)})
    with pytest.raises(InputError, match=f"does not hold the weights of SVM: {said}"):
        check_network(facts, SPECTRA | changes)


def test_only_what_chooses_has_an_entry_for_it():
    with pytest.raises(InputError, match="'chosen' is unknown"):
        check_network(model_facts("RF", small("RF")), SPECTRA | {"chosen": torch.tensor(0)})


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
def test_tensors_of_a_type_that_is_never_written_are_refused(tmp_path, kind):
    replace(CHECKPOINT, state={"weights": {"a": torch.ones(3).to(kind)}}).save(tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt is a damaged checkpoint: state.weights.a must be a tensor"):
        Checkpoint.load(tmp_path / "a.pt")
    preprocessing = CHECKPOINT.preprocessing | {"offset": CHECKPOINT.preprocessing["offset"].to(kind)}
    replace(CHECKPOINT, preprocessing=preprocessing).save(tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt is a damaged checkpoint: preprocessing.offset must be a tensor"):
        Checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "it is empty"),
        ("garbage", "it is a file of another kind"),
        ("truncated", "its end is missing"),
        ("npy", r"it is an array of NumPy \(\.npy\)"),
        ("npz", r"it holds arrays of NumPy \(\.npz\)"),
        ("zip", "it is another zip file"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, kind, said):
    path, buffer = tmp_path / "last.pt", io.BytesIO()
    CHECKPOINT.save(path)
    if kind == "npz":
        np.savez(buffer, a=np.zeros(3))
    elif kind == "npy":
        np.save(buffer, np.zeros(3))
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.txt", "text")
    contents = {"empty": b"", "garbage": b"garbage" * 9, "truncated": path.read_bytes()[:-40]}
    path.write_bytes(contents.get(kind, buffer.getvalue()))
    with pytest.raises(InputError, match=rf"{path} is not a readable checkpoint: {said}.*; give a last.pt") as caught:
        Checkpoint.load(path)
    assert "Error" not in str(caught.value) and "BadZip" not in str(caught.value)
