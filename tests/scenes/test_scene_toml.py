"""Scenes of one's own: a scene.toml is all they need, in any format; what is wrong is named by file, line and key."""

import json
import math

import numpy as np
import pytest
import scipy.io
import spectral.io.envi
from tiny import CUBE, DESCRIPTION, GT, small, write_described

from datasets import load_scene
from main import main
from preprocessing import fit_preprocessing
from scenes import catalogue
from scenes.cubes import read_cube
from scenes.scene_toml import read_description
from scenes.spec import choose_rgb, colours
from splits.fixed_masks import fixed_masks, load_split
from utils import InputError, fingerprint

RNG = np.random.default_rng(0)


@pytest.fixture
def home(tmp_path):
    """A folder My-Scene with cube.npy, gt.npy and a description of them."""
    return write_described(tmp_path / "data" / "My-Scene", small(), masks=False)


def describe(home, **entries):
    """Write the description with other entries; None leaves one out."""
    words = {"cube": "cube.npy", "gt": "gt.npy", "class_names": ["Land", "Water", "Roof"]} | entries
    lines = [
        f"{key} = {value if isinstance(value, str) and value == 'nan' else json.dumps(value)}"
        for key, value in words.items()
        if value is not None
    ]
    (home / "scene.toml").write_text("\n".join(lines) + "\n")


def load(home, name="myscene", **options):
    return load_scene(name, home.parent, **options)


def fixed_split(name, folder, scene):
    masks = fixed_masks(name, folder)
    assert masks is not None
    return load_split(*masks, scene)


