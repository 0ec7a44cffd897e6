"""Scenes and fixed masks: the facts of the real ones, and one clear sentence for whatever does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.io

from datasets import load_scene
from scenes import catalogue
from scenes.catalogue import MaskSpec
from splits.fixed_masks import fixed_masks, load_split
from splits.split import skip_border
from utils import InputError

# Ground truth ids of the Indian Pines masks' ids 1 to 16.
IN_GROUND_TRUTH = [2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16, 1, 7, 9]


def real_scene(folder, name, *files, need_cube=False):
    """A real scene, or a skip that names the absent file."""
    for file in files:
        if not (folder / name / file).is_file():
            pytest.skip(f"{folder / name / file} is absent")
    return load_scene(name, folder, need_cube=need_cube)


def real_split(folder, scene):
    paths = fixed_masks(scene.spec.name, folder)
    if paths is None:
        pytest.skip(f"the masks of {scene.spec.name} are absent")
    return load_split(*paths, scene)


def totals(split):
    return int((split.train > 0).sum()), int((split.test > 0).sum())


# The real files


def test_the_indian_pines_masks_are_named_in_their_own_order(real_data):
    split = real_split(real_data, real_scene(real_data, "IndianPines", "Indian_pines_gt.mat"))
    assert split.class_names[:3] == ("Corn-notill", "Corn-mintill", "Corn")
    assert split.class_names[12:] == ("Stone-Steel-Towers", "Alfalfa", "Grass-pasture-mowed", "Oats")
    assert (split.test == 1).sum() == 1384
    assert totals(split) == (695, 9671)
    assert any("number the classes of IndianPines differently" in note for note in split.notes)


def test_the_indian_pines_masks_agree_with_the_ground_truth_once_renumbered(real_data):
    scene = real_scene(real_data, "IndianPines", "Indian_pines_gt.mat")
    split = real_split(real_data, scene)
    assert scene.gt is not None
    renumbered = np.array([0, *IN_GROUND_TRUTH])[split.labelled]
    both = (renumbered > 0) & (scene.gt > 0)
    np.testing.assert_array_equal(renumbered[both], scene.gt[both])
    assert split.class_names == tuple(scene.spec.class_names[i - 1] for i in IN_GROUND_TRUTH)
    assert split.palette == tuple(scene.spec.palette[i - 1] for i in IN_GROUND_TRUTH)  # a class keeps its colour


def test_pixels_that_only_masks_or_ground_truth_label_are_counted(real_data):
    notes = real_split(real_data, real_scene(real_data, "IndianPines", "Indian_pines_gt.mat")).notes
    assert any("label 256 pixels that the ground truth leaves unlabelled" in note for note in notes)
    assert any("leave out 139 pixels that the ground truth labels" in note for note in notes)
    assert len(notes) == 3
    notes = real_split(real_data, real_scene(real_data, "PaviaU", "PaviaU_gt.mat")).notes
    assert len(notes) == 1
    assert "label 1,147 pixels that the ground truth leaves unlabelled" in notes[0]


def test_the_pavia_masks_keep_the_scenes_names(real_data):
    scene = real_scene(real_data, "PaviaU", "PaviaU_gt.mat")
    split = real_split(real_data, scene)
    assert split.class_names == scene.spec.class_names
    assert totals(split) == (3921, 40_002)


def test_the_indian_pines_masks_are_known_without_the_ground_truth(real_data):
    scene = replace(real_scene(real_data, "IndianPines"), gt=None)
    split = real_split(real_data, scene)
    assert scene.spec.masks is not None
    assert split.class_names == scene.spec.masks.names
    assert len(split.notes) == 1
    assert "differently" in split.notes[0]


def test_the_houston_masks_are_transposed(real_data):
    scene = real_scene(real_data, "Houston2013", "TRAIN_GT.mat", "TEST_GT.mat")
    split = real_split(real_data, scene)
    raw = scipy.io.loadmat(real_data / "Houston2013" / "TRAIN_GT.mat")["TR"]
    assert raw.shape == (1905, 349)
    np.testing.assert_array_equal(split.train, raw.T)
    assert totals(split) == (2832, 12_197)
    assert any("were transposed to (349, 1905)" in note for note in split.notes)
    assert split.class_names == scene.spec.class_names


@pytest.mark.parametrize("name", ["IndianPines", "PaviaU", "Salinas", "KSC"])
def test_the_real_ground_truths_have_the_catalogues_counts(real_data, name):
    scene = real_scene(real_data, name, catalogue.SCENES[name].gt_file)
    assert scene.gt is not None
    assert tuple(np.bincount(scene.gt.ravel())[1:]) == scene.spec.class_counts
    assert scene.gt.dtype == np.int64
    assert scene.cube is None


def test_the_real_indian_pines_cube_is_read(real_data):
    scene = real_scene(real_data, "IndianPines", "Indian_pines_corrected.mat", need_cube=True)
    assert scene.cube is not None
    assert scene.cube.shape == (145, 145, 200)
    assert scene.cube.dtype == np.float32
    assert scene.cube.min() > 0


@pytest.mark.parametrize(("name", "share"), [("IndianPines", 0.9752), ("PaviaU", 0.9660)])
def test_skipping_the_border_costs_what_other_tools_lose(real_data, name, share):
    split = real_split(real_data, real_scene(real_data, name))
    kept = totals(skip_border(split, 3))[1] / totals(split)[1]
    assert round(kept, 4) == share


# A made-up scene: what fits


def test_a_scene_is_read_as_the_catalogue_says(tiny_scene):
    scene = tiny_scene.load()
    np.testing.assert_array_equal(scene.cube, tiny_scene.cube)
    np.testing.assert_array_equal(scene.gt, tiny_scene.gt)
    assert (scene.cube.dtype, scene.gt.dtype) == (np.float32, np.int64)
    split = tiny_scene.split()
    np.testing.assert_array_equal(split.train, tiny_scene.train)
    np.testing.assert_array_equal(split.test, tiny_scene.test)
    assert (split.class_names, split.palette) == (tiny_scene.spec.class_names, tiny_scene.spec.palette)
    assert (split.method, split.notes) == ("fixed masks", ())


def test_a_ground_truth_may_be_absent_unless_it_is_needed(tiny_scene):
    (tiny_scene.folder / "Tiny" / "Tiny_gt.mat").unlink()
    assert tiny_scene.load().gt is None
    assert any("without the ground truth" in note for note in tiny_scene.split().notes)
    with pytest.raises(InputError, match=r"Tiny_gt\.mat is missing"):
        tiny_scene.load(need_gt=True)


def test_labels_below_1_in_a_struct_are_unlabelled_and_its_plain_copy_will_do(tiny_scene):
    gt = tiny_scene.gt.astype(np.int8)
    gt[gt == 0] = -1
    tiny_scene.change(cube_file="muufl.mat", gt_file="muufl.mat", cube_key="hsi.Data", gt_key="hsi.sceneLabels.labels")
    tiny_scene.write("muufl.mat", hsi={"Data": tiny_scene.cube, "sceneLabels": {"labels": gt}})
    np.testing.assert_array_equal(tiny_scene.load().gt, tiny_scene.gt)
    tiny_scene.write("muufl.mat", Data=tiny_scene.cube, labels=gt)
    np.testing.assert_array_equal(tiny_scene.load().gt, tiny_scene.gt)
    np.testing.assert_array_equal(tiny_scene.load().cube, tiny_scene.cube)


def test_the_simulated_scene_needs_no_file(tmp_path):
    scene = load_scene("simulated", tmp_path, need_cube=False)
    assert scene.cube is None
    assert scene.gt is not None
    assert scene.spec.shape is not None
    assert scene.gt.shape == scene.spec.shape[:2]


def test_the_only_array_of_the_scenes_shape_is_the_mask(tiny_scene):
    tiny_scene.write("TRAIN_GT.mat", anything=tiny_scene.train, wavelengths=np.ones((1, 4)), cube=tiny_scene.cube)
    np.testing.assert_array_equal(tiny_scene.split().train, tiny_scene.train)


def test_one_file_may_hold_the_cube_and_both_masks(tiny_scene):
    path = tiny_scene.write("both.mat", input=tiny_scene.cube, TR=tiny_scene.train, TE=tiny_scene.test)
    split = load_split(path, path, tiny_scene.load(need_cube=False))
    np.testing.assert_array_equal(split.train, tiny_scene.train)
    np.testing.assert_array_equal(split.test, tiny_scene.test)


def test_fixed_masks_are_found_only_together(tiny_scene):
    home = tiny_scene.folder / "Tiny"
    assert fixed_masks("tiny", tiny_scene.folder) == (home / "TRAIN_GT.mat", home / "TEST_GT.mat")
    (home / "TEST_GT.mat").unlink()
    with pytest.raises(InputError, match=r"TRAIN_GT\.mat exists without its counterpart; .* sampling_mode"):
        fixed_masks("tiny", tiny_scene.folder)
    (home / "TRAIN_GT.mat").unlink()
    assert fixed_masks("tiny", tiny_scene.folder) is None


def test_masks_swapped_in_content_are_pointed_out(tiny_scene):
    tiny_scene.write("TRAIN_GT.mat", TR=tiny_scene.test)
    tiny_scene.write("TEST_GT.mat", TE=tiny_scene.train)
    assert any("swapped" in note for note in tiny_scene.split().notes)


def test_masks_that_are_known_to_be_stored_transposed_are_transposed_and_others_kept(tiny_scene):
    tiny_scene.change(masks=MaskSpec(tiny_scene.spec.class_names, (9, 9, 9), (18, 18, 18), transposed=True))
    assert tiny_scene.split().notes == ()
    tiny_scene.write("TRAIN_GT.mat", TR=tiny_scene.train.T)
    tiny_scene.write("TEST_GT.mat", TE=tiny_scene.test.T)
    split = tiny_scene.split()
    np.testing.assert_array_equal(split.train, tiny_scene.train)
    np.testing.assert_array_equal(split.test, tiny_scene.test)
    assert split.notes == ("the masks of Tiny are stored (12, 9) and were transposed to (9, 12)",)


def renumber(tiny_scene, ids):
    """Write the masks with other ids for the classes 1, 2, 3."""
    table = np.array([0, *ids], dtype=np.uint8)
    tiny_scene.write("TRAIN_GT.mat", TR=table[tiny_scene.train])
    tiny_scene.write("TEST_GT.mat", TE=table[tiny_scene.test])


def test_a_known_renumbering_names_the_masks_own_classes(tiny_scene):
    tiny_scene.change(masks=MaskSpec(("Roof", "Land", "Water"), (9, 9, 9), (18, 18, 18)))
    assert tiny_scene.split().class_names == ("Land", "Water", "Roof")  # masks in the scene's numbering stay so
    renumber(tiny_scene, [2, 3, 1])
    split = tiny_scene.split()
    assert split.class_names == ("Roof", "Land", "Water")
    assert split.palette == ("#0f960f", "#1f77b4", "#e13c2d")
    assert len(split.notes) == 1
    assert "number the classes of Tiny differently" in split.notes[0]


def test_pixels_of_another_class_than_in_the_ground_truth_are_counted(tiny_scene):
    train, test = tiny_scene.train.copy(), tiny_scene.test.copy()
    train[0, 3], test[8, 6:8] = 2, 1
    tiny_scene.write("TRAIN_GT.mat", TR=train)
    tiny_scene.write("TEST_GT.mat", TE=test)
    notes = tiny_scene.split().notes
    assert len(notes) == 1
    assert "3 pixels" in notes[0]
    assert "different" in notes[0]


# A made-up scene: what does not fit, and the sentence for it


def refuse_masks(tiny_scene, match, **masks):
    """Write masks over the good ones and expect an error."""
    for key, mask in masks.items():
        tiny_scene.write({"TR": "TRAIN_GT.mat", "TE": "TEST_GT.mat"}[key], **{key: mask})
    with pytest.raises(InputError, match=match) as caught:
        tiny_scene.split()
    assert "\n" not in str(caught.value)


def test_swapped_masks_are_refused(tiny_scene):
    home = tiny_scene.folder / "Tiny"
    scene = tiny_scene.load(need_cube=False)
    with pytest.raises(InputError, match=r"TEST_GT\.mat holds TE, the test mask, but was given as the training mask"):
        load_split(home / "TEST_GT.mat", home / "TRAIN_GT.mat", scene)
    with pytest.raises(InputError, match=r"the training mask, but was given as the test mask; .* swapped"):
        load_split(home / "TRAIN_GT.mat", home / "TRAIN_GT.mat", scene)


def test_masks_that_share_pixels_are_refused(tiny_scene):
    test = tiny_scene.test.copy()
    test[0, 3:5] = 1
    refuse_masks(tiny_scene, r"TRAIN_GT\.mat and .*TEST_GT\.mat overlap: 2 pixels are in both", TE=test)


def test_transposed_masks_of_a_scene_whose_masks_are_not_known_to_be_are_refused(tiny_scene):
    refuse_masks(tiny_scene, r"TRAIN_GT\.mat.* \(12, 9\) and fits Tiny.* only transposed", TR=tiny_scene.train.T)
    path = tiny_scene.write("TRAIN_GT.mat", anything=tiny_scene.train.T)
    with pytest.raises(InputError, match=rf"{path}.* only transposed"):
        tiny_scene.split()


def test_transposed_masks_of_a_square_scene_are_told_from_a_renumbering(tiny_scene):
    gt = np.zeros((12, 12), dtype=np.uint8)
    gt[:9] = tiny_scene.gt
    tiny_scene.change(shape=(12, 12, 4))
    tiny_scene.write("Tiny_gt.mat", tiny_gt=gt)
    train = np.where(np.arange(12)[:, None] < 3, gt, 0).astype(np.uint8)
    refuse_masks(tiny_scene, "transposed", TR=train.T, TE=(gt - train).T)


def test_masks_of_another_shape_are_refused(tiny_scene):
    refuse_masks(tiny_scene, r"TEST_GT\.mat: the mask is \(9, 11\), but Tiny is \(9, 12\)", TE=tiny_scene.test[:, 1:])


def test_a_cube_in_place_of_a_mask_is_refused(tiny_scene):
    refuse_masks(tiny_scene, r"TRAIN_GT\.mat: the mask is \(9, 12, 4\), but Tiny is \(9, 12\)", TR=tiny_scene.cube)
    tiny_scene.write("TRAIN_GT.mat", input=tiny_scene.cube)
    with pytest.raises(
        InputError, match=r"no array that can be TR, the training mask of Tiny \(9, 12\);.*input \(9, 12, 4\) uint16"
    ):
        tiny_scene.split()


def test_two_arrays_that_could_be_the_mask_are_refused(tiny_scene):
    tiny_scene.write("TRAIN_GT.mat", a=tiny_scene.train, b=tiny_scene.test)
    with pytest.raises(
        InputError, match=r"more than one array that can be TR, the training mask of Tiny \(9, 12\), a \(9, 12\)"
    ):
        tiny_scene.split()


def test_a_tested_class_without_training_pixels_is_refused(tiny_scene):
    train = np.where(tiny_scene.train == 2, 0, tiny_scene.train)
    refuse_masks(tiny_scene, r"class 2 \(Water\) has test pixels but no training pixel", TR=train)


def test_an_empty_mask_is_refused(tiny_scene):
    refuse_masks(tiny_scene, r"TEST_GT\.mat has no labelled pixel", TE=0 * tiny_scene.test)


def test_an_unknown_numbering_is_refused(tiny_scene):
    renumber(tiny_scene, [3, 2, 1])
    with pytest.raises(InputError, match=r"mask's class 1 lies on the ground truth's class 3 \(Roof\).*renumber"):
        tiny_scene.split()


def test_a_numbering_that_fits_the_training_mask_alone_is_refused(tiny_scene):
    test = np.array([0, 2, 1, 3], dtype=np.uint8)[tiny_scene.test]
    refuse_masks(tiny_scene, r"test mask's class 1 lies on the ground truth's class 2 \(Water\)", TE=test)


def test_pixels_whose_label_is_nan_are_unlabelled(tiny_scene):
    row, column = np.argwhere(tiny_scene.train)[0]
    train, gt = tiny_scene.train.astype(float), tiny_scene.gt.astype(float)
    train[train == 0] = np.nan
    gt[row, column] = np.nan
    tiny_scene.write("TRAIN_GT.mat", TR=train)
    tiny_scene.write("Tiny_gt.mat", tiny_gt=gt)
    assert np.array_equal(tiny_scene.split().train, tiny_scene.train)
    assert np.array_equal(tiny_scene.load(need_cube=False).gt, np.nan_to_num(gt))


@pytest.mark.parametrize("value", [1.5, np.inf])
def test_labels_that_are_no_whole_numbers_are_refused(tiny_scene, value):
    train = tiny_scene.train.astype(float)
    train[0, 3] = value
    refuse_masks(tiny_scene, r"TRAIN_GT\.mat: labels must be whole numbers", TR=train)
    gt = tiny_scene.gt.astype(float)
    gt[0, 0] = value
    tiny_scene.write("Tiny_gt.mat", tiny_gt=gt)
    with pytest.raises(InputError, match=r"Tiny_gt\.mat: labels must be whole numbers"):
        tiny_scene.load(need_cube=False)


@pytest.mark.parametrize(("value", "span"), [(4, "0 to 4"), (-1, "-1 to 3"), (255, "0 to 255")])
def test_ids_outside_the_scenes_classes_are_refused(tiny_scene, value, span):
    train = tiny_scene.train.astype(np.int16)
    train[0, 0] = value
    refuse_masks(tiny_scene, rf"TRAIN_GT\.mat: labels run from {span}, but Tiny has the classes 1 to 3", TR=train)
    tiny_scene.write("Tiny_gt.mat", tiny_gt=train)
    with pytest.raises(InputError, match=rf"Tiny_gt\.mat: labels run from {span}"):
        tiny_scene.load(need_cube=False)


def test_a_missing_file_is_answered_with_where_to_get_it(tiny_scene):
    home = tiny_scene.folder / "Tiny"
    (home / "Tiny.mat").unlink()
    with pytest.raises(InputError, match=r"Tiny\.mat is missing: .*ROSIS over the University of Pavia"):
        tiny_scene.load()
    tiny_scene.change(urls={"Tiny.mat": "https://example.org/Tiny.mat"})
    with pytest.raises(InputError, match=r"Tiny\.mat is missing: `python main.py --download Tiny` fetches it"):
        tiny_scene.load()
    (home / "TEST_GT.mat").unlink()
    with pytest.raises(InputError, match=r"TEST_GT\.mat: no such file"):
        tiny_scene.split()


def test_an_unknown_scene_is_answered_with_the_choices(tmp_path):
    with pytest.raises(InputError, match=r"unknown scene 'Indian' .*choose from IndianPines, PaviaU"):
        load_scene("Indian", tmp_path)
    with pytest.raises(InputError, match="unknown scene 'Moon'; choose from"):
        fixed_masks("Moon", tmp_path)


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "1 value"), (np.inf, "1 value"), (-np.inf, "1 value")])
def test_a_cube_with_values_that_are_no_numbers_is_refused_with_the_place(tiny_scene, value, shown):
    cube = tiny_scene.cube.astype(float)
    cube[2, 5, 3] = value
    tiny_scene.write("Tiny.mat", tiny=cube)
    with pytest.raises(InputError, match=rf"Tiny\.mat: {shown}.* NaN or infinite.*row 2, column 5, band 3"):
        tiny_scene.load()


def test_ground_truth_and_cube_in_each_others_place_are_refused(tiny_scene):
    tiny_scene.write("Tiny.mat", tiny=tiny_scene.gt)
    with pytest.raises(InputError, match=r"Tiny\.mat: the cube is \(9, 12\), but Tiny is \(9, 12, 4\)"):
        tiny_scene.load()
    tiny_scene.write("Tiny_gt.mat", tiny_gt=tiny_scene.cube)
    with pytest.raises(InputError, match=r"Tiny_gt\.mat: the ground truth is \(9, 12, 4\), but Tiny is \(9, 12\)"):
        tiny_scene.load(need_cube=False)
    tiny_scene.write("Tiny_gt.mat", tiny=tiny_scene.cube)
    with pytest.raises(InputError, match=r"no variable 'tiny_gt' for the ground truth; it holds tiny \(9, 12, 4\)"):
        tiny_scene.load(need_cube=False)
    tiny_scene.write("Tiny_gt.mat", tiny_gt=tiny_scene.gt)
    tiny_scene.write("Tiny.mat", tiny_gt=tiny_scene.gt)
    with pytest.raises(InputError, match=r"no variable 'tiny' for the cube; it holds tiny_gt \(9, 12\)"):
        tiny_scene.load()


@pytest.mark.parametrize(("axes", "names"), [((2, 0, 1), "bands, rows, columns"), ((1, 0, 2), "columns, rows, bands")])
def test_a_cube_whose_axes_can_only_be_turned_one_way_is_turned_and_said_so(tiny_scene, caplog, axes, names):
    caplog.set_level("INFO")
    tiny_scene.write("Tiny.mat", tiny=tiny_scene.cube.transpose(axes))
    np.testing.assert_array_equal(tiny_scene.load().cube, tiny_scene.cube)
    assert f"Tiny.mat: its axes are {names}" in caplog.text


def test_a_cube_whose_axes_could_be_turned_two_ways_is_refused_with_both(tiny_scene):
    tiny_scene.change(shape=(9, 9, 4))
    tiny_scene.write("Tiny.mat", tiny=tiny_scene.cube[:, :9].transpose(2, 0, 1))
    with pytest.raises(InputError, match=r"could be \(bands, rows, columns\) or \(bands, columns, rows\); save it as"):
        tiny_scene.load(need_gt=False)
    tiny_scene.write("Tiny.mat", tiny=tiny_scene.cube[:, :8])
    with pytest.raises(InputError, match=r"the cube is \(9, 8, 4\), but Tiny is \(9, 9, 4\) \(rows, columns, bands\)"):
        tiny_scene.load()


def test_a_damaged_file_of_another_format_is_refused_by_name(tiny_scene):
    tiny_scene.change(cube_file="tiny.HDR")
    (tiny_scene.folder / "Tiny" / "tiny.HDR").write_bytes(b"ENVI")
    with pytest.raises(InputError, match=r"tiny\.HDR: its data file is missing"):
        tiny_scene.load()
    tiny_scene.change(gt_file="tiny.tif")
    (tiny_scene.folder / "Tiny" / "tiny.tif").write_bytes(b"II")
    with pytest.raises(InputError, match=r"tiny\.tif is not a readable GeoTIFF|rasterio"):
        tiny_scene.load(need_cube=False)
