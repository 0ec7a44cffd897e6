"""--describe says what there is, and what it suggests works when it is saved."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import spectral.io.envi
from tiny import CUBE, GT

from cli.describe import describe
from datasets import load_scene
from main import main
from scenes.rasters import Raster, open_raster
from scenes.survey import survey
from utils import InputError

RNG = np.random.default_rng(0)


def save_suggestion(lines, folder):
    start = lines.index("# scene.toml")
    (folder / "scene.toml").write_text("\n".join(lines[start:]) + "\n", encoding="utf-8")


def one_mat(folder):
    scipy.io.savemat(folder / "all.mat", {"x": CUBE, "labels": GT, "lines": np.ones((1, 4))})
    return folder / "all.mat"


def two_npy_bands_first(folder):
    np.save(folder / "cube.npy", CUBE.transpose(2, 0, 1))
    np.save(folder / "gt.npy", GT)
    return folder / "cube.npy"


def envi(folder):
    wavelengths = {"wavelength": [0.45, 0.55, 0.65, 0.9], "wavelength units": "Micrometers"}
    spectral.io.envi.save_image(str(folder / "c.hdr"), CUBE, metadata=wavelengths, interleave="bsq", byteorder="big")
    names = ["Unclassified", "Land", "Water", 'Ro"of']
    spectral.io.envi.save_classification(str(folder / "labels.hdr"), GT, class_names=names)
    return folder / "c.hdr"


def geotiff(folder):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    for name, cube in (("c.tif", CUBE), ("gt.tif", GT[..., None])):
        facts = {"height": 9, "width": 12, "count": cube.shape[2], "dtype": cube.dtype, "crs": "EPSG:32633"}
        facts["transform"] = rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)
        with rasterio.open(folder / name, "w", driver="GTiff", **facts) as image:
            image.write(cube.transpose(2, 0, 1))
    return folder / "c.tif"


@pytest.mark.parametrize("write", [one_mat, two_npy_bands_first, envi, geotiff])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_the_suggested_description_works_when_it_is_saved(tmp_path, write, what):
    home = tmp_path / "Some (odd) näme"
    home.mkdir()
    path = write(home)
    lines = describe(str(path if what == "file" else home), tmp_path)
    save_suggestion(lines, home)
    scene = load_scene(str(home), tmp_path)
    text = "\n".join(lines)
    if what == "file" and write is not one_mat:  # no other file is read
        assert "gt = " not in text.replace('# gt = "FILE"', "")
        assert "(describe its folder)" in text
        return
    np.testing.assert_array_equal(scene.cube, CUBE)
    np.testing.assert_array_equal(scene.gt, GT)
    assert scene.spec.n_classes == 3
    if write is envi:
        assert scene.spec.class_names == ("Land", "Water", 'Ro"of')
        assert scene.spec.rgb_bands == (2, 1, 0)
    assert f"range         {CUBE.min()} to {CUBE.max()}" in text
    if what == "folder":
        assert "0: 27, 1: 27, 2: 27, 3: 27" in text
    again = "\n".join(describe(str(home), tmp_path))  # now as a scene
    assert "3 classes, 81 labelled pixels" in again
    assert "as read: 9 x 12 x 4" in again


def test_a_suggestion_is_trained_with(tmp_path, capsys):
    home = tmp_path / "IndianPines"  # named as a scene of the catalogue is
    home.mkdir()
    one_mat(home)
    assert main(["--describe", str(home / "all.mat")]) == 0
    save_suggestion(capsys.readouterr().out.splitlines(), home)
    small = ["--model", "CNN", "--patch_size", "3", "--epoch", "1", "--visdom", "off", "--cuda", "-1"]
    assert main([*small, "--dataset", str(home), "--output", str(tmp_path / "runs")]) == 0
    assert (tmp_path / "runs" / "CNN" / "IndianPines-own").is_dir()


def test_without_a_label_map_the_suggestion_says_what_to_add_and_can_be_read(tmp_path):
    np.save(tmp_path / "cube.npy", CUBE)
    np.save(tmp_path / "other.npy", GT[1:])
    lines = describe(str(tmp_path / "cube.npy"), tmp_path)
    assert any("no label map of the cube's size" in line for line in lines)
    save_suggestion(lines, tmp_path)
    scene = load_scene(str(tmp_path), tmp_path)
    assert scene.gt is None
    np.testing.assert_array_equal(scene.cube, CUBE)


def test_what_is_odd_in_a_cube_is_counted(tmp_path):
    cube = RNG.normal(size=(6, 5, 7)).astype(np.float32)
    cube[..., 3] = 2.5
    cube[..., 5] = np.nan
    cube[1, 2, :2], cube[2, 2, 0] = np.nan, np.inf
    np.save(tmp_path / "c.npy", cube)
    text = "\n".join(describe(str(tmp_path / "c.npy"), tmp_path))
    assert "not a number  32 NaN, 1 infinite" in text
    assert "constant      2 bands (from 0): 3, 5" in text
    finite = cube[np.isfinite(cube)]
    assert f"range         {finite.min():g} to {finite.max():g}" in text


def test_values_of_pixels_without_data_are_counted_and_left_out_of_the_range(tmp_path):
    cube = CUBE.astype(np.int32)
    cube[:2, 0] = -9999
    spectral.io.envi.save_image(str(tmp_path / "c.hdr"), cube, metadata={"data ignore value": -9999})
    text = "\n".join(describe(str(tmp_path / "c.hdr"), tmp_path))
    rest = np.delete(cube.reshape(-1, 4), [0, 12], axis=0)
    assert f"range         {rest.min():g} to {rest.max():g}" in text
    assert "no data       -9999, 8 values" in text


def test_a_finer_label_map_is_suggested_as_well(tmp_path):
    np.save(tmp_path / "cube.npy", CUBE)
    np.save(tmp_path / "gt.npy", np.kron(GT, np.ones((2, 2), np.uint8)))
    save_suggestion(describe(str(tmp_path), tmp_path), tmp_path)
    np.testing.assert_array_equal(load_scene(str(tmp_path), tmp_path).gt, GT)


def test_a_survey_in_blocks_equals_one_at_once(tmp_path, monkeypatch):
    cube = RNG.integers(-500, 500, (23, 5, 3)).astype(np.int16)
    np.save(tmp_path / "c.npy", cube)
    np.save(tmp_path / "gt.npy", cube[..., 0] % 7)
    for block in (1, 100, 1 << 24):
        monkeypatch.setattr("scenes.survey._BLOCK", block)
        values = survey(open_raster(tmp_path / "c.npy"))
        np.testing.assert_array_equal(values.low, cube.min((0, 1)))
        np.testing.assert_array_equal(values.high, cube.max((0, 1)))
        counts = survey(open_raster(tmp_path / "gt.npy")).counts
        assert counts is not None
        assert [counts[i] for i in range(7)] == np.bincount((cube[..., 0] % 7).ravel()).tolist()


def test_a_big_file_takes_little_memory(tmp_path):
    with (tmp_path / "big.img").open("wb") as file:
        file.truncate(1500 * 500 * 100 * 2)  # 150 MB, none of them on the disk
    text = "ENVI\nsamples = 500\nlines = 1500\nbands = 100\ndata type = 12\ninterleave = bil\nbyte order = 0\n"
    (tmp_path / "big.hdr").write_text(text)
    tracemalloc.start()
    assert "143.1 MiB" in "\n".join(describe(str(tmp_path / "big.hdr"), tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_catalogue_scenes_are_described_and_missing_files_said(tiny_scene):
    text = "\n".join(describe("tiny", tiny_scene.folder))
    assert "   2  Water  27" in text
    assert "fixed masks: " in text
    (tiny_scene.folder / "Tiny" / "Tiny.mat").unlink()
    assert "Tiny.mat is missing" in "\n".join(describe("tiny", tiny_scene.folder))
    (tiny_scene.folder / "Tiny" / "Tiny_gt.mat").unlink()
    assert "ground truth: " in "\n".join(describe("tiny", tiny_scene.folder))


def test_the_real_indian_pines_is_described(real_data):
    if not (real_data / "IndianPines" / "Indian_pines_corrected.mat").is_file():
        pytest.skip(f"{real_data / 'IndianPines'} has no cube")
    text = "\n".join(describe("IndianPines", real_data))
    assert "145 x 145 x 200 (rows, columns, bands), uint16" in text
    assert "16 classes, 10,249 labelled pixels" in text


def test_what_cannot_be_described_is_refused(tmp_path, capsys):
    with pytest.raises(InputError, match="unknown scene 'Moon'"):
        describe("Moon", tmp_path)
    with pytest.raises(InputError, match=r"holds no scene.toml and no file of a format that is read"):
        describe(str(tmp_path), tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"b\.hdr: no such file"):
        describe(str(tmp_path / "b.hdr"), tmp_path)
    with pytest.raises(InputError, match=r"a\.jpg is a file, not a scene; `python main\.py --describe"):
        load_scene(str(tmp_path / "a.jpg"), tmp_path)
    with pytest.raises(InputError, match=r"\.jpg: this is none of the formats"):
        describe(str(tmp_path / "a.jpg"), tmp_path)
    assert main(["--describe", "PaviaU", "--epoch", "3"]) == 2
    assert "--describe does not use --epoch" in capsys.readouterr().err
    assert main(["--describe", "Simulated"]) == 0
    assert "128 x 128 x 64" in capsys.readouterr().out


def test_an_array_is_an_image():
    raster = Raster.of(GT, Path("gt.mat"))
    assert raster.shape == (9, 12, 1)
    np.testing.assert_array_equal(raster.rows(2, 4)[..., 0], GT[2:4])
