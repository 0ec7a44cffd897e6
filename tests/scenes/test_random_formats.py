"""Random ENVI headers, GeoTIFF tags and HDF5 layouts, read as spectral, rasterio and h5py read them.

The environment variable MIM_EXAMPLES sets the number of examples of each kind, 40 by default.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import spectral
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scenes import products
from scenes.georeference import transform_of
from scenes.hdf5 import Part, Product
from scenes.rasters import open_raster

N = int(os.environ.get("MIM_EXAMPLES", "40"))
often = settings(
    max_examples=N, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
CODES = {"uint8": 1, "int16": 2, "int32": 3, "float32": 4, "float64": 5, "uint16": 12}
UNITS = {"Nanometers": 1, "nanometer": 1, "nm": 1, "Micrometers": 1000, "um": 1000, "Microns": 1000, None: None}
numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32).filter(lambda x: abs(x) > 1e-3)
sizes = st.tuples(*[st.integers(1, 6)] * 3)


def make_cube(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1000, shape).astype(dtype) if dtype[0] == "f" else rng.integers(0, 120, shape).astype(dtype)


def spread(ends, n):
    return np.linspace(ends[0], ends[1], n).round(4).tolist()


def in_nm(waves, unit):
    factor = UNITS[unit] or (1 if max(waves) >= 100 else 1000)
    factor = 1000 if factor == 1 and max(waves) < 100 else factor
    return [factor * wave for wave in waves]


def scaled(cube, gains, offsets, nodata):
    values = cube.astype(np.float64) * gains + offsets
    return values if nodata is None else np.where(cube == nodata, nodata, values)


@often
@given(data=st.data())
def test_envi_headers(tmp_path, data):
    shape, dtype = data.draw(sizes), data.draw(st.sampled_from([*CODES]))
    interleave, order = data.draw(st.sampled_from(["bsq", "BIL", "bip", "BSQ"])), data.draw(st.integers(0, 1))
    cube, offset = make_cube(shape, dtype, data.draw(st.integers(0, 99))), data.draw(st.sampled_from([0, 7, 512]))
    axes = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[interleave.lower()]
    stored = np.ascontiguousarray(cube.transpose(axes)).astype(cube.dtype.newbyteorder("<>"[order]))
    (tmp_path / "a.img").write_bytes(b"\0" * offset + stored.tobytes())
    lines = [f"samples = {shape[1]}", f"lines = {shape[0]}", f"bands = {shape[2]}", f"header offset = {offset}"]
    lines += [f"data type = {CODES[dtype]}", f"interleave = {interleave}", f"byte order = {order}"]
    unit, waves = data.draw(st.sampled_from([*UNITS])), None
    if data.draw(st.booleans()):
        waves = spread(data.draw(st.sampled_from([(400, 2500), (0.4, 2.5)])), shape[2])
        lines.append(f"wavelength = {{{', '.join(map(str, waves))}}}")
        lines += [f"wavelength units = {unit}"] if unit else []
    factor = data.draw(st.none() | st.sampled_from([1, 10000.0, 0.5]))
    lines += [] if factor is None else [f"reflectance scale factor = {factor}"]
    nodata = data.draw(st.none() | st.sampled_from([-9999, 5]))
    lines += [] if nodata is None else [f"data ignore value = {nodata}"]
    good = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=shape[2], max_size=shape[2]))
    lines += [] if good is None else [f"bbl = {{{', '.join(map(str, good))}}}"]
    (tmp_path / "a.hdr").write_text("ENVI\n" + "\n".join(data.draw(st.permutations(lines))) + "\n")
    raster = open_raster(tmp_path / "a.hdr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs: Any = spectral.open_image(str(tmp_path / "a.hdr"))
    assert raster.shape == theirs.shape == shape
    assert theirs.scale_factor == (factor or 1)
    np.testing.assert_array_equal(np.asarray(theirs.load(dtype=np.float64, scale=False)), cube)
    expected = scaled(cube, 1 / (factor or 1), 0, nodata)
    np.testing.assert_allclose(raster.rows(0, shape[0]), expected.astype(raster.dtype), rtol=1e-6)
    assert raster.dtype == (cube.dtype if factor in (None, 1) else np.float32)
    assert raster.nodata == nodata
    assert raster.bad_bands == tuple(i for i, each in enumerate(good or ()) if not each)
    assert (raster.wavelengths is None) == (waves is None)
    if waves is not None:
        assert theirs.bands.centers == pytest.approx(waves)
        assert raster.wavelengths == pytest.approx(in_nm(waves, unit))


@often
@given(data=st.data())
def test_geotiff_tags(tmp_path, data):
    rasterio = pytest.importorskip("rasterio")
    shape, dtype = data.draw(sizes), data.draw(st.sampled_from([*CODES]))
    cube = make_cube(shape, dtype, data.draw(st.integers(0, 99)))
    unit, waves = data.draw(st.sampled_from([*UNITS])), None
    nodata = data.draw(st.none() | st.sampled_from([5, 0]))
    per_band = st.lists(numbers, min_size=shape[2], max_size=shape[2])
    gains, offsets = data.draw(st.none() | per_band), data.draw(st.none() | per_band)
    facts = {"driver": "GTiff", "height": shape[0], "width": shape[1], "count": shape[2], "dtype": dtype}
    place = data.draw(st.none() | st.tuples(numbers, numbers, numbers))
    if place is not None:
        facts |= {"crs": "EPSG:32633", "transform": rasterio.Affine(place[0], 0, place[1], 0, -abs(place[2]), 7)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(tmp_path / "a.tif", "w", nodata=nodata, photometric="MINISBLACK", **facts) as file:
            file.write(cube.transpose(2, 0, 1))
            file.scales = gains or file.scales
            file.offsets = offsets or file.offsets
            if data.draw(st.booleans()):
                waves = spread(data.draw(st.sampled_from([(400, 2500), (0.4, 2.5)])), shape[2])
                together = data.draw(st.booleans())
                for band, wave in enumerate(waves, 1):
                    tags = {"wavelength": f"{wave} {unit}" if together and unit else str(wave)}
                    file.update_tags(band, **tags, **({} if together or not unit else {"wavelength_units": unit}))
        with rasterio.open(tmp_path / "a.tif") as file:
            values = file.read().transpose(1, 2, 0)
            expected = scaled(values, np.array(file.scales), np.array(file.offsets), file.nodata)
            theirs, their_nodata = tuple(file.transform)[:6], file.nodata
        raster = open_raster(tmp_path / "a.tif")
    assert (raster.shape, raster.nodata) == (shape, their_nodata)
    np.testing.assert_allclose(raster.rows(0, shape[0]), expected.astype(raster.dtype), rtol=1e-6)
    if place is not None:
        assert transform_of(raster.georeference) == pytest.approx(theirs)
    assert (raster.wavelengths is None) == (waves is None)
    if waves is not None:
        assert raster.wavelengths == pytest.approx(in_nm(waves, unit))


@often
@given(data=st.data())
def test_hdf5_layouts(tmp_path, data, monkeypatch_module):
    """Cubes of any axes and types in any groups, one or two a file, as a product's record describes them."""
    rows, columns = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    parts, expected, waves = [], [], []
    nodata = data.draw(st.none() | st.sampled_from([0, 5]))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(data.draw(st.integers(1, 2))):
            n_bands, axes = data.draw(st.integers(1, 5)), "".join(data.draw(st.permutations("yxb")))
            cube = make_cube(
                (rows, columns, n_bands), data.draw(st.sampled_from([*CODES])), data.draw(st.integers(0, 9))
            )
            group = data.draw(st.sampled_from(["", "g/", "HDFEOS/Data Fields/"]))
            name = f"{group}cube{number}"
            stored = cube.transpose(["yxb".index(axis) for axis in axes])
            options: dict[str, Any] = {"chunks": True, "compression": "gzip"} if data.draw(st.booleans()) else {}
            file.create_dataset(name, data=stored, **options)
            own = np.linspace(400 + 900 * number, 1200 + 900 * number, n_bands)
            unused = data.draw(st.lists(st.booleans(), min_size=n_bands, max_size=n_bands))
            unused[0] = False
            own[unused] = 0
            file[f"waves{number}"] = own
            gain, offset = data.draw(st.just((1.0, 0.0)) | st.tuples(numbers, numbers))
            parts.append(Part(name, axes, f"waves{number}", scale=lambda _, pair=(gain, offset): pair))
            kept = np.flatnonzero(own > 0)
            expected.append(scaled(cube[..., kept], gain, offset, nodata))
            waves += own[kept].tolist()
    with monkeypatch_module.context() as patch:
        patch.setattr(products, "PRODUCTS", (Product("a product", tuple(parts), nodata=nodata),))
        raster = open_raster(Path(tmp_path / "a.h5"))
    whole = np.concatenate(expected, axis=2)
    assert raster.shape == whole.shape
    np.testing.assert_allclose(raster.rows(0, rows), whole.astype(raster.dtype), rtol=1e-6)
    middle = rows // 2
    np.testing.assert_allclose(raster.rows(middle, rows), whole[middle:].astype(raster.dtype), rtol=1e-6)
    assert raster.wavelengths == pytest.approx(waves)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch
