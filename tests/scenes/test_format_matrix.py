"""The table of formats in docs/data.md: each of its cells is what a file of that format gives here, and no more."""

import re
import tracemalloc
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from scenes.raster import Raster
from scenes.rasters import open_raster, write_labels
from utils import InputError

rasterio = pytest.importorskip("rasterio")
FEATURES = ("read", "wavelengths", "scale", "no data", "bad bands", "place", "by blocks", "written")
WAVES, NODATA, SCALE = (500.0, 600.0, 700.0), 7, 0.5
H, W = 2000, 40
CUBE = np.random.default_rng(0).integers(10, 100, (H, W, 3)).astype(np.int16)
PLACE = (30.0, 0.0, 366000.0, 0.0, -30.0, 5810000.0)
UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(*PLACE)}


def envi(path):
    path.with_suffix(".img").write_bytes(CUBE.transpose(2, 0, 1).tobytes())
    path.write_text(
        f"ENVI\nsamples = {W}\nlines = {H}\nbands = 3\ndata type = 2\ninterleave = bsq\nbyte order = 0\n"
        f"wavelength = {{500, 600, 700}}\nwavelength units = nm\ndata gain values = {{{SCALE}, {SCALE}, {SCALE}}}\n"
        f"data ignore value = {NODATA}\nbbl = {{1, 0, 1}}\n"
        "map info = {UTM, 1, 1, 366000, 5810000, 30, 30, 33, North, WGS-84}\n"
    )


def geotiff(path):
    facts = {"driver": "GTiff", "height": H, "width": W, "count": 3, "dtype": "int16", "nodata": NODATA}
    with rasterio.open(path, "w", **facts, **UTM) as file:
        file.write(CUBE.transpose(2, 0, 1))
        file.scales = (SCALE,) * 3
        for band, wave in enumerate(WAVES, 1):
            file.update_tags(band, wavelength=str(wave), wavelength_units="nm", bbl=str(int(band != 2)))


def hdf5(path):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("cube", data=CUBE, chunks=(10, W, 3))
        data.attrs["_FillValue"] = np.int16(NODATA)


def emit(path):
    """A product with everything but a scale, which NEON's files have."""
    with h5py.File(path, "w") as file:
        file["reflectance"] = CUBE.astype(np.float32)
        file["reflectance"].attrs["_FillValue"] = np.float32(NODATA)
        group = file.create_group("sensor_band_parameters")
        group["wavelengths"], group["good_wavelengths"] = np.array(WAVES), np.array([1, 0, 1], np.uint8)
        table = np.arange(1, W + 1)[None].repeat(H, 0)
        file["location/glt_x"], file["location/glt_y"] = table, np.arange(1, H + 1)[:, None].repeat(W, 1)
        file.attrs["geotransform"], file.attrs["spatial_ref"] = (1.0, 0.001, 0.0, 2.0, 0.0, -0.001), "EPSG:4326"


def neon(path):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("SITE/Reflectance/Reflectance_Data", data=CUBE)
        data.attrs["Scale_Factor"], data.attrs["Data_Ignore_Value"] = 1 / SCALE, NODATA
        file["SITE/Reflectance/Metadata/Spectral_Data/Wavelength"] = np.array(WAVES)


def erdas(path):
    head = b"HEAD74" + np.array([2, 3], "<i2").tobytes() + b"\0" * 6 + np.array([W, H, 0, 0], "<i4").tobytes()
    path.write_bytes(head.ljust(128, b"\0") + CUBE.transpose(0, 2, 1).astype("<u2").tobytes())


MAKERS = {  # how the first words of a row are made: files, each with what it shows
    "ENVI": {"a.hdr": envi},
    "GeoTIFF": {"a.tif": geotiff},
    "MATLAB": {"a.mat": lambda path: savemat(path, {"cube": CUBE})},
    "NumPy": {"a.npy": lambda path: np.save(path, CUBE), "a.npz": lambda path: np.savez(path, cube=CUBE)},
    "HDF5 and netCDF-4": {"a.h5": hdf5, "emit.nc": emit, "neon.h5": neon},
    "ERDAS": {"a.lan": erdas},
    "PNG": {"a.png": lambda path: Image.fromarray(CUBE[..., 0].astype(np.uint8)).save(path)},
}


def rows_of_the_page():
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| format \|.*?\n\n", text, re.DOTALL | re.MULTILINE)
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines())
    assert tuple(head[1:]) == FEATURES
    return {line[0].split(" (")[0]: dict(zip(FEATURES, line[1:], strict=True)) for line in lines}


def bytes_held_for_a_row(path):
    tracemalloc.start()
    raster = open_raster(path)
    raster.rows(5, 6)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held


def found_in(path) -> set[str]:
    raster = open_raster(path)
    assert raster.shape[:2] == (H, W)
    values = raster.rows(0, H).astype(np.float64)
    plain = CUBE[..., : raster.shape[2]].astype(float)
    scaled = np.allclose(values, SCALE * plain)
    assert scaled or np.array_equal(values, plain)
    checks = {
        "read": True,
        "wavelengths": raster.wavelengths == WAVES,
        "scale": scaled,
        "no data": raster.nodata == NODATA,
        "bad bands": raster.bad_bands == (1,),
        "place": raster.georeference is not None or raster.ortho is not None,
        "by blocks": bytes_held_for_a_row(path) < CUBE.nbytes / 4,
    }
    return {feature for feature, there in checks.items() if there}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_row_of_the_table_is_true(tmp_path, kind):
    cells, found = rows_of_the_page()[kind], {}
    for name, make in MAKERS[kind].items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(tmp_path / name)
        found[name] = found_in(tmp_path / name)
    first, *others = found.values()
    for feature in FEATURES[:-1]:
        cell = cells[feature]
        if cell == "products":  # in files that a record describes, not in any other
            assert feature not in first and any(feature in each for each in others), feature
        elif cell.startswith("`"):  # of one of the suffixes only
            assert [name for name in found if feature in found[name]] == ["a" + cell.strip("`")], feature
        else:
            assert cell in ("", "yes") and (cell == "yes") == (feature in first), feature


def test_the_formats_that_are_written_are_those_of_the_table(tmp_path):
    labels = np.arange(12).reshape(3, 4) % 3
    for kind, cells in rows_of_the_page().items():
        for name in MAKERS.get(kind, ()):
            path = tmp_path / f"map{Path(name).suffix}"
            like = Raster.of(labels, path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    write_labels(path, labels, ("a", "b"), ("#000000", "#ffffff"), like)
                    written = np.array_equal(open_raster(path).rows(0, 3)[..., 0], labels)
                except (InputError, ValueError):
                    written = False
            assert written == (cells["written"] == "yes"), kind


def test_polygons_have_a_row_whose_cells_are_tested_elsewhere():
    polygons = rows_of_the_page()["polygons"]  # tests/scenes/test_vectors.py
    assert {feature for feature in FEATURES if polygons[feature]} == {"read", "place"}
    assert set(rows_of_the_page()) == {*MAKERS, "polygons"}