def refuses(home, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        load(home, **options)
    assert "\n" not in str(caught.value)


def test_a_scene_is_found_by_name_by_path_and_by_folder(home):
    for name in ("My-Scene", "my_scene", "MYSCENE", str(home), str(home / "scene.toml")):
        scene = load(home, name)
        np.testing.assert_array_equal(scene.cube, CUBE)
        np.testing.assert_array_equal(scene.gt, GT)
        assert scene.cube is not None
        assert scene.gt is not None
        assert scene.spec.rgb_bands is not None
        assert (scene.cube.dtype, scene.gt.dtype) == (np.float32, np.int64)
        assert (scene.spec.name, scene.spec.shape) == ("My-Scene", (9, 12, 4))
        assert scene.spec.class_names == ("Land", "Water", "Roof")
        assert scene.spec.palette == catalogue.PALETTE[:3]
        assert max(scene.spec.rgb_bands) < 4


def test_an_unknown_scene_lists_those_described_as_well(home):
    refuses(home, r"unknown scene 'Moon'; choose from IndianPines, .*; described in .*data: My-Scene", name="Moon")
    refuses(home, r"put a scene.toml into .*data/Augmented_PaviaU that names", name="Augmented_PaviaU")
    refuses(home, r"no-where/scene.toml: no such file; `python main.py --describe", name="no-where/scene.toml")


def test_an_augmented_scene_takes_its_cube_and_ground_truth_from_its_neighbour(home):
    augmented = home.parent / "Augmented_IndianPines"
    augmented.mkdir()
    train = np.where(np.arange(9)[:, None] < 6, GT, 0)
    scipy.io.savemat(augmented / "TRAIN_GT.mat", {"TR": train})
    scipy.io.savemat(augmented / "TEST_GT.mat", {"TE": GT - train})
    describe(augmented, cube="../My-Scene/cube.npy", gt="../My-Scene/gt.npy")
    scene = load(home, "augmented-indian_pines")
    assert scene.spec.name == "Augmented_IndianPines"
    np.testing.assert_array_equal(scene.cube, CUBE)
    split = fixed_split(scene.spec, home.parent, scene)
    np.testing.assert_array_equal(split.train, train)
    assert split.notes == ("more pixels train than test; are the masks swapped?",)


def test_without_its_cube_a_scene_of_a_lazy_format_is_not_read(home):
    spectral.io.envi.save_image(str(home / "c.hdr"), CUBE, ext="img")
    describe(home, cube="c.hdr")
    scene = load(home, need_cube=False)
    assert (scene.spec.shape, scene.cube, scene.valid) == ((9, 12, 4), None, None)
    np.testing.assert_array_equal(scene.gt, GT)
    (home / "c.hdr").unlink()
    refuses(home, r"c\.hdr is missing, which", need_cube=False)


def test_every_entry_is_used(home):
    scipy.io.savemat(home / "a.mat", {"x": CUBE, "y": CUBE * 0, "labels": GT, "other": GT * 0})
    entries = {"cube": "a.mat", "cube_key": "x", "gt": "a.mat", "gt_key": "labels", "name": "Another name"}
    entries |= {"palette": ["#FF0000", "#00ff00", "#0000ff"], "wavelengths": [450, 550, 650, 900.5], "source": "here"}
    describe(home, **entries)
    spec = load(home).spec
    assert (spec.name, spec.source, spec.palette[0]) == ("Another name", "here", "#ff0000")
    assert spec.wavelengths == (450, 550, 650, 900.5)
    assert spec.rgb_bands == (2, 1, 0)
    np.testing.assert_array_equal(load(home).cube, CUBE)
    describe(home, **entries, rgb_bands=[3, 3, 1], pixel_size=2)
    assert load(home).spec.rgb_bands == (3, 3, 1)
    assert load(home).spec.pixel_size == 2


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("cubes = 1", r"line 4: 'cubes' is unknown \(did you mean cube\?\); choose from name, cube, "),
        ("cube_key = 3", "line 4: 'cube_key' must be text: the variable in that file$"),
        ('palette = ["red", "#00ff00", "#0000ff"]', "line 4: 'palette' must be a list of texts"),
        ('palette = ["#00ff00"]', "line 4: 'palette' has 1 colours for 3 class names"),
        ("rgb_bands = [1, 2]", "line 4: 'rgb_bands' must be a list of three whole numbers"),
        ("rgb_bands = [1, 2, -1]", "line 4: 'rgb_bands' must be"),
        ("rgb_bands = [1, 2, 4]", "'rgb_bands' counts from 0, and the cube has 4 bands"),
        ("wavelengths = [1, 2, 3]", "3 wavelengths, but the cube has 4 bands"),
        ("wavelengths = [nan]", "line 4: 'wavelengths' must be above 0"),
        ('nodata = "none"', "line 4: 'nodata' must be a number"),
        ("pixel_size = 0", "line 4: 'pixel_size' must be a number above 0"),
        ('train = "t.mat"', "line 4: 'train' needs its counterpart"),
        ('name = "../up"', "line 4: 'name' must begin with a letter"),
        ('name = "indian_pines"', "line 4: 'name' is that of a scene of the catalogue"),
        ("name", r"is no valid TOML: .*\(at line 4"),
        ("cube = 'b.npy'", r"is no valid TOML: .*\(at line 4"),
        (f"nodata = {'9' * 5000}", "is no valid TOML"),
        (f"wavelengths = {'[' * 5000}", "is no valid TOML"),
        (f"nodata = 1{'0' * 400}", "line 4: 'nodata' must be a number"),
        ("[table]\na = 1", "line 4: 'table' is unknown"),
        ('overlap = "swr"', "line .* 'overlap' must be text"),
        ('drop_bands = ["5-3"]', "'drop_bands': '5-3' is no band"),
        ("drop_bands = [-1]", "line .* 'drop_bands' must be"),
        ('unlabelled = "x"', "line .* 'unlabelled' must be"),
        ("exclude_classes = []", "line .* 'exclude_classes' must be"),
        ('train_key = "x"', "line .* 'train_key' needs train"),
    ],
)
def test_a_wrong_entry_is_named_with_file_line_and_key(home, line, match):
    (home / "scene.toml").write_text(DESCRIPTION + line + "\n")
    refuses(home, rf"scene\.toml.*{match}")


def test_missing_entries_and_files_are_named(home):
    describe(home, cube=None)
    refuses(home, "'cube' is missing")
    describe(home, class_names=None)
    refuses(home, "'class_names' is missing; .*--describe")
    describe(home, class_names=["a", "a", "b"])
    refuses(home, "line 3: 'class_names' names a class twice")
    describe(home, cube="absent.npy")
    refuses(home, r"absent\.npy is missing, which .*scene\.toml names")
    describe(home, gt="absent.npy")
    refuses(home, r"absent\.npy is missing, which .*scene\.toml names")
    describe(home, gt=None)
    assert load(home).gt is None
    refuses(home, "names no ground truth; add `gt`", need_gt=True)
    describe(home, train="a.mat", test="b.mat")
    with pytest.raises(InputError, match=r"a\.mat is missing, which"):
        fixed_masks("myscene", home.parent)
    (home / "scene.toml").write_bytes(b"name = '\xff'")
    refuses(home, "is not text in UTF-8")


def test_masks_of_any_format_are_used(home):
    train = np.where(np.arange(9)[:, None] < 3, GT, 0).astype(np.uint8)
    np.save(home / "t.npy", train)
    spectral.io.envi.save_image(str(home / "e.hdr"), GT - train)
    describe(home, train="t.npy", test="e.hdr")
    split = fixed_split("myscene", home.parent, load(home))
    np.testing.assert_array_equal(split.train, train)
    np.testing.assert_array_equal(split.test, GT - train)


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_the_ground_truth_decides_the_order_of_the_axes(home, axes):
    np.save(home / "cube.npy", CUBE.transpose(axes))
    np.testing.assert_array_equal(load(home).cube, CUBE)


def test_an_order_of_axes_that_is_not_certain_is_refused(home):
    np.save(home / "cube.npy", np.zeros((4, 9, 9)))
    np.save(home / "gt.npy", GT[:, :9])
    refuses(home, r"could be \(bands, rows, columns\) or \(bands, columns, rows\)")
    np.save(home / "cube.npy", CUBE[..., 0])
    refuses(home, "the cube has two axes")


# Pixels without data


@pytest.mark.parametrize("value", [0, -9999, math.nan])
def test_pixels_without_data_are_unlabelled_and_leave_the_normalisation_alone(home, caplog, value):
    caplog.set_level("INFO")
    cube = CUBE.astype(np.float32)
    empty = np.zeros(GT.shape, bool)
    empty[2:5, 4:8] = empty[8, 11] = True
    cube[empty] = value
    np.save(home / "cube.npy", cube)
    describe(home, nodata=None if math.isnan(value) else value)
    scene = load(home)
    assert "13 pixels have no data; they count as unlabelled" in caplog.text
    assert scene.cube is not None
    assert scene.gt is not None
    np.testing.assert_array_equal(scene.gt, np.where(empty, 0, GT))
    np.testing.assert_array_equal(scene.valid, ~empty)
    np.testing.assert_array_equal(scene.cube[~empty], CUBE[~empty])
    for row, column in np.argwhere(empty):  # each holds the spectrum of one of its nearest pixels with data
        distances = np.where(empty, np.inf, np.hypot(*(np.indices(GT.shape) - np.array([[[row]], [[column]]]))))
        nearest = CUBE[distances == distances.min()]
        assert (nearest == scene.cube[row, column]).all(1).any()
    for normalize in ("zscore", "minmax"):
        fitted = fit_preprocessing(scene.cube, scene.gt, normalize=normalize, valid=scene.valid)
        spectra = CUBE[~empty].astype(np.float64)
        low, high = (spectra.mean(0), spectra.std(0)) if normalize == "zscore" else (spectra.min(0), np.ptp(spectra, 0))
        np.testing.assert_allclose(fitted(scene.cube)[~empty], (spectra - low) / high, rtol=1e-4, atol=1e-5)


def test_a_value_in_some_bands_only_is_no_empty_pixel(home, caplog):
    caplog.set_level("INFO")
    cube = CUBE.astype(np.int32)
    cube[1, 1, :2] = -1
    np.save(home / "cube.npy", cube)
    describe(home, nodata=-1)
    assert load(home).valid is None
    assert "1 pixels hold the no-data value -1 in some bands only" in caplog.text
    cube = CUBE.astype(np.float32)
    cube[1, 1, :2] = np.nan
    np.save(home / "cube.npy", cube)
    refuses(home, "2 values are NaN or infinite, the first at row 1, column 1, band 0")
    np.save(home / "cube.npy", np.full((9, 12, 4), np.nan))
    refuses(home, "no band is left: 4 bands .from 0. 0-3 left out, without data")


def test_the_files_own_no_data_value_is_used_and_masks_leave_such_pixels_out(home):
    cube = CUBE.copy()
    cube[0, 3] = 65535
    spectral.io.envi.save_image(str(home / "c.hdr"), cube, metadata={"data ignore value": 65535})
    describe(home, cube="c.hdr")
    scene = load(home)
    assert scene.valid is not None
    assert scene.valid.sum() == GT.size - 1
    train = np.where(np.arange(9)[:, None] < 3, GT, 0)
    for name, mask in (("TRAIN_GT.mat", train), ("TEST_GT.mat", GT - train)):
        scipy.io.savemat(home / name, {name[0] + ("R" if "TRAIN" in name else "E"): mask})
    split = fixed_split("myscene", home.parent, scene)
    assert split.train[0, 3] == 0
    assert (split.train > 0).sum() == (train > 0).sum() - 1
    assert "1 pixels of the masks have no data and were left out" in split.notes


