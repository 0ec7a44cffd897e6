"""A scene written again with more training samples is a scene like any other, and its test holds none of them."""

import numpy as np
import pytest

import main
from cli.augment import enlarge
from datasets import load_scene
from reporting.results import read_json
from splits.fixed_masks import fixed_masks, load_split


@pytest.mark.parametrize("factor", [1.5, 2, 10])
def test_training_grows_out_of_the_test_and_leaves_it_half(tiny_scene, factor):
    split = tiny_scene.split()
    larger = enlarge(split, factor, np.random.default_rng(0))
    assert np.array_equal(larger.train + larger.test, split.train + split.test)
    assert ((split.train > 0) <= (larger.train > 0)).all()
    for label in (1, 2, 3):
        had, tested = int((split.train == label).sum()), int((split.test == label).sum())
        assert (larger.train == label).sum() == had + min(round((factor - 1) * had), tested // 2)
    again = enlarge(split, factor, np.random.default_rng(0))
    assert np.array_equal(larger.train, again.train)


def test_the_written_scene_is_read_and_trained_on(tiny_scene, tmp_path):
    folder = str(tiny_scene.folder)
    assert main.main(["--augment", "2", "--dataset", "Tiny", "--folder", folder]) == 0
    scene = load_scene("augmented-tiny", tiny_scene.folder)
    np.testing.assert_array_equal(scene.cube, tiny_scene.load().cube)
    masks = fixed_masks("Augmented_Tiny", tiny_scene.folder)
    assert masks is not None
    split = load_split(*masks, scene)
    assert (split.train > 0).sum() == 2 * (tiny_scene.train > 0).sum()
    assert split.class_names == ("Land", "Water", "Roof")
    command = ["--dataset", "Augmented_Tiny", "--folder", folder, "--model", "CNN", "--patch_size", "3", "--epoch", "1"]
    assert main.main([*command, "--visdom", "off", "--cuda", "-1", "--output", str(tmp_path / "runs")]) == 0
    (run,) = (tmp_path / "runs" / "CNN" / "Augmented_Tiny").iterdir()
    assert read_json(run / "metrics.json")["n_train"] == (split.train > 0).sum()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--augment", "1", "--dataset", "Tiny"], "--augment must be above 1"),
        (["--augment", "nan", "--dataset", "Tiny"], "--augment must be above 1"),
        (["--augment", "2"], "--dataset is missing"),
        (["--augment", "2", "--dataset", "Simulated"], "is in no file"),
        (["--augment", "2", "--dataset", "Tiny", "--epoch", "3"], "--augment does not use --epoch"),
    ],
)
def test_what_cannot_be_augmented_is_refused(tiny_scene, capsys, more, message):
    assert main.main([*more, "--folder", str(tiny_scene.folder)]) == 2
    assert message in capsys.readouterr().err
    assert not (tiny_scene.folder / "Augmented_Tiny").exists()


def test_a_folder_that_is_there_is_kept(tiny_scene, capsys):
    (tiny_scene.folder / "Augmented_Tiny").mkdir()
    assert main.main(["--augment", "2", "--dataset", "Tiny", "--folder", str(tiny_scene.folder)]) == 2
    assert "exists already" in capsys.readouterr().err
