"""Rasters written by other software are read row by row, values and place alike, and what is damaged is refused."""

import builtins
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.io
import spectral.io.envi
from spectral.io.spyfile import SpyFile

from scenes.georeference import pixel_size_of, transform_of
from scenes.rasters import Raster, open_raster, write_bands, write_labels
from utils import InputError

RNG = np.random.default_rng(0)
CUBE = RNG.integers(0, 60_000, (7, 5, 4)).astype(np.uint16)
HEADER = """ENVI
samples = 5
lines = 7
bands = 4
header offset = 0
data type = 12
interleave = {interleave}
byte order = {order}
"""
UTM = ["UTM", "1", "1", "500000.0", "4000000.0", "10.0", "10.0", "31", "North", "WGS-84", "units=Meters"]


def by_hand(folder, interleave="bsq", order=0, extra="", cube=CUBE, name="scene"):
    """An ENVI pair put together from bytes, with nothing of ours and no library."""
    height, width, n_bands = cube.shape
    steps = {
        "bip": [(i, j, k) for i in range(height) for j in range(width) for k in range(n_bands)],
        "bil": [(i, j, k) for i in range(height) for k in range(n_bands) for j in range(width)],
        "bsq": [(i, j, k) for k in range(n_bands) for i in range(height) for j in range(width)],
    }[interleave]
    data = b"".join(int(cube[step]).to_bytes(2, ("little", "big")[order]) for step in steps)
    (folder / f"{name}.hdr").write_text(HEADER.format(interleave=interleave, order=order) + extra)
    (folder / f"{name}.dat").write_bytes(data)
    return folder / f"{name}.hdr"


def assert_reads(raster, cube):
    assert raster.shape == cube.shape
    assert raster.dtype == cube.dtype
    assert raster.dtype.isnative
    for start, stop in ((0, len(cube)), (2, 4), (len(cube) - 1, len(cube)), (3, 3)):
        rows = raster.rows(start, stop)
        np.testing.assert_array_equal(rows, cube[start:stop])
        assert rows.dtype == raster.dtype
        assert rows.flags.c_contiguous
        assert rows.flags.writeable


def refuses(match, *args):
    with pytest.raises(InputError, match=match) as caught:
        open_raster(*args)
    assert "\n" not in str(caught.value)


# ENVI


@pytest.mark.parametrize("interleave", ["bil", "bip", "bsq"])
@pytest.mark.parametrize("order", [0, 1])
def test_envi_by_hand_is_read_in_every_interleave_and_byte_order(tmp_path, interleave, order):
    path = by_hand(tmp_path, interleave, order)
    assert_reads(open_raster(path), CUBE)
    assert_reads(open_raster(tmp_path / "scene.dat"), CUBE)


@pytest.mark.parametrize("interleave", ["bil", "bip", "bsq"])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_envi_written_by_the_package_spectral_is_read(tmp_path, interleave, order, dtype):
    cube = RNG.normal(scale=50, size=(4, 3, 6)).astype(dtype)
    path = tmp_path / "a.hdr"
    spectral.io.envi.save_image(str(path), cube, interleave=interleave, byteorder=order, dtype=cube.dtype)
    assert_reads(open_raster(path), cube)


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("Nanometers", "450.5, 550, 650, 900", (450.5, 550, 650, 900)),
        ("Micrometers", "0.45, 0.55, 0.65, 0.9", (450, 550, 650, 900)),
        ("um", "0.9, 0.65, 0.55, 0.45", (900, 650, 550, 450)),
        ("Unknown", "450, 550, 650, 900", (450, 550, 650, 900)),
        ("Unknown", "0.45, 0.55, 0.65, 0.9", (450, 550, 650, 900)),
        ("Wavenumber", "450, 550, 650, 900", None),
        ("Nanometers", "450, 550, 650", None),
        ("Nanometers", "450, 550, words, 900", None),
    ],
)
def test_wavelengths_are_in_nanometres_in_the_files_order(tmp_path, unit, values, expected):
    path = by_hand(tmp_path, extra=f"wavelength units = {unit}\nWavelength = {{\n {values}}}\n")
    found = open_raster(path).wavelengths
    assert found == (None if expected is None else pytest.approx(expected))


def test_an_offset_a_no_data_value_and_letters_of_another_encoding_are_read(tmp_path):
    path = by_hand(tmp_path, extra="data ignore value = -9999\n")
    text = path.read_text().replace("header offset = 0", "header offset = 10\ndescription = {Nädele}")
    path.write_bytes(text.encode("latin-1"))
    (tmp_path / "scene.dat").write_bytes(bytes(10) + (tmp_path / "scene.dat").read_bytes())
    raster = open_raster(path)
    assert_reads(raster, CUBE)
    assert raster.nodata == -9999