# The formats of the catalogue's scenes


def write_envi(path, cube, place=None):
    spectral.io.envi.save_image(
        str(path), cube, ext="", force=True, interleave="bsq", metadata={"map info": place} if place else {}
    )


def houston(tmp_path, monkeypatch, cube, gt, place=None, **facts):
    """The scene Houston2018 made small, in its own formats."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    from dataclasses import replace

    spec = catalogue.SCENES["Houston2018"]
    assert spec.n_dropped == 2
    shape = (*cube.shape[:2], cube.shape[2] - 2)
    monkeypatch.setitem(catalogue.SCENES, "Houston2018", replace(spec, shape=shape))
    folder = tmp_path / "Houston2018"
    folder.mkdir(exist_ok=True)
    (folder / spec.cube_file).unlink(missing_ok=True)
    write_envi(folder / "2018_IEEE_GRSS_DFC_HSI_TR.hdr", cube, place)
    (folder / "2018_IEEE_GRSS_DFC_HSI_TR.hdr").rename(folder / spec.cube_file)
    if "transform" in facts:
        facts["transform"] = rasterio.Affine(*facts["transform"])
    facts |= {"height": gt.shape[0], "width": gt.shape[1], "count": 1, "dtype": gt.dtype}
    with rasterio.open(folder / spec.gt_file, "w", driver="GTiff", **facts) as image:
        image.write(gt, 1)
    return folder / spec.gt_file


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_houston_2018_loses_two_bands_and_its_labels_come_to_the_cubes_grid_as_gdal_would(
    tmp_path, monkeypatch, factor
):
    gt = RNG.integers(0, 21, (9 * factor, 12 * factor)).astype(np.uint8)
    cube = RNG.integers(1, 900, (9, 12, 6)).astype(np.uint16)
    path = houston(tmp_path, monkeypatch, cube, gt)
    scene = load_scene("houston2018", tmp_path)
    np.testing.assert_array_equal(scene.cube, cube[..., :4])
    import rasterio
    from rasterio.enums import Resampling

    with rasterio.open(path) as image:
        expected = image.read(1, out_shape=(9, 12), resampling=Resampling.nearest)
    np.testing.assert_array_equal(scene.gt, expected)
    np.testing.assert_array_equal(load_scene("houston2018", tmp_path, need_cube=False).gt, expected)


def test_with_places_on_the_map_the_labels_are_looked_up_there_as_gdal_would(tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    from rasterio.warp import Resampling, reproject

    gt = RNG.integers(0, 21, (40, 50)).astype(np.uint8)
    cube = RNG.integers(1, 900, (9, 12, 6)).astype(np.uint16)
    place = ["UTM", "1", "1", "500004.3", "3999993.3", "2.0", "2.0", "15", "North", "WGS-84", "units=Meters"]
    facts = {"crs": "EPSG:32615", "transform": (0.7, 0, 500000, 0, -0.9, 4000000)}
    houston(tmp_path, monkeypatch, cube, gt, place, **facts)
    expected = np.zeros((9, 12), np.uint8)
    to = rasterio.Affine(2, 0, 500004.3, 0, -2, 3999993.3)
    reproject(
        gt, expected, src_transform=rasterio.Affine(*facts["transform"]), src_crs="EPSG:32615", dst_transform=to,
        dst_crs="EPSG:32615", resampling=Resampling.nearest, src_nodata=255, dst_nodata=0,
    )  # fmt: skip
    for need_cube in (True, False):
        np.testing.assert_array_equal(load_scene("houston2018", tmp_path, need_cube=need_cube).gt, expected)
    far = facts | {"transform": (0.7, 0, 600000, 0, -0.9, 4000000)}
    houston(tmp_path, monkeypatch, cube, gt, place, **far)
    with pytest.raises(InputError, match="do not overlap on the map"):
        load_scene("houston2018", tmp_path)
    houston(tmp_path, monkeypatch, cube, gt, place, **(facts | {"crs": "EPSG:32614"}))
    with pytest.raises(InputError, match="do not overlap on the map"):
        load_scene("houston2018", tmp_path)


def test_whu_hi_and_gulfport_are_read_from_their_own_variables(tmp_path, monkeypatch):
    from dataclasses import replace

    for name in ("WHU-Hi-LongKou", "MississippiGulfport"):
        spec = replace(catalogue.SCENES[name], shape=CUBE.shape)
        monkeypatch.setitem(catalogue.SCENES, name, spec)
        (tmp_path / name).mkdir()
    scipy.io.savemat(tmp_path / "WHU-Hi-LongKou/WHU_Hi_LongKou.mat", {"WHU_Hi_LongKou": CUBE})
    scipy.io.savemat(tmp_path / "WHU-Hi-LongKou/WHU_Hi_LongKou_gt.mat", {"WHU_Hi_LongKou_gt": GT})
    labels = np.where(GT == 0, -1, GT.astype(np.int16))
    hsi = {
        "Data": CUBE,
        "info": {"wavelength": np.arange(4.0)},
        "sceneLabels": {"labels": labels, "Materials_Type": "x"},
    }
    scipy.io.savemat(tmp_path / "MississippiGulfport/muufl_gulfport_campus_1_hsi_220_label.mat", {"hsi": hsi})
    for name in ("whu_hi_longkou", "Mississippi_Gulfport"):
        scene = load_scene(name, tmp_path)
        np.testing.assert_array_equal(scene.cube, CUBE)
        np.testing.assert_array_equal(scene.gt, GT)


# End to end


def test_a_scene_of_ones_own_is_trained_resumed_and_mapped(home, tmp_path, capsys):
    cube = CUBE.copy()
    cube[0, 0] = 0
    spectral.io.envi.save_image(str(home / "c.hdr"), cube, interleave="bil", byteorder="big")
    describe(home, cube="c.hdr", nodata=0)
    common = ["--folder", str(tmp_path / "none"), "--output", str(tmp_path / "runs"), "--cuda", "-1"]
    small = ["--model", "CNN", "--patch_size", "3", "--epoch", "1", "--visdom", "off", "--dataset", str(home)]
    assert main([*common, *small, "--sampling_mode", "fixed", "--training_sample", "4"]) == 0
    (run,) = (tmp_path / "runs" / "CNN" / "My-Scene").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["class_names"] == ["Land", "Water", "Roof"]
    assert {"cube", "ground_truth", "masks", "split"} == set(metrics["protocol"]["fingerprints"])
    assert all(len(value) == 64 for value in metrics["protocol"]["fingerprints"].values())
    labels = np.load(run / "prediction.npy")
    assert (labels == 0).sum() == 1
    assert labels[0, 0] == 0
    (run / "metrics.json").unlink()
    assert main(["--resume", str(run), "--cuda", "-1", "--visdom", "off"]) == 0
    np.testing.assert_array_equal(np.load(run / "prediction.npy"), labels)
    capsys.readouterr()


def test_colours_and_bands_for_a_picture_are_chosen():
    assert len(set(colours(60))) == 60
    assert all(len(colour) == 7 for colour in colours(60))
    assert choose_rgb(5, (900.0, 660.0, 540.0, 470.0, 400.0)) == (1, 2, 3)
    assert max(choose_rgb(1, None)) == 0


def test_a_description_opens_no_other_file(home):
    (home / "cube.npy").unlink()
    spec = read_description(home / "scene.toml")
    assert (spec.shape, spec.rgb_bands) == (None, None)
    with pytest.raises(InputError, match="no such file"):
        read_cube(home / "cube.npy", spec, None)


def test_a_result_carries_the_sums_of_cube_ground_truth_and_masks_as_read(home, tmp_path):
    train = np.where(np.arange(9)[:, None] < 4, GT, 0)
    np.save(home / "t.npy", train)
    np.save(home / "e.npy", GT - train)
    describe(home, train="t.npy", test="e.npy")
    small = ["--model", "CNN", "--patch_size", "3", "--epoch", "1", "--visdom", "off", "--cuda", "-1"]
    where = ["--dataset", "myscene", "--folder", str(home.parent), "--output", str(tmp_path / "runs")]
    assert main([*small, *where, "--val_fraction", "0.5", "--border", "skip"]) == 0
    (run,) = (tmp_path / "runs" / "CNN" / "My-Scene").iterdir()
    found = json.loads((run / "metrics.json").read_text())["protocol"]["fingerprints"]
    assert found["cube"] == fingerprint(CUBE.astype(np.float32))
    assert found["ground_truth"] == fingerprint(GT.astype(np.int64))
    assert found["masks"] == fingerprint(train.astype(np.int64), (GT - train).astype(np.int64), None)
    assert found["split"] != found["masks"]
