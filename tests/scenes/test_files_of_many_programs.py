"""Which file belongs to which header, what GeoTIFF, HDF5 and .mat of different programs say, and gaps in spectra."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

import main
from datasets import load_scene
from inference.bands import Bands
from inference.rows import FLAT, PARTLY, RowReader
from preprocessing import fit_preprocessing
from scenes.rasters import open_raster
from utils import InputError

RNG = np.random.default_rng(0)
CUBE = RNG.integers(1, 900, (6, 5, 4)).astype(np.int16)


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


def header(path, shape=CUBE.shape, more=""):
    rows, columns, bands = shape
    path.write_text(
        f"ENVI\nsamples = {columns}\nlines = {rows}\nbands = {bands}\ndata type = 2\ninterleave = bip\n"
        f"byte order = 0\n{more}"
    )
    return path


def values(path, key=None):
    raster = open_raster(path, key)
    return raster.rows(0, raster.shape[0])


def test_a_data_file_goes_with_the_header_of_its_whole_name(tmp_path):
    (tmp_path / "cube.img").write_bytes(CUBE.tobytes())
    (tmp_path / "cube.dat").write_bytes((CUBE[:3] + 1).tobytes())
    header(tmp_path / "cube.img.hdr")
    header(tmp_path / "cube.hdr", (3, 5, 4))
    for name, expected in (("cube.img", CUBE), ("cube.img.hdr", CUBE), ("cube.dat", CUBE[:3] + 1)):
        assert np.array_equal(values(tmp_path / name), expected)
    assert np.array_equal(values(tmp_path / "cube.hdr"), CUBE[:3] + 1)  # cube.img has its own


def test_a_data_file_that_is_named_is_mapped_though_another_lies_beside_it(tmp_path):
    home = tmp_path / "scene"
    home.mkdir()
    cube = (RNG.normal(0, 40, (12, 14, 4)) + 300 * np.eye(4)[np.arange(14) % 2] + 500).astype(np.int16)
    np.save(home / "cube.npy", cube)
    np.save(home / "gt.npy", np.tile(np.arange(14) % 2 + 1, (12, 1)))
    (home / "scene.toml").write_text('cube = "cube.npy"\ngt = "gt.npy"\nclass_names = ["a", "b"]\n')
    common = ["--output", str(tmp_path / "out"), "--cuda", "-1"]
    train = ["--dataset", str(home), "--model", "Hu", "--epoch", "1", "--sampling_mode", "random", "--visdom", "off"]
    assert main.main([*train, *common, "--training_sample", "0.5"]) == 0
    (checkpoint,) = (tmp_path / "out").rglob("last.pt")
    for name in ("new.img", "new.dat"):
        (tmp_path / name).write_bytes(cube.tobytes())
    header(tmp_path / "new.hdr", cube.shape)
    assert main.main(["--predict", str(tmp_path / "new.img"), "--restore", str(checkpoint), *common]) == 0


@pytest.mark.parametrize(
    ("entry", "nodata", "said"),
    [
        ("-9999", -9999, ""),
        ("-9999,", -9999, ""),
        ('"-9999"', -9999, ""),
        ("{-9999}", -9999, ""),
        ("none", None, ""),
        ("about -1", None, "'data ignore value = about -1' is not a number; it is not used"),
    ],
)
def test_the_value_without_data_of_a_header(tmp_path, caplog, entry, nodata, said):
    (tmp_path / "cube.img").write_bytes(CUBE.tobytes())
    assert open_raster(header(tmp_path / "cube.hdr", more=f"data ignore value = {entry}\n")).nodata == nodata
    assert said in caplog.text


def test_gains_to_reflectance_are_used(tmp_path):
    (tmp_path / "cube.img").write_bytes(CUBE.tobytes())
    more = "data reflectance gain values = {0.5, 0.5, 0.5, 0.25}\ndata gain values = {9, 9, 9, 9}\n"
    found = values(header(tmp_path / "cube.hdr", more=more))
    assert np.array_equal(found, CUBE * np.array([0.5, 0.5, 0.5, 0.25], np.float32))


def test_a_unit_in_braces_is_a_unit(tmp_path):
    (tmp_path / "cube.img").write_bytes(CUBE.tobytes())
    more = "wavelength = {0.4, 0.5, 0.6, 0.7}\nwavelength units = {Micrometers}\n"
    assert open_raster(header(tmp_path / "cube.hdr", more=more)).wavelengths == pytest.approx((400, 500, 600, 700))


def tif(path, array, **facts):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    rows, columns, bands = array.shape
    shape = {"height": rows, "width": columns, "count": bands, "dtype": array.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **facts) as file:
        file.write(array.transpose(2, 0, 1))
    return rasterio


@pytest.mark.filterwarnings("ignore::Warning")
def test_wavelengths_in_descriptions_or_in_a_list_for_the_whole_file(tmp_path):
    rasterio = tif(tmp_path / "a.tif", CUBE)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.descriptions = ["band 1 (970.0 Nanometers)", "980.5 nm", "Band 3: 0.99 um", "1000 nanometers"]
    assert open_raster(tmp_path / "a.tif").wavelengths is None  # of different units
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.descriptions = [f"Band {i} ({970 + 10 * i}.0 Nanometers)" for i in range(4)]
    assert open_raster(tmp_path / "a.tif").wavelengths == (970, 980, 990, 1000)
    tif(tmp_path / "b.tif", CUBE)
    with rasterio.open(tmp_path / "b.tif", "r+") as file:
        file.update_tags(wavelength="{0.4, 0.5, 0.6, 0.7}", wavelength_units="Micrometers")
    assert open_raster(tmp_path / "b.tif").wavelengths == pytest.approx((400, 500, 600, 700))


@pytest.mark.filterwarnings("ignore::Warning")
def test_clear_pixels_of_a_geotiff_have_no_data(tmp_path, caplog):
    clear = np.zeros(CUBE.shape[:2], bool)
    clear[1:3, 2] = True
    alpha = np.where(clear, 0, 255)[..., None]
    rasterio = tif(tmp_path / "a.tif", np.concatenate([CUBE, alpha], 2).astype(np.int16))
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.colorinterp = [*[rasterio.enums.ColorInterp.undefined] * 4, rasterio.enums.ColorInterp.alpha]
    found = values(tmp_path / "a.tif")
    assert np.array_equal(np.isnan(found), np.broadcast_to(clear[..., None], CUBE.shape))
    assert np.array_equal(found[~clear], CUBE[~clear])
    assert "band 4 (from 0) marks clear pixels" in caplog.text
    tif(tmp_path / "c.tif", np.concatenate([CUBE, np.full_like(alpha, 255)], 2).astype(np.int16))
    with rasterio.open(tmp_path / "c.tif", "r+") as file:
        file.colorinterp = [*[rasterio.enums.ColorInterp.undefined] * 4, rasterio.enums.ColorInterp.alpha]
    assert np.array_equal(values(tmp_path / "c.tif"), CUBE)
    tif(tmp_path / "b.tif", CUBE)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "b.tif", "r+") as file:
        file.write_mask(~clear)
    found = values(tmp_path / "b.tif")
    assert np.array_equal(np.isnan(found).any(2), clear)
    assert np.array_equal(found[~clear], CUBE[~clear])


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_fourth_band_that_gdal_takes_for_transparency_is_kept(tmp_path):
    cube = (CUBE % 256).astype(np.uint8)
    rasterio = tif(tmp_path / "a.tif", cube, photometric="RGB", alpha="YES")
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.colorinterp[3] == rasterio.enums.ColorInterp.alpha
    assert np.array_equal(values(tmp_path / "a.tif"), cube)


@pytest.mark.filterwarnings("ignore::Warning")
def test_pages_and_ground_control_points_of_a_geotiff_are_named(tmp_path, caplog):
    rasterio = tif(tmp_path / "a.tif", CUBE)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        points = [rasterio.control.GroundControlPoint(r, c, c * 10, -r * 10) for r, c in [(0, 0), (0, 5), (6, 0)]]
        file.gcps = (points, rasterio.crs.CRS.from_epsg(32633))
    assert open_raster(tmp_path / "a.tif").georeference is None
    assert "its ground control points are not used" in caplog.text
    from PIL import Image

    pages = [Image.fromarray(CUBE[..., band].astype(np.int32)) for band in range(4)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"pages\.tif holds 4 images \(pages\) of one band each"):
        open_raster(tmp_path / "pages.tif")


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_header_of_other_data_says_nothing_of_a_geotiff(tmp_path):
    tif(tmp_path / "cube.tif", CUBE)
    header(tmp_path / "cube.hdr", more="wavelength = {400, 500, 600, 700}\nreflectance scale factor = 100\n")
    assert open_raster(tmp_path / "cube.tif").wavelengths == (400, 500, 600, 700)
    (tmp_path / "cube.dat").write_bytes(CUBE.tobytes())
    assert open_raster(tmp_path / "cube.tif").wavelengths is None
    assert np.array_equal(values(tmp_path / "cube.tif"), CUBE)


def scene(home, cube="cube.h5", gt="gt.h5", more=""):
    (home / "scene.toml").write_text(f'cube = "{cube}"\ngt = "{gt}"\nclass_names = ["a", "b"]\n{more}')
    return load_scene(str(home), Path(), need_gt=True)


def test_an_hdf5_cube_with_its_bands_first_is_turned_and_a_single_label_map_is_found(tmp_path):
    gt = np.arange(30).reshape(6, 5) % 2 + 1
    with h5py.File(tmp_path / "cube.h5", "w") as file:
        file["data"] = CUBE.transpose(2, 0, 1)
        file["data"].attrs["scale_factor"] = 0.5
    with h5py.File(tmp_path / "gt.h5", "w") as file:
        file["labels"] = gt
    found = scene(tmp_path)
    assert found.cube is not None
    assert np.array_equal(found.cube, CUBE * np.float32(0.5))
    assert np.array_equal(np.asarray(found.gt), gt)
    (tmp_path / "scene.toml").write_text((tmp_path / "scene.toml").read_text())
    assert load_scene(str(tmp_path), Path(), need_cube=False, need_gt=True).spec.shape == CUBE.shape


def test_the_scale_of_netcdf_is_applied_and_what_has_no_data_is_not_scaled(tmp_path):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["data"] = CUBE
        file["data"].attrs["scale_factor"], file["data"].attrs["add_offset"] = 0.5, 10.0
        file["data"].attrs["_FillValue"] = np.int16(CUBE[0, 0, 0])
    expected = CUBE * np.float32(0.5) + 10
    expected[CUBE[0, 0, 0] == CUBE] = CUBE[0, 0, 0]
    assert np.array_equal(values(tmp_path / "a.nc"), expected)


def test_wavelengths_of_a_description_below_100_are_micrometres(tmp_path, caplog):
    np.save(tmp_path / "cube.npy", CUBE)
    np.save(tmp_path / "gt.npy", np.arange(30).reshape(6, 5) % 2 + 1)
    found = scene(tmp_path, "cube.npy", "gt.npy", "wavelengths = [0.4, 0.5, 0.6, 0.7]\n")
    assert found.spec.wavelengths == pytest.approx((400, 500, 600, 700))
    assert "are all below 100 and are taken to be in um" in caplog.text


@pytest.mark.parametrize(("name", "file"), [("cube_key", "cube.hdr"), ("gt_key", "gt.png")])
def test_a_key_for_a_file_without_variables_is_refused(tmp_path, name, file):
    (tmp_path / "cube.img").write_bytes(CUBE.tobytes())
    header(tmp_path / "cube.hdr")
    with pytest.raises(InputError, match=rf"'{name}' names a variable, and {file} has none; leave it out"):
        scene(tmp_path, "cube.hdr", "gt.png", f'{name} = "x"\n')


def gaps(nodata):
    cube = CUBE.astype(np.float32)
    cube[0, 0, 1] = cube[2, 3, 3] = nodata
    cube[4, 4] = nodata
    return cube


@pytest.mark.parametrize("nodata", [-9999.0, 0.0])
def test_gaps_in_spectra_are_filled_in_training_and_in_mapping(tmp_path, caplog, nodata):
    cube, gt = gaps(nodata), np.arange(30).reshape(6, 5) % 2 + 1
    np.save(tmp_path / "cube.npy", cube)
    np.save(tmp_path / "gt.npy", gt)
    found = scene(tmp_path, "cube.npy", "gt.npy", f"nodata = {nodata}\n")
    assert found.cube is not None
    assert found.nodata == nodata
    expected = cube.copy()
    if nodata:
        expected[0, 0, 1], expected[2, 3, 3] = (cube[0, 0, 0] + cube[0, 0, 2]) / 2, cube[2, 3, 2]
    data = np.arange(30).reshape(6, 5) != 24
    assert np.allclose(found.cube[data], expected[data])
    assert "2 pixels hold the no-data value" in caplog.text
    from dataclasses import replace

    raster = replace(open_raster(tmp_path / "cube.npy"), nodata=nodata)
    plain = fit_preprocessing(expected, gt, normalize="none")
    read = RowReader(raster, Bands(), plain, np.zeros(gt.shape, np.uint8))
    assert np.allclose(read(0, 6)[data], expected[data])
    assert (read.known == PARTLY).sum() == 2
    assert not read(0, 6)[4, 4].any()


def test_only_gaps_in_bands_that_the_network_takes_count(tmp_path):
    from dataclasses import replace

    np.save(tmp_path / "cube.npy", gaps(-9999.0))
    raster = replace(open_raster(tmp_path / "cube.npy"), nodata=-9999.0)
    plain = fit_preprocessing(CUBE[..., [0, 2]].astype(np.float32), np.ones((6, 5), int), normalize="none")
    read = RowReader(raster, Bands(np.array([2, 0])), plain, np.zeros((6, 5), np.uint8))
    read(0, 6)
    assert not (read.known == PARTLY).any()


def test_pixels_of_zeros_that_nothing_marks_are_counted(tmp_path, caplog):
    cube = CUBE.copy()
    cube[3] = 0
    np.save(tmp_path / "cube.npy", cube)
    np.save(tmp_path / "gt.npy", np.arange(30).reshape(6, 5) % 2 + 1)
    scene(tmp_path, "cube.npy", "gt.npy")
    assert "5 pixels are 0, or another value, in all bands, and count as data" in caplog.text
    plain = fit_preprocessing(cube.astype(np.float32), np.ones((6, 5), int), normalize="none")
    read = RowReader(open_raster(tmp_path / "cube.npy"), Bands(), plain, np.zeros((6, 5), np.uint8))
    read(0, 6)
    assert read.count()["pixels_of_one_value_in_all_bands"] == (read.known == FLAT).sum() == 5


def test_a_file_of_python_objects_is_named_as_that(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy holds Python objects, which are not read; save an array of numbers"):
        open_raster(tmp_path / "a.npy")


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4.500000e+02 nm", 450),
        ("4.5e-01 um", 450),
        ("Band 1 (450.0 Nanometers)", 450),
        ("FWHM 10 nm, 450.0 nm", None),
        ("1,020.0 nm", None),
        ("445-455 nm", None),
        ("452,1 nm", None),
    ],
)
def test_only_plain_wavelengths_are_taken_of_a_description(tmp_path, text, found):
    rasterio = tif(tmp_path / "a.tif", CUBE[..., :2])
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.descriptions = [text, text]
    raster = open_raster(tmp_path / "a.tif")
    assert raster.wavelengths == (None if found is None else pytest.approx((found, found)))


@pytest.mark.parametrize(
    ("stored", "said", "empty"),
    [(-3.4028235e38, -3.40282e38, True), (-9999.0, -9999.0, True), (-9999.0, -9998.0, False), (1e30, 1.01e30, False)],
)
def test_a_huge_no_data_value_is_compared_to_a_few_digits(tmp_path, stored, said, empty):
    cube = CUBE.astype(np.float32)
    cube[3] = stored
    np.save(tmp_path / "cube.npy", cube)
    np.save(tmp_path / "gt.npy", np.arange(30).reshape(6, 5) % 2 + 1)
    found = scene(tmp_path, "cube.npy", "gt.npy", f"nodata = {said}\n")
    assert (found.valid is not None and not found.valid[3].any()) == empty


def test_a_no_data_value_that_the_cube_cannot_hold_is_named(tmp_path, caplog):
    np.save(tmp_path / "cube.npy", CUBE.astype(np.uint16))
    np.save(tmp_path / "gt.npy", np.arange(30).reshape(6, 5) % 2 + 1)
    scene(tmp_path, "cube.npy", "gt.npy", "nodata = -9999\n")
    assert "its values cannot be the no-data value -9999, so that all pixels have data" in caplog.text


def test_a_data_set_called_reflectance_is_no_product_by_its_name_alone(tmp_path):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["reflectance"] = CUBE
        file["reflectance"].attrs["scale_factor"] = 0.5
    raster = open_raster(tmp_path / "a.nc")
    assert raster.product is None
    assert np.array_equal(values(tmp_path / "a.nc"), CUBE * np.float32(0.5))


def test_cube_and_labels_of_one_hdf5_file_are_found_by_their_axes(tmp_path):
    gt = np.arange(30).reshape(6, 5) % 3 + 1
    with h5py.File(tmp_path / "both.h5", "w") as file:
        file["cube"], file["labels"] = CUBE, gt
        file["labels"].attrs["_FillValue"] = 3
    found = scene(tmp_path, "both.h5", "both.h5")
    assert np.array_equal(np.asarray(found.gt), np.where(gt == 3, 0, gt))