def test_an_envi_classification_names_its_classes(tmp_path):
    labels = CUBE[..., 0] % 3
    names = ["Unclassified", "Land", "Water"]
    spectral.io.envi.save_classification(str(tmp_path / "a.hdr"), labels.astype(np.uint8), class_names=names)
    raster = open_raster(tmp_path / "a.hdr")
    assert raster.class_names == ("Land", "Water")
    np.testing.assert_array_equal(raster.rows(0, 7)[..., 0], labels)


@pytest.mark.parametrize("change", [-1, 1, -140, 100])
def test_data_of_another_size_than_the_header_asks_for_are_refused(tmp_path, change):
    path = by_hand(tmp_path)
    data = (tmp_path / "scene.dat").read_bytes()
    (tmp_path / "scene.dat").write_bytes(data[:change] if change < 0 else data + bytes(change))
    refuses("scene.dat is (cut off|longer): it has .* bytes where scene.hdr", path)


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ("samples = 5", "samples = many"),
        ("samples = 5", "samples = -5"),
        ("samples = 5", "samples = 0"),
        ("lines = 7", "lines = 99999999999999999999"),
        ("lines = 7", f"lines = {'9' * 6000}"),
        ("bands = 4", "bands = 4.0"),
        ("data type = 12", "data type = 6"),
        ("interleave = bsq", "interleave = tiles"),
        ("byte order = 0", "byte order = 2"),
        ("header offset = 0", "header offset = -1"),
        ("header offset = 0", "file compression = 1"),
        ("header offset = 0", "major frame offsets = {1, 0}"),
    ],
)
def test_an_impossible_header_is_refused_by_the_entrys_name(tmp_path, entry, wrong):
    path = by_hand(tmp_path)
    path.write_text(path.read_text().replace(entry, wrong))
    refuses(f"scene.hdr: '{wrong.split(' =')[0]} = .*' must be", path)


@pytest.mark.parametrize("key", ["samples", "lines", "bands", "data type", "interleave"])
def test_a_missing_entry_is_named(tmp_path, key):
    path = by_hand(tmp_path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith(key)))
    refuses(f"the entry '{key}' is missing", path)


def test_missing_or_ambiguous_data_files_and_unknown_suffixes_are_refused(tmp_path):
    path = by_hand(tmp_path)
    (tmp_path / "scene.img").write_bytes(b"")
    refuses("scene.dat, scene.img could all be its data", path)
    assert_reads(open_raster(tmp_path / "scene.dat"), CUBE)
    (tmp_path / "scene.img").unlink()
    (tmp_path / "scene.dat").unlink()
    refuses("its data file is missing; put scene or scene.img", path)
    refuses("absent.hdr: no such file", tmp_path / "absent.hdr")
    (tmp_path / "a.jpg").write_bytes(b"")
    refuses(r"\.jpg: this is none of the formats that are read: ENVI .*GeoTIFF", tmp_path / "a.jpg")


def test_few_rows_of_a_big_file_take_little_memory(tmp_path):
    for interleave in ("bil", "bsq", "bip"):
        with (tmp_path / "big.img").open("wb") as file:
            file.truncate(4000 * 500 * 100 * 2)  # 400 MB, none of them on the disk
        text = HEADER.format(interleave=interleave, order=0)
        text = text.replace("samples = 5", "samples = 500").replace("lines = 7", "lines = 4000")
        (tmp_path / "big.hdr").write_text(text.replace("bands = 4", "bands = 100"))
        tracemalloc.start()
        assert open_raster(tmp_path / "big.hdr").rows(2000, 2010).shape == (10, 500, 100)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6


# .npy, .npz, .mat


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_npy_and_npz_are_read(tmp_path, order, layout):
    cube = CUBE.astype(f"{order}u2", order=layout)
    np.save(tmp_path / "a.npy", cube)
    assert_reads(open_raster(tmp_path / "a.npy"), CUBE)
    np.savez_compressed(tmp_path / "a.npz", cube=cube, gt=cube[..., 0], names=np.array(["a", "b"]))
    assert_reads(open_raster(tmp_path / "a.npz"), CUBE)
    assert_reads(open_raster(tmp_path / "a.npz", "gt"), CUBE[..., :1])


