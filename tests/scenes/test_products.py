"""Products of imaging spectrometers, of small files that are laid out as the products' documentation says."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import main
from datasets import load_scene
from scenes.georeference import crs_of, transform_of
from scenes.rasters import open_raster
from splits.fixed_masks import _mask_array
from utils import InputError

rasterio = pytest.importorskip("rasterio")
RNG = np.random.default_rng(0)
H, W = 9, 7
UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(30, 0, 366000, 0, -30, 5810000)}


def prisma(path, level="L2D", rows=H, columns=W, n_vnir=5, n_swir=6):
    """A PRISMA file: wavelengths fall, unused channels have 0, DN run from 0 to 65535 between two values."""
    vnir, swir = (RNG.integers(1, 65536, (rows, n, columns)).astype("u2") for n in (n_vnir, n_swir))
    vnir[2, :, 3] = swir[2, :, 3] = 0
    waves = np.linspace(1010, 400, n_vnir), np.linspace(2500, 940, n_swir)
    waves[0][-1] = 0
    with h5py.File(path, "w") as file:
        base = f"HDFEOS/SWATHS/PRS_{level}_HCO/Data Fields"
        file[f"{base}/VNIR_Cube"], file[f"{base}/SWIR_Cube"] = vnir, swir
        file.attrs["List_Cw_Vnir"], file.attrs["List_Cw_Swir"] = waves
        if level == "L2D":
            for kind, high in (("Vnir", 0.9), ("Swir", 0.7)):
                file.attrs[f"L2Scale{kind}Min"], file.attrs[f"L2Scale{kind}Max"] = 0.05, high
            file.attrs["Epsg_Code"] = 32633
            for name, value in zip(("UL", "LR"), ((366000, 5810000), (366000 + 30 * W, 5810000 - 30 * H)), strict=True):
                file.attrs[f"Product_{name}corner_easting"], file.attrs[f"Product_{name}corner_northing"] = value
        else:
            file.attrs["ScaleFactor_Vnir"], file.attrs["ScaleFactor_Swir"] = 100.0, 50.0
            file.attrs["Offset_Vnir"] = 2.0
    return vnir.transpose(0, 2, 1)[..., :-1], swir.transpose(0, 2, 1), (waves[0][:-1], waves[1])


def test_prisma_l2d(tmp_path):
    vnir, swir, waves = prisma(tmp_path / "p.he5")
    raster = open_raster(tmp_path / "p.he5")
    assert (raster.product, raster.shape, raster.dtype) == ("PRISMA L2D", (H, W, 10), np.float32)
    assert raster.wavelengths == pytest.approx(np.concatenate(waves))
    expected = np.concatenate([0.05 + vnir * (0.85 / 65535), 0.05 + swir * (0.65 / 65535)], axis=2)
    expected[2, 3] = 0  # no data
    np.testing.assert_allclose(raster.rows(1, 6), expected[1:6], rtol=1e-5)
    assert raster.nodata == 0
    assert crs_of(raster.georeference) == "EPSG:32633"
    assert transform_of(raster.georeference) == pytest.approx((30, 0, 366000, 0, -30, 5810000))


def test_the_corners_of_prisma_may_be_centres_of_pixels(tmp_path):
    prisma(tmp_path / "p.he5")
    with h5py.File(tmp_path / "p.he5", "a") as file:
        file.attrs["Product_LRcorner_easting"] = 366000 + 30 * (W - 1)
        file.attrs["Product_LRcorner_northing"] = 5810000 - 30 * (H - 1)
    place = transform_of(open_raster(tmp_path / "p.he5").georeference)
    assert place == pytest.approx((30, 0, 366000 - 15, 0, -30, 5810000 + 15))


def test_prisma_l1(tmp_path):
    vnir, swir, _ = prisma(tmp_path / "p.he5", "L1")
    raster = open_raster(tmp_path / "p.he5")
    expected = np.concatenate([vnir / 100 - 2, swir / 50], axis=2)
    expected[2, 3] = 0
    np.testing.assert_allclose(raster.rows(0, H), expected, rtol=1e-5, atol=1e-6)
    assert (raster.product, raster.georeference) == ("PRISMA L1", None)


GLT = np.array([[0, 1, 2], [3, 4, 5], [0, 7, 6]])  # columns of the raw grid, from 1


def emit(path):
    cube = RNG.uniform(0, 1, (H, W, 6)).astype("f4")
    cube[0, 0] = -9999
    with h5py.File(path, "w") as file:
        file["reflectance"] = cube
        file["reflectance"].attrs["_FillValue"] = np.array([-9999.0], "f4")
        file["sensor_band_parameters/wavelengths"] = np.linspace(400, 2400, 6)
        file["sensor_band_parameters/good_wavelengths"] = np.array([1, 1, 0, 1, 1, 1], "u1")
        file["location/glt_x"], file["location/glt_y"] = GLT.astype("i4"), np.where(GLT > 0, 2, 0).astype("i4")
        file.attrs["geotransform"] = [10.0, 0.1, 0.0, 50.0, 0.0, -0.1]
        file.attrs["spatial_ref"] = rasterio.crs.CRS.from_epsg(4326).to_wkt()
    return cube


def test_emit(tmp_path):
    cube = emit(tmp_path / "EMIT_L2A_RFL.nc")
    raster = open_raster(tmp_path / "EMIT_L2A_RFL.nc")
    assert (raster.product, raster.nodata, raster.bad_bands) == ("EMIT L2A", -9999, (2,))
    assert np.array_equal(raster.rows(0, H), cube)
    assert raster.wavelengths == pytest.approx(np.linspace(400, 2400, 6))
    assert raster.georeference is None and raster.ortho is not None  # the raw grid has no place
    assert transform_of(raster.ortho.georeference) == pytest.approx((0.1, 0, 10, 0, -0.1, 50))
    placed = raster.ortho(np.arange(H * W).reshape(H, W), -1)
    assert np.array_equal(placed, np.where(GLT > 0, W + GLT - 1, -1))


def aviris(path, table):
    cube = RNG.uniform(0, 1, (6, H, W)).astype("f4")
    with h5py.File(path, "w") as file:
        file["reflectance/reflectance"] = cube
        file["reflectance/reflectance"].attrs["_FillValue"] = np.float32(-9999)
        file["reflectance/wavelength"] = np.linspace(400, 2400, 6)
        file["transverse_mercator"] = "x"
        file["transverse_mercator"].attrs["spatial_ref"] = rasterio.crs.CRS.from_epsg(32611).to_wkt()
        file["transverse_mercator"].attrs["GeoTransform"] = "500000 2 0 4000000 0 -2"
        if table:
            file["geolocation_lookup_table/glt_x"] = -GLT.astype("i4")  # negative where it is interpolated
            file["geolocation_lookup_table/glt_y"] = np.where(GLT > 0, 1, 0).astype("i4")
    return cube.transpose(1, 2, 0)


@pytest.mark.parametrize("table", [False, True])
def test_aviris_3(tmp_path, table):
    cube = aviris(tmp_path / "a.nc", table)
    raster = open_raster(tmp_path / "a.nc")
    assert (raster.product, raster.nodata) == ("AVIRIS-3", -9999)
    assert np.array_equal(raster.rows(2, 5), cube[2:5])
    place = transform_of(raster.ortho.georeference if table and raster.ortho else raster.georeference)
    assert place == pytest.approx((2, 0, 500000, 0, -2, 4000000))
    assert (raster.georeference is None) == table
    if raster.ortho:
        assert np.array_equal(raster.ortho(np.arange(H * W).reshape(H, W), -1), np.where(GLT > 0, GLT - 1, -1))


def test_neon(tmp_path):
    cube = RNG.integers(0, 9000, (H, W, 5)).astype("i2")
    cube[1, 1] = -9999
    with h5py.File(tmp_path / "n.h5", "w") as file:
        data = file.create_dataset("HARV/Reflectance/Reflectance_Data", data=cube)
        data.attrs["Scale_Factor"], data.attrs["Data_Ignore_Value"] = 10000.0, -9999.0
        file["HARV/Reflectance/Metadata/Spectral_Data/Wavelength"] = np.linspace(380, 2500, 5)
        text = "UTM,  1.000,  1.000,  731000.0, 4713000.0, 1.0, 1.0, 18, North, WGS-84, units=Meters"
        file["HARV/Reflectance/Metadata/Coordinate_System/Map_Info"] = text
    raster = open_raster(tmp_path / "n.h5")
    expected = cube / np.float32(10000)
    expected[1, 1] = -9999
    np.testing.assert_allclose(raster.rows(0, H), expected, rtol=1e-6)
    assert (raster.product, raster.nodata) == ("NEON", -9999)
    assert transform_of(raster.georeference) == pytest.approx((1, 0, 731000, 0, -1, 4713000))
    assert crs_of(raster.georeference) == "EPSG:32618"


def tiff(path, cube, **facts):
    cube = cube if cube.ndim == 3 else cube[..., None]
    facts = {"height": cube.shape[0], "width": cube.shape[1], "count": cube.shape[2], "dtype": cube.dtype.name} | facts
    with rasterio.open(path, "w", driver="GTiff", **UTM, **facts) as file:
        file.write(cube.transpose(2, 0, 1))


def test_enmap_takes_wavelengths_and_gains_from_the_file_beside_it(tmp_path):
    cube = RNG.integers(0, 9000, (H, W, 5)).astype("i2")
    tiff(tmp_path / "ENMAP01-X-SPECTRAL_IMAGE.TIF", cube, nodata=-32768)
    waves = (423.1, 900.2, 993.4, 902.3, 2444.5)  # goes back where the detectors meet
    entries = "".join(
        f"<bandID number='{i + 1}'><wavelengthCenterOfBand>{wave}</wavelengthCenterOfBand>"
        f"<GainOfBand>0.0001</GainOfBand><OffsetOfBand>{i}</OffsetOfBand></bandID>"
        for i, wave in enumerate(waves)
    )
    xml = tmp_path / "ENMAP01-X-METADATA.XML"
    xml.write_text(f"<level_X><specific><bandCharacterisation>{entries}</bandCharacterisation></specific></level_X>")
    raster = open_raster(tmp_path / "ENMAP01-X-SPECTRAL_IMAGE.TIF")
    assert (raster.product, raster.nodata) == ("EnMAP L2A", -32768)
    assert raster.wavelengths == pytest.approx(waves)
    np.testing.assert_allclose(raster.rows(0, H), cube * 0.0001 + np.arange(5), rtol=1e-6)
    xml.write_text("<!DOCTYPE x [<!ENTITY a 'b'>]><x/>")
    with pytest.raises(InputError, match="defines entities"):
        open_raster(tmp_path / "ENMAP01-X-SPECTRAL_IMAGE.TIF")
    xml.write_text("<x>")
    with pytest.raises(InputError, match="is not readable metadata"):
        open_raster(tmp_path / "ENMAP01-X-SPECTRAL_IMAGE.TIF")


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("opened", [".tif", ".hdr"])
def test_desis_takes_its_facts_from_the_header_beside_it(tmp_path, opened, metadata):
    if metadata:  # of another form than EnMAP's
        (tmp_path / "DESIS-X-METADATA.xml").write_text("<a><bandCharacterisation><band/></bandCharacterisation></a>")
    cube = RNG.integers(0, 9000, (H, W, 4)).astype("i2")
    tiff(tmp_path / "DESIS-X-SPECTRAL_IMAGE.tif", cube)
    (tmp_path / "DESIS-X-SPECTRAL_IMAGE.hdr").write_text(
        f"ENVI\nsamples = {W}\nlines = {H}\nbands = 4\ndata type = 2\ninterleave = bsq\nbyte order = 0\n"
        "wavelength = {401.9, 404.5, 407, 409.6}\nwavelength units = nanometers\ndata ignore value = -32768\n"
        "data gain values = {0.0001, 0.0001, 0.0002, 0.0001}\ndata offset values = {0, 0, 0, 1}\n"
    )
    raster = open_raster(tmp_path / f"DESIS-X-SPECTRAL_IMAGE{opened}")
    assert raster.wavelengths == pytest.approx((401.9, 404.5, 407, 409.6))
    np.testing.assert_allclose(raster.rows(0, H), cube * [1e-4, 1e-4, 2e-4, 1e-4] + [0, 0, 0, 1], rtol=1e-5)
    assert (raster.nodata, crs_of(raster.georeference) is not None) == (-32768, True)


def test_hyperion_is_one_file_a_channel(tmp_path):
    channels = {channel: RNG.integers(1, 4000, (H, W)).astype("i2") for channel in (1, 8, 57, 58, 77, 224)}
    for channel, values in channels.items():
        tiff(tmp_path / f"EO1H1950332004116110KY_B{channel:03d}_L1T.TIF", values)
    raster = open_raster(tmp_path / "EO1H1950332004116110KY_B057_L1T.TIF")
    assert (raster.product, raster.shape) == ("Hyperion L1T", (H, W, 4))
    assert raster.wavelengths == pytest.approx((426.81, 925.37, 912.45, 2395.51), abs=0.2)
    expected = np.stack([channels[8] / 40, channels[57] / 40, channels[77] / 80, channels[224] / 80], axis=2)
    np.testing.assert_allclose(raster.rows(0, H), expected, rtol=1e-6)


@pytest.mark.parametrize(("code", "dtype"), [(0, "u1"), (2, "<u2")])
def test_erdas_files_are_read(tmp_path, code, dtype):
    cube = RNG.integers(0, 200, (H, 3, W)).astype(dtype)  # interleaved by line
    head = b"HEAD74" + np.array([code, 3], "<i2").tobytes() + b"\0" * 6 + np.array([W, H, 0, 0], "<i4").tobytes()
    (tmp_path / "a.lan").write_bytes(head.ljust(128, b"\0") + cube.tobytes())
    assert np.array_equal(open_raster(tmp_path / "a.lan").rows(0, H), cube.transpose(0, 2, 1))
    (tmp_path / "b.lan").write_bytes((tmp_path / "a.lan").read_bytes()[:-5])
    with pytest.raises(InputError, match="cut off or damaged"):
        open_raster(tmp_path / "b.lan")


def test_other_hdf5_files_are_opened_by_their_only_cube_or_by_name(tmp_path):
    cube = RNG.normal(size=(H, W, 4))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["HDFEOS/SWATHS/HYP/Data Fields/toa_radiance"] = cube
        file["numbers"] = np.arange(5)
    assert np.array_equal(open_raster(tmp_path / "a.h5").rows(0, H), cube)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["second"] = cube + 1
    with pytest.raises(InputError, match=r"name the data set .cube_key, or gt_key"):
        open_raster(tmp_path / "a.h5")
    assert np.array_equal(open_raster(tmp_path / "a.h5", "second").rows(0, H), cube + 1)
    (tmp_path / "b.nc").write_bytes(b"CDF\1" + b"\0" * 50)
    with pytest.raises(InputError, match=r"is netCDF-3, and netCDF-4 is read; `nccopy -k nc4 b\.nc"):
        open_raster(tmp_path / "b.nc")


def run(*command):
    assert main.main([*map(str, command)]) == 0


def test_a_product_is_described_trained_on_and_mapped_in_its_place(tmp_path, capsys):
    home = tmp_path / "Emit"
    home.mkdir()
    cube = emit(home / "scene.nc")
    gt = (np.arange(H * W).reshape(H, W) % 2) + 1
    cube += 2 * np.eye(6)[np.array([0, 1, 4])[gt]]
    with h5py.File(home / "scene.nc", "a") as file:
        data = file["reflectance"]
        assert isinstance(data, h5py.Dataset)
        data[...] = cube
    np.save(home / "gt.npy", gt)
    run("--describe", home)
    text = capsys.readouterr().out
    assert "product       EMIT L2A" in text and "marked bad    band (from 0) 2" in text
    (home / "scene.toml").write_text(text[text.index("# scene.toml") :])
    run("--dataset", home, "--model", "kNN", "--sampling_mode", "random", "--training_sample", 0.4, "--visdom", "off",
        "--output", tmp_path / "runs", "--cuda", -1)  # fmt: skip
    (checkpoint,) = (tmp_path / "runs").glob("kNN/*/*/last.pt")
    for flags, shape in (((), GLT.shape), (("--no_ortho",), (H, W))):
        out = tmp_path / f"out{len(flags)}"
        run(
            "--predict",
            home / "scene.nc",
            "--restore",
            checkpoint,
            "--probabilities",
            "--output",
            out,
            "--cuda",
            -1,
            *flags,
        )
        (folder,) = out.glob("predict/*/*")
        raster = open_raster(folder / "map.hdr")
        assert raster.shape[:2] == open_raster(folder / "entropy.hdr").shape[:2] == shape
        labels = raster.rows(0, shape[0])[..., 0]
        expected = np.where(GLT > 0, gt[1, GLT - 1], 0) if not flags else gt
        assert (labels == expected).mean() > 0.95
        assert (transform_of(raster.georeference) is None) == bool(flags)
        facts = json.loads((folder / "mapping.json").read_text())
        assert facts["placed_by_table"] == (not flags) and facts["bands"] == [0, 1, 3, 4, 5]
        assert (facts["scene"]["product"], facts["scene"]["bad_bands"]) == ("EMIT L2A", [2])
    in_place = tmp_path / "in_place.npy"
    np.save(in_place, cube)
    command = ["--predict", in_place, "--restore", checkpoint, "--no_ortho", "--output", tmp_path, "--cuda", "-1"]
    assert main.main([*map(str, command)]) == 2
    assert "has no table that places its pixels; leave out --no_ortho" in capsys.readouterr().err


def test_a_product_is_read_a_few_rows_at_a_time(tmp_path):
    prisma(tmp_path / "p.he5", rows=300, columns=40, n_vnir=20, n_swir=30)
    raster = open_raster(tmp_path / "p.he5")
    whole = raster.rows(0, 300)
    assert np.array_equal(np.concatenate([raster.rows(start, start + 50) for start in range(0, 300, 50)]), whole)


def test_a_label_map_and_a_cube_in_one_hdf5_file_are_named(tmp_path):
    cube, gt = RNG.normal(size=(H, W, 4)), np.arange(H * W).reshape(H, W) % 3
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cube"], file["other"], file["gt"], file["train"] = cube, cube + 1, gt, np.where(gt == 2, 0, gt)
    text = 'cube = "a.h5"\ncube_key = "cube"\ngt = "a.h5"\ngt_key = "gt"\nclass_names = ["a", "b"]\n'
    (tmp_path / "scene.toml").write_text(text)
    for need_cube in (True, False):
        scene = load_scene(str(tmp_path), Path(), need_cube=need_cube)
        assert np.array_equal(np.asarray(scene.gt), gt)
    assert np.array_equal(_mask_array(tmp_path / "a.h5", "train", "TR", scene)[0], np.where(gt == 2, 0, gt))
