"""The .pt file: it comes back as it was, and nothing else is taken for one or can run code."""

from dataclasses import fields, replace

import pytest
import torch

from training.checkpoint import KIND, Checkpoint
from utils import InputError

WEIGHTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
CHECKPOINT = Checkpoint(
    model={"name": "CNN", "n_bands": 4, "options": {"dim": 8, "scales": (3, 1)}},
    preprocessing={"normalize": "zscore", "offset": torch.zeros(4), "mean": None},
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
    replace(CHECKPOINT, state={"weights": torch.zeros(1000)}).save(path)
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