def test_an_image_among_other_variables_is_found_or_must_be_named(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"cube": CUBE, "wavelengths": np.ones((1, 4)), "gt": CUBE[..., 0]})
    assert_reads(open_raster(tmp_path / "a.mat"), CUBE)
    scipy.io.savemat(tmp_path / "b.mat", {"one": CUBE, "two": CUBE})
    refuses(
        r"more than one array that can be an image.*, one \(7, 5, 4\) uint16, .*; name the variable", tmp_path / "b.mat"
    )
    assert_reads(open_raster(tmp_path / "b.mat", "two"), CUBE)
    refuses("no variable 'three'", tmp_path / "b.mat", "three")
    np.save(tmp_path / "line.npy", np.arange(5))
    refuses("holds no image of two or three axes", tmp_path / "line.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_arrays_and_objects_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    np.save(path, CUBE) if suffix == ".npy" else np.savez(path, a=CUBE)
    path.write_bytes(path.read_bytes()[:-30])
    refuses(f"is not a readable {suffix} file", path)
    objects = np.array([{}], dtype=object)
    np.save(path, objects) if suffix == ".npy" else np.savez(path, a=objects)
    refuses("holds Python objects, which are not read", path)


# GeoTIFF


def geotiff(path, cube, **facts):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    facts = {"height": cube.shape[0], "width": cube.shape[1], "count": cube.shape[2], "dtype": cube.dtype} | facts
    if "transform" in facts:
        facts["transform"] = rasterio.Affine(*facts["transform"])
    with rasterio.open(path, "w", driver="GTiff", **facts) as image:
        image.write(cube.transpose(2, 0, 1))
    return path


@pytest.mark.parametrize("options", [{}, {"endianness": "big"}, {"interleave": "pixel", "compress": "lzw"}])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_geotiff_written_by_rasterio_is_read(tmp_path, options, dtype):
    cube = CUBE.astype(dtype)
    place = {"crs": "EPSG:32631", "transform": (10, 0, 500000, 0, -10, 4000000), "nodata": 7}
    raster = open_raster(geotiff(tmp_path / "a.tif", cube, **place, **options))
    assert_reads(raster, cube)
    assert raster.nodata == 7
    assert raster.georeference is not None
    assert raster.georeference["transform"] == place["transform"]
    assert "UTM zone 31N" in raster.georeference["crs"]
    assert open_raster(geotiff(tmp_path / "b.TIFF", cube)).georeference is None


def test_wavelengths_in_a_geotiffs_bands_are_read(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    path = geotiff(tmp_path / "a.tif", CUBE)
    with rasterio.open(path, "r+") as image:
        for band in range(1, 5):
            image.update_tags(band, wavelength=f"{band / 10}", wavelength_units="Micrometers")
    assert open_raster(path).wavelengths == pytest.approx((100, 200, 300, 400))


def test_a_damaged_geotiff_is_refused(tmp_path):
    path = geotiff(tmp_path / "a.tif", RNG.normal(size=(60, 50, 3)))
    content = path.read_bytes()
    path.write_bytes(content[:20_000])
    with pytest.raises(InputError, match=r"a\.tif is not a readable GeoTIFF"):
        open_raster(path).rows(0, 60)
    path.write_bytes(b"<html>")
    refuses(r"a\.tif is not a readable GeoTIFF", path)


def test_without_rasterio_the_error_names_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **options):
        if name.split(".")[0] == "rasterio":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "rasterio", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    refuses("`pip install rasterio`", tmp_path / "a.tif")
    with pytest.raises(InputError, match="`pip install rasterio`"):
        write_labels(tmp_path / "a.tif", CUBE[..., 0], ("a",), ("#ff0000",))


# Written by us, read by others


LABELS = (CUBE[..., 0] % 4).astype(np.uint8)
LEGEND = (("Land", "Water", "Roof"), ("#ff0000", "#00ff00", "#0000ff"))


def test_spectral_reads_our_labels_and_bands_with_names_colours_and_place(tmp_path):
    like = open_raster(
        by_hand(tmp_path, extra=f"map info = {{{', '.join(UTM)}}}\ncoordinate system string = {{A[1,2]}}")
    )
    write_labels(tmp_path / "map.hdr", LABELS, *LEGEND, like)
    image = spectral.io.envi.open(str(tmp_path / "map.hdr"))
    assert isinstance(image, SpyFile)
    np.testing.assert_array_equal(np.asarray(image.read_band(0)), LABELS)
    assert image.metadata["class names"] == ["Unlabelled", "Land", "Water", "Roof"]
    assert image.metadata["class lookup"] == ["0", "0", "0", "255", "0", "0", "0", "255", "0", "0", "0", "255"]
    assert image.metadata["map info"] == UTM
    assert image.metadata["coordinate system string"] == ["A[1", "2]"]
    bands = RNG.normal(size=(7, 5, 3)).astype(np.float32)
    write_bands(tmp_path / "p.hdr", bands, LEGEND[0], like)
    image = spectral.io.envi.open(str(tmp_path / "p.hdr"))
    assert isinstance(image, SpyFile)
    np.testing.assert_array_equal(np.asarray(image.load()), bands)
    assert image.metadata["band names"] == list(LEGEND[0])
    assert open_raster(tmp_path / "p.hdr").georeference == like.georeference
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["map.hdr", "map.img", "p.hdr", "p.img", "scene.dat", "scene.hdr"]
    )


