"""Label maps as people have them: any numbers, any value for unlabelled pixels, pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import load_scene
from scenes.labels import number_classes, shortened
from scenes.spec import SceneSpec, colours
from utils import InputError

NAMES = ("a", "b", "c", "d")
SPEC = SceneSpec("own", "", "", NAMES, colours(4), described="scene.toml")
GT = np.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
CUBE = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)


def numbered(gt, **facts):
    notes: list[str] = []
    spec = number_classes(gt, replace(SPEC, **facts), Path("gt.mat"), notes)
    return spec, gt if spec.numbering is None else spec.numbering(gt, Path("gt.mat")), notes


def test_plain_labels_are_left_alone():
    spec, _, notes = numbered(GT)
    assert spec.numbering is None and notes == []
    spec, _, _ = numbered(np.where(GT == 3, 0, GT))  # a class that does not occur
    assert spec.class_names == NAMES


@pytest.mark.parametrize(
    ("values", "unlabelled"),
    [((0, 1, 2, 3, 5), ()), ((0, 1, 10, 11, 14), ()), ((255, 0, 1, 2, 3), (255,)), ((-1, 0, 1, 2, 3), (-1,))],
)
def test_other_numbers_are_the_classes_in_ascending_order(values, unlabelled):
    spec, labels, notes = numbered(np.array(values)[GT], unlabelled=unlabelled)
    assert np.array_equal(labels, GT)
    assert spec.class_names == NAMES
    assert len(notes) == 1 and "are the classes 1 to 4" in notes[0]


def test_several_values_can_be_unlabelled():
    _, labels, _ = numbered(np.array([[0, 255, 1, 2, 3, 4]]), unlabelled=(0, 255))
    assert labels.tolist() == [[0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("value", [255, -1, 65535])
def test_a_value_that_may_be_unlabelled_is_asked_for(value):
    with pytest.raises(InputError, match=f"say `unlabelled = {value}` or `unlabelled = 0`"):
        numbered(np.array([[0, 1, 2, 3, value]]))


def test_whether_0_is_a_class_is_asked_for_if_it_may_be_the_first_one():
    counts_from_0 = np.array([[0, 1, 2, 3]])
    with pytest.raises(InputError, match=r"is 0 the class 'a', or .*`unlabelled = -1`, or `unlabelled = 0`, in scene"):
        numbered(counts_from_0)
    assert numbered(counts_from_0, unlabelled=(-1,))[1].tolist() == [[1, 2, 3, 4]]
    spec, labels, _ = numbered(counts_from_0, unlabelled=(0,))
    assert (spec.class_names, labels.tolist()) == (NAMES, [[0, 1, 2, 3]])


@pytest.mark.parametrize("excluded", [("b",), ("2",)])
def test_classes_can_be_left_out_by_name_or_number(excluded):
    spec, labels, notes = numbered(GT, exclude_classes=excluded)
    assert spec.class_names == ("a", "c", "d")
    assert spec.palette == (SPEC.palette[0], *SPEC.palette[2:])
    assert labels[0].tolist() == [0, 1, 0, 2, 3]
    assert notes == ["gt.mat: the pixels of b count as unlabelled, as exclude_classes says"]


def test_labels_that_do_not_fit_the_names_and_classes_that_are_none_are_refused():
    with pytest.raises(InputError, match="labels run from 0 to 6, but own has the classes 1 to 4"):
        numbered(np.array([[0, 1, 2, 3, 4, 6]]))
    with pytest.raises(InputError, match="'exclude_classes' names 'bb'"):
        numbered(GT, exclude_classes=("bb",))
    with pytest.raises(InputError, match="leaves no class"):
        numbered(GT, exclude_classes=NAMES)
    spec, _, _ = numbered(GT * 2, exclude_classes=("a",))
    assert spec.numbering is not None
    with pytest.raises(InputError, match="has the label 9, which is none of the ground truth's"):
        spec.numbering(np.array([9]), Path("mask"))


def test_runs_of_numbers_are_shortened():
    assert shortened([1, 3, 4, 10, 11, 12, 13]) == "1, 3, 4, 10-13"


@pytest.fixture
def home(tmp_path):
    np.save(tmp_path / "cube.npy", CUBE)
    return tmp_path


def load(home, gt, more=""):
    text = f'cube = "cube.npy"\ngt = "{gt}"\nclass_names = ["a", "b", "c", "d"]\n{more}'
    (home / "scene.toml").write_text(text)
    return load_scene(str(home), Path(), need_gt=True)


def test_pictures_of_numbers_are_label_maps(home):
    Image.fromarray(GT.astype(np.uint8)).save(home / "grey.png")
    picture = Image.fromarray(GT.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    picture.save(home / "palette.png")
    for name in ("grey.png", "palette.png"):
        assert np.array_equal(np.asarray(load(home, name).gt), GT)


def test_a_picture_of_colours_is_read_by_the_palette(home):
    colour = ["#ff0000", "#00ff00", "#0000ff", "#010203"]
    table = np.array([[0, 0, 0], *([*bytes.fromhex(each[1:])] for each in colour)], np.uint8)
    Image.fromarray(table[GT]).save(home / "colours.png")
    assert np.array_equal(np.asarray(load(home, "colours.png", f"palette = {colour}\n").gt), GT)
    with pytest.raises(InputError, match="colours that `palette` does not name, #00"):
        load(home, "colours.png")


def test_a_damaged_picture_is_refused(home):
    (home / "gt.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=r"gt.png is not a readable PNG"):
        load(home, "gt.png")


def test_masks_are_numbered_as_the_ground_truth(home):
    from splits.fixed_masks import load_split

    values = np.array([255, 0, 1, 2, 3])
    np.save(home / "gt.npy", values[GT])
    first = np.zeros_like(GT, bool)
    first[0] = True
    np.save(home / "train.npy", np.where(first, values[GT], 255))
    np.save(home / "test.npy", np.where(first, 255, values[GT]))
    scene = load(home, "gt.npy", "unlabelled = 255\n")
    split = load_split(home / "train.npy", home / "test.npy", scene)
    assert np.array_equal(split.train, np.where(first, GT, 0))
    assert np.array_equal(split.test, np.where(first, 0, GT))
    alone = load_split(home / "train.npy", None, scene)
    assert np.array_equal(alone.test, split.test)
    assert alone.method == "training mask; all other labelled pixels test"
    masks_only = replace(scene, gt=None, spec=replace(scene.spec, numbering=None, unlabelled=(255,)))
    assert np.array_equal(load_split(home / "train.npy", home / "test.npy", masks_only).train, split.train)


def test_where_a_ground_truth_does_not_reach_there_is_no_label_though_0_is_a_class(tmp_path):
    """It has its own grid, a no-data value, and classes that count from 0."""
    rasterio = pytest.importorskip("rasterio")
    facts = {"driver": "GTiff", "crs": "EPSG:32633"}
    with rasterio.open(
        tmp_path / "cube.tif", "w", height=2, width=5, count=6, dtype="float32",
        transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **facts,
    ) as file:  # fmt: skip
        file.write(CUBE.transpose(2, 0, 1))
    values = np.array([[0, 1, 2, 254]], np.uint8)  # covers the first four columns of the first row
    with rasterio.open(
        tmp_path / "gt.tif", "w", height=1, width=4, count=1, dtype="uint8", nodata=254,
        transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **facts,
    ) as file:  # fmt: skip
        file.write(values, 1)
    text = 'cube = "cube.tif"\ngt = "gt.tif"\nunlabelled = 255\nclass_names = ["a", "b", "c"]\n'
    (tmp_path / "scene.toml").write_text(text)
    scene = load_scene(str(tmp_path), Path(), need_gt=True)
    assert np.asarray(scene.gt).tolist() == [[1, 2, 3, 0, 0], [0, 0, 0, 0, 0]]