def test_rasterio_reads_our_labels_and_bands_with_colours_and_place(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    place = {"crs": "EPSG:32633", "transform": (2.5, 0, 4e5, 0, -2.5, 5e6)}
    like = open_raster(geotiff(tmp_path / "in.tif", CUBE, **place))
    write_labels(tmp_path / "map.tif", LABELS.astype(np.uint16), *LEGEND, like)
    with rasterio.open(tmp_path / "map.tif") as image:
        np.testing.assert_array_equal(image.read(1), LABELS)
        assert image.colormap(1)[2] == (0, 255, 0, 255)
        assert image.crs.to_epsg() == 32633
        assert tuple(image.transform)[:6] == place["transform"]
        assert image.tags()["class_3"] == "Roof"
    bands = RNG.normal(size=(7, 5, 3)).astype(np.float32)
    write_bands(tmp_path / "p.tif", bands, LEGEND[0], like)
    with rasterio.open(tmp_path / "p.tif") as image:
        np.testing.assert_array_equal(image.read().transpose(1, 2, 0), bands)
        assert image.descriptions == LEGEND[0]


def test_a_place_survives_the_way_from_envi_to_geotiff_and_back_as_gdal_sees_it(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    for number, info in enumerate(
        (
            UTM,
            ["UTM", "3.5", "2", "5e5", "4e6", "10", "20", "31", "South", "WGS-84"],
            ["UTM", "1", "1", "5e5", "4e6", "10", "10", "31", "North", "WGS-84", "rotation=30"],
            ["Geographic Lat/Lon", "1", "1", "11.5", "48.25", "1e-4", "2e-4", "WGS-84", "units=Degrees"],
        )
    ):
        like = open_raster(by_hand(tmp_path, extra=f"map info = {{{', '.join(info)}}}\n", name=f"s{number}"))
        with rasterio.open(tmp_path / f"s{number}.dat") as theirs:  # GDAL reads the header itself
            expected, crs = tuple(theirs.transform)[:6], theirs.crs.to_dict()
        assert transform_of(like.georeference) == pytest.approx(expected)
        write_labels(tmp_path / "map.tif", LABELS, *LEGEND, like)
        tif = open_raster(tmp_path / "map.tif")
        with rasterio.open(tmp_path / "map.tif") as image:
            assert image.crs.to_dict() == crs
            assert tuple(image.transform)[:6] == pytest.approx(expected)
        write_labels(tmp_path / "back.hdr", LABELS, *LEGEND, tif)
        with rasterio.open(tmp_path / "back.img") as image:
            assert image.crs.to_dict() == crs
            assert tuple(image.transform)[:6] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "metres"),
    [
        ({}, 10),
        ({10: "rotation=30"}, 10),
        ({6: "20.0"}, None),  # not the same in both directions
        ({0: "Arbitrary", 10: "units=Feet"}, None),
        ({0: "Lambert", 10: "units=Meters"}, 10),
        ({0: "Geographic Lat/Lon", 10: "units=Degrees"}, None),
        ({5: "nan"}, None),
    ],
    ids=str,
)
def test_the_size_of_a_pixel_is_known_where_the_place_is_in_metres(tmp_path, changes, metres):
    info = [changes.get(i, word) for i, word in enumerate(UTM)]
    raster = open_raster(by_hand(tmp_path, extra=f"map info = {{{', '.join(info)}}}\n"))
    assert pixel_size_of(raster.georeference) == (None if metres is None else pytest.approx(metres))
    assert pixel_size_of(None) is None


@pytest.mark.parametrize(
    ("crs", "metres"), [("EPSG:32631", 2.5), ("EPSG:2263", 2.5 * 0.3048006096), ("EPSG:4326", None)]
)
def test_the_size_of_a_geotiffs_pixel_is_in_metres_whatever_its_unit(tmp_path, crs, metres):
    geotiff(tmp_path / "a.tif", np.zeros((3, 4, 2), np.uint8), crs=crs, transform=(2.5, 0, 10, 0, -2.5, 50))
    size = pixel_size_of(open_raster(tmp_path / "a.tif").georeference)
    assert size == (None if metres is None else pytest.approx(metres))


def test_an_unknown_suffix_to_write_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"map\.png: maps are written as ENVI \(\.hdr\) or GeoTIFF"):
        write_labels(tmp_path / "map.png", LABELS, *LEGEND)
    assert isinstance(Raster(tmp_path, (1, 1, 1), np.dtype("u1")), Raster)
