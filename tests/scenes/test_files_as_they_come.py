"""Whole files with the faults that are met in practice, trained on and mapped from the command line."""

import gzip
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from scipy.io import savemat

import main
from datasets import load_scene
from scenes.georeference import map_info_of
from scenes.matfiles import read_arrays
from scenes.rasters import open_raster
from scenes.spec import choose_rgb
from splits.fixed_masks import load_split
from utils import InputError

N_BANDS = 12
WAVES = np.linspace(400, 950, N_BANDS)
GT = np.kron(np.arange(1, 10).reshape(3, 3) % 3 + 1, np.ones((8, 9), int))
RNG = np.random.default_rng(0)
CUBE = (RNG.uniform(1000, 3000, (4, N_BANDS))[GT] + RNG.normal(0, 60, (*GT.shape, N_BANDS))).astype(np.int16)
NAMES = 'class_names = ["a", "b", "c"]\n'


def waves(values=WAVES, unit="Nanometers"):
    listed = ", ".join(f"{value:g}" for value in values)
    return f"wavelength = {{{listed}}}\n" + (f"wavelength units = {unit}\n" if unit else "")


def envi(path, cube, more=""):
    code = {"int16": 2, "float32": 4}[cube.dtype.name]
    path.with_suffix(".img").write_bytes(np.ascontiguousarray(cube.transpose(2, 0, 1)).tobytes())
    rows, columns, bands = cube.shape
    path.write_text(
        f"ENVI\nsamples = {columns}\nlines = {rows}\nbands = {bands}\ndata type = {code}\ninterleave = bsq\n"
        f"byte order = 0\n{more}"
    )
    return path


def scene(home, cube, more="", toml=""):
    home.mkdir(exist_ok=True)
    envi(home / "cube.hdr", cube, more)
    np.save(home / "gt.npy", GT)
    (home / "scene.toml").write_text(f'cube = "cube.hdr"\ngt = "gt.npy"\n{NAMES}{toml}')
    return home


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of a CNN on the plain scene, on one in fractions, and without three bands."""
    home, found = tmp_path_factory.mktemp("trained"), {}
    bbl = f"bbl = {{{', '.join('0' if i in (4, 5, 6) else '1' for i in range(N_BANDS))}}}\n"
    bad = CUBE.copy()
    bad[..., 4:7] = 0
    for name, cube, more in (
        ("plain", CUBE, waves()),
        ("fractions", (CUBE / 10000).astype(np.float32), ""),
        ("bad", bad, bbl + waves()),
    ):
        folder = scene(home / name, cube, more)
        command = ["--dataset", str(folder), "--model", "CNN", "--patch_size", "3", "--epoch", "12", "--visdom", "off"]
        command += [
            "--sampling_mode",
            "random",
            "--training_sample",
            "0.3",
            "--output",
            str(home / "runs"),
            "--cuda",
            "-1",
            "--spectral",
            "snv,brightness",
        ]
        assert main.main(command) == 0
        (run,) = (home / "runs" / "CNN" / name).iterdir()
        found[name] = run / "last.pt"
    return found


def predict(checkpoint, file, tmp_path, *more):
    command = ["--predict", str(file), "--restore", str(checkpoint), "--output", str(tmp_path / "out"), "--cuda", "-1"]
    rc = main.main([*command, *more])
    folders = sorted((tmp_path / "out" / "predict").glob("*/*"))
    right = (np.load(folders[-1] / "prediction.npy") == GT).mean() if folders and rc == 0 else None
    return rc, right, folders


def test_a_file_with_a_scale_factor_is_mapped_as_its_fractions(trained, tmp_path):
    file = envi(tmp_path / "scaled.hdr", CUBE, "reflectance scale factor = 10000\n")
    assert predict(trained["fractions"], file, tmp_path)[:2] == (0, pytest.approx(1, abs=0.02))


def test_the_no_data_value_of_the_training_scene_holds_for_files_that_have_none(tmp_path, capsys):
    cube = CUBE.copy()
    cube[:2, :5] = -9999
    folder = scene(tmp_path / "gaps", cube, toml="nodata = -9999\n")
    command = [
        "--dataset",
        str(folder),
        "--model",
        "Hu",
        "--epoch",
        "1",
        "--visdom",
        "off",
        "--sampling_mode",
        "random",
    ]
    assert main.main([*command, "--output", str(tmp_path / "runs"), "--cuda", "-1"]) == 0
    (checkpoint,) = (tmp_path / "runs").rglob("last.pt")
    np.save(tmp_path / "new.npy", cube)
    rc, _, folders = predict(checkpoint, tmp_path / "new.npy", tmp_path)
    assert rc == 0
    labels = np.load(folders[-1] / "prediction.npy")
    assert np.array_equal(labels == 0, (cube == -9999).all(2))
    assert "-9999 marks pixels without data, as in the scene that the network was trained on" in capsys.readouterr().err


def test_a_file_in_another_unit_is_refused(trained, tmp_path, capsys):
    file = envi(tmp_path / "counts.hdr", CUBE)
    assert predict(trained["fractions"], file, tmp_path) == (2, None, [])
    assert "are they in another unit?" in capsys.readouterr().err


def test_a_network_that_sees_no_brightness_maps_a_file_in_another_unit(tmp_path):
    folder = scene(tmp_path / "fractions", (CUBE / 10000).astype(np.float32))
    command = ["--dataset", str(folder), "--model", "CNN", "--patch_size", "3", "--epoch", "12", "--visdom", "off"]
    command += ["--sampling_mode", "random", "--spectral", "snv", "--output", str(tmp_path / "runs"), "--cuda", "-1"]
    assert main.main(command) == 0
    (run,) = (tmp_path / "runs" / "CNN" / "fractions").iterdir()
    assert predict(run / "last.pt", envi(tmp_path / "counts.hdr", CUBE), tmp_path)[:2] == (
        0,
        pytest.approx(1, abs=0.02),
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("reflectance scale factor = 10000\n", CUBE / 10000),
        (f"data gain values = {{{', '.join(['0.5'] * N_BANDS)}}}\n", CUBE * 0.5),
        (f"data offset values = {{{', '.join(map(str, range(N_BANDS)))}}}\n", CUBE + np.arange(N_BANDS)),
        ("data gain values = {2}\ndata offset values = {1}\n", 2.0 * CUBE + 1),
    ],
)
def test_scales_and_offsets_of_an_envi_header_are_applied(tmp_path, more, expected):
    raster = open_raster(envi(tmp_path / "a.hdr", CUBE, more))
    assert raster.dtype == np.float32
    np.testing.assert_allclose(raster.rows(3, 9), expected[3:9], rtol=1e-6)


def test_the_no_data_value_is_not_scaled(tmp_path):
    cube = CUBE.copy()
    cube[2, 3] = -9999
    raster = open_raster(
        envi(tmp_path / "a.hdr", cube, "reflectance scale factor = 10000\ndata ignore value = -9999\n")
    )
    rows = raster.rows(0, 5)
    assert (rows[2, 3] == -9999).all() and rows[0].max() < 1


def test_scales_and_offsets_of_a_geotiff_are_those_of_rasterio(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    facts = {"driver": "GTiff", "height": GT.shape[0], "width": GT.shape[1], "count": N_BANDS, "dtype": "int16"}
    with rasterio.open(tmp_path / "a.tif", "w", **facts) as file:
        file.write(CUBE.transpose(2, 0, 1))
        file.scales, file.offsets = [0.5] * N_BANDS, [float(i) for i in range(N_BANDS)]
    with rasterio.open(tmp_path / "a.tif") as file:
        expected = file.read().transpose(1, 2, 0) * np.array(file.scales) + np.array(file.offsets)
    np.testing.assert_allclose(open_raster(tmp_path / "a.tif").rows(0, GT.shape[0]), expected)


@pytest.mark.parametrize("fill", [0, np.nan, 7, 1e30])
def test_bands_that_are_marked_as_bad_are_left_out_in_training(tmp_path, fill, caplog):
    caplog.set_level("INFO")
    cube = CUBE.astype(np.float32)
    cube[..., 4:7] = fill if fill != 1e30 else RNG.normal(0, 1e6, (*GT.shape, 3))
    bbl = f"bbl = {{{', '.join('0' if i in (4, 5, 6) else '1' for i in range(N_BANDS))}}}\n"
    home = scene(tmp_path / "bad", cube, bbl + waves())
    found = load_scene(str(home), Path(), need_gt=True)
    assert found.cube is not None and np.array_equal(found.cube, np.delete(cube, (4, 5, 6), 2))
    assert (found.bands, found.n_in_file) == ((0, 1, 2, 3, 7, 8, 9, 10, 11), 12)
    assert found.spec.wavelengths == pytest.approx(np.delete(WAVES, (4, 5, 6)))
    assert "3 bands (from 0) 4-6 (600-700 nm) left out, which the file marks as bad" in caplog.text


def test_bands_can_be_left_out_by_the_description_and_by_a_flag(tmp_path):
    home = scene(tmp_path / "own", CUBE, toml='drop_bands = [0, "10-11"]\nrgb_bands = [0, 5, 11]\n')
    found = load_scene(str(home), Path(), drop_bands="3,5-6")
    assert found.bands == (1, 2, 4, 7, 8, 9)
    assert found.spec.rgb_bands == (0, 2, 5)  # in place of those left out their neighbours
    with pytest.raises(InputError, match="the cube has 12 bands; 12 is none"):
        load_scene(str(home), Path(), drop_bands="12")


def test_a_file_whose_bad_bands_the_network_needs_is_refused_or_resampled(trained, tmp_path, capsys):
    cube = CUBE.copy()
    cube[..., 4:7] = 0
    bbl = f"bbl = {{{', '.join('0' if i in (4, 5, 6) else '1' for i in range(N_BANDS))}}}\n"
    file = envi(tmp_path / "bad.hdr", cube, bbl + waves())
    assert predict(trained["plain"], file, tmp_path) == (2, None, [])
    assert "marks as bad what the network needs: 3 bands (from 0) 4-6 (600-700 nm)" in capsys.readouterr().err
    assert predict(trained["plain"], file, tmp_path, "--resample")[0] == 0
    assert predict(trained["bad"], file, tmp_path)[:2] == (0, pytest.approx(1, abs=0.02))
    plain = envi(tmp_path / "plain.hdr", CUBE, waves())  # all bands, of which the network takes those it knows
    assert predict(trained["bad"], plain, tmp_path)[:2] == (0, pytest.approx(1, abs=0.02))


def test_empty_bands_without_a_mark_are_refused_in_mapping(trained, tmp_path, capsys):
    cube = CUBE.copy()
    cube[..., 4] = 0
    assert predict(trained["plain"], envi(tmp_path / "zero.hdr", cube, waves()), tmp_path) == (2, None, [])
    assert "the network needs band (from 0) 4 (600 nm), which has one value" in capsys.readouterr().err


def test_a_map_without_a_single_pixel_is_an_error(trained, tmp_path, capsys):
    cube = CUBE.astype(np.float32)
    cube[..., 4] = np.nan
    rc, _, folders = predict(trained["plain"], envi(tmp_path / "nan.hdr", cube, waves()), tmp_path)
    assert (rc, folders) == (2, [])
    assert "no pixel has data in all bands that the network takes" in capsys.readouterr().err


@pytest.mark.parametrize("unit", ["Nanometer", "nm", None])
def test_shifted_bands_are_refused_whatever_the_unit_is_called(trained, tmp_path, unit, capsys):
    file = envi(tmp_path / "shifted.hdr", CUBE, waves(WAVES + 40, unit))
    assert predict(trained["plain"], file, tmp_path)[0] == 2
    assert "its band 0 (from 0) lies at 440 nm, where the network has 400 nm" in capsys.readouterr().err


def test_arrays_with_their_bands_first_are_turned(trained, tmp_path):
    np.save(tmp_path / "first.npy", CUBE.transpose(2, 0, 1))
    assert predict(trained["plain"], tmp_path / "first.npy", tmp_path)[:2] == (0, pytest.approx(1, abs=0.02))


def test_pixels_without_data_are_named_in_every_file(trained, tmp_path, capsys):
    cube = CUBE.copy()
    cube[:4] = -9999
    cube[10, 10, :5] = -9999
    file = envi(tmp_path / "half.hdr", cube, waves() + "data ignore value = -9999\n")
    rc, _, (folder,) = predict(trained["plain"], file, tmp_path, "--probabilities")
    assert rc == 0
    assert "1 pixels hold the no-data value in some bands only" in capsys.readouterr().err
    assert open_raster(folder / "map.hdr").nodata == 0
    for name in ("probabilities", "entropy"):
        raster = open_raster(folder / f"{name}.hdr")
        assert raster.nodata is not None and np.isnan(raster.nodata)
        values = raster.rows(0, GT.shape[0])
        assert np.isnan(values[:4]).all() and np.isfinite(values[4:]).all()
        assert (np.signbit(values[4:]) == 0).all()


def test_two_detectors_are_sorted_and_one_of_them_can_be_chosen_in_the_overlap(tmp_path):
    values = np.array([400, 500, 600, 700, 800, 650, 750, 850, 950, 1050, 1150, 1250])
    for overlap, expected in (
        (None, [0, 1, 2, 5, 3, 6, 4, 7, 8, 9, 10, 11]),
        ("vnir", [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]),
        ("swir", [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]),
    ):
        toml = f'overlap = "{overlap}"\n' if overlap else ""
        found = load_scene(str(scene(tmp_path / "two", CUBE, waves(values), toml)), Path())
        assert found.bands == tuple(expected)
        assert found.cube is not None and np.array_equal(found.cube, CUBE[..., expected])
        assert found.spec.wavelengths == pytest.approx(values[expected])


def test_a_projection_in_its_own_entry_is_kept(tmp_path):
    place = (
        "map info = {Albers, 1, 1, -936408.178, 2423902.344, 28.5, 28.5}\nprojection info = {9, 6378206.4, Albers}\n"
    )
    raster = open_raster(envi(tmp_path / "a.hdr", CUBE, place))
    assert map_info_of(raster.georeference)["projection info"] == ["9", "6378206.4", "Albers"]


def test_headers_of_other_kinds_and_data_of_any_suffix_are_understood(tmp_path, caplog):
    (tmp_path / "scan.hdr").write_text("BYTEORDER I\nLAYOUT BIL\nNROWS 5\nNCOLS 6\nNBANDS 4\n")
    (tmp_path / "scan.bil").write_bytes(b"\0" * 240)
    with pytest.raises(InputError, match="is an ESRI header"):
        open_raster(tmp_path / "scan.hdr")
    header = envi(tmp_path / "cup.hdr", CUBE)
    (tmp_path / "cup.img").rename(tmp_path / "cup.int")
    assert np.array_equal(open_raster(header).rows(0, GT.shape[0]), CUBE)


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


@pytest.mark.parametrize("kind", [b"string", b"table", b"categorical"])
@pytest.mark.parametrize("name", [b"t", b"info", b"names", b"classes"])
def test_a_matlab_object_beside_the_cube_does_not_spoil_the_file(tmp_path, kind, name):
    inner = element(14, element(6, struct.pack("<II", 13, 0)) + element(5, struct.pack("<ii", 6, 1)) + element(1, b""))
    flags = element(6, struct.pack("<II", 17, 0))
    opaque = element(14, flags + element(1, name) + element(1, b"MCOS") + element(1, kind) + inner)
    savemat(tmp_path / "a.mat", {"cube": CUBE})
    (tmp_path / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes() + opaque)
    assert np.array_equal(read_arrays(tmp_path / "a.mat")["cube"], CUBE)
    (tmp_path / "only.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:128] + opaque)
    with pytest.raises(InputError, match=f"it holds {name.decode()} .a MATLAB {kind.decode()}"):
        read_arrays(tmp_path / "only.mat")


def test_sparse_and_logical_label_maps_are_read(tmp_path):
    for values in (GT * (GT > 1), GT > 1):
        savemat(tmp_path / "a.mat", {"gt": scipy.sparse.csc_matrix(values)})
        assert np.array_equal(read_arrays(tmp_path / "a.mat")["gt"], values)
        savemat(tmp_path / "a.mat", {"gt": values}, do_compression=True)
        assert np.array_equal(read_arrays(tmp_path / "a.mat")["gt"], values)


def test_a_sparse_array_of_version_7_3_is_read(tmp_path):
    import h5py

    sparse = scipy.sparse.csc_matrix(GT * (GT > 1))
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        group = file.create_group("gt")
        group.attrs["MATLAB_sparse"] = np.uint64(GT.shape[0])
        group["data"], group["ir"], group["jc"] = sparse.data, sparse.indices, sparse.indptr
    arrays = read_arrays(tmp_path / "a.mat")
    assert [*arrays] == ["gt"] and np.array_equal(arrays["gt"], sparse.toarray())


def test_a_matrix_of_bands_and_pixels_is_unfolded_as_matlab_does(tmp_path):
    rows, columns = GT.shape
    flat = CUBE.transpose(2, 1, 0).reshape(N_BANDS, -1)  # pixels column by column
    for matrix in (flat, flat.T):
        savemat(tmp_path / "a.mat", {"Y": matrix, "nRow": rows, "nCol": columns, "gt": GT.T.reshape(1, -1)})
        arrays = read_arrays(tmp_path / "a.mat")
        assert np.array_equal(arrays["Y"], CUBE) and np.array_equal(arrays["gt"], GT)


@pytest.mark.parametrize("sizes", [{"nRow": 2.5, "nCol": 4}, {"nRow": -2, "nCol": -5}, {"row": 2, "col": 5}])
def test_other_numbers_beside_a_matrix_are_no_sizes(tmp_path, sizes):
    matrix = np.arange(30.0).reshape(3, 10)
    savemat(tmp_path / "a.mat", {"Y": matrix, **sizes})
    assert np.array_equal(read_arrays(tmp_path / "a.mat")["Y"], matrix)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.mat", gzip.compress(b"x" * 300, mtime=0), "compressed by gzip"),
        ("a.mat", b"# Created by Octave 8.4.0\n# name: x\n", "Octave's text format"),
        ("a.mat", b"PK\3\4" + b"\0" * 40, "zip archive"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=match):
        read_arrays(tmp_path / name)


def test_what_is_no_array_of_numbers_is_named(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.ones((4, 5), complex)})
    with pytest.raises(InputError, match=r"it holds x .complex numbers."):
        read_arrays(tmp_path / "a.mat")


def test_bands_of_the_short_wave_infrared_make_a_picture():
    assert choose_rgb(5, (450.0, 550, 650, 700, 900)) == (2, 1, 0)
    assert choose_rgb(4, (1000.0, 1100, 1640, 2210)) == (3, 2, 1)
    assert choose_rgb(9, tuple(np.linspace(8000, 12000, 9))) == (6, 3, 0)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["--epochs", "3"], "(did you mean --epoch?)"),
        (["--dataset", "./nowhere/x"], "./nowhere/x: no such folder or scene.toml"),
        (["--dataset", "DFC2018-HSI"], "2018_IEEE_GRSS_DFC"),
    ],
)
def test_hints(command, hint, capsys, tmp_path):
    assert main.main([*command, "--folder", str(tmp_path)] if "--dataset" in command else command) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("more", [("--sampling_mode", "random"), ("--train_set", "half.npy")])
def test_a_label_map_of_one_class_is_refused(tmp_path, more, capsys):
    home = scene(tmp_path / "one", CUBE)
    np.save(home / "gt.npy", np.ones_like(GT))
    np.save(home / "half.npy", np.arange(GT.size).reshape(GT.shape) % 2)
    assert main.main(["--dataset", str(home), "--model", "kNN", "--output", str(tmp_path / "runs"), *more]) == 2
    assert "all labelled pixels are of one class, a" in capsys.readouterr().err
    assert main.main(["--audit", "--dataset", str(home), *more]) == 0
    assert "all labelled pixels are of one class, a" in capsys.readouterr().out


def test_small_classes_are_left_out_and_named(tmp_path, capsys):
    home = scene(tmp_path / "rare", CUBE)
    rare = np.where(GT == 2, 0, GT)
    rare[5, 5] = 2
    np.save(home / "gt.npy", rare)
    command = ["--dataset", str(home), "--model", "kNN", "--sampling_mode", "random", "--visdom", "off", "--cuda", "-1"]
    command += ["--output", str(tmp_path / "runs")]
    assert main.main(command) == 2
    assert (
        "class 2 (b) has one labelled pixel, which cannot both train and test; --min_pixels 2"
        in capsys.readouterr().err
    )
    assert main.main([*command, "--min_pixels", "2"]) == 0
    assert "left out, with fewer than 2 labelled pixels: b (1)" in capsys.readouterr().err
    (run,) = (tmp_path / "runs" / "kNN" / "rare").iterdir()
    found = np.load(run / "prediction.npy")
    assert {*np.unique(found).tolist()} == {1, 2}  # c is class 2 now
    assert (found[rare == 3] == 2).mean() > 0.95


@pytest.mark.parametrize("flags", [(), ("--drop_bands", "2,7-8")])
def test_a_scene_in_an_array_is_mapped_by_a_network_that_leaves_bands_out(tmp_path, flags):
    home = tmp_path / "array"
    home.mkdir()
    cube = CUBE.copy()
    cube[..., 5] = 3  # left out in any case
    savemat(home / "cube.mat", {"cube": cube})
    np.save(home / "gt.npy", GT)
    waves = np.roll(WAVES, 3).tolist()  # not in order
    (home / "scene.toml").write_text(f'cube = "cube.mat"\ngt = "gt.npy"\nwavelengths = {waves}\n{NAMES}')
    command = ["--dataset", str(home), "--model", "kNN", "--sampling_mode", "random", "--visdom", "off", "--cuda", "-1"]
    assert main.main([*command, "--output", str(tmp_path / "runs"), *flags]) == 0
    (run,) = (tmp_path / "runs" / "kNN" / "array").iterdir()
    for source in (home, home / "cube.mat"):
        rc, _, folders = predict(run / "last.pt", source, tmp_path)
        assert rc == 0
        assert np.array_equal(np.load(folders[-1] / "prediction.npy"), np.load(run / "prediction.npy"))


def test_no_data_in_a_mask_is_unlabelled(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    home = scene(tmp_path / "Masked", CUBE, waves(), 'train = "train.tif"\ntest = "test.tif"\n')
    train = np.arange(GT.size).reshape(GT.shape) % 3 == 0
    facts = {
        "driver": "GTiff",
        "height": GT.shape[0],
        "width": GT.shape[1],
        "count": 1,
        "dtype": "uint8",
        "nodata": 255,
    }
    for name, inside in (("train.tif", train), ("test.tif", ~train)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it has no place
            with rasterio.open(home / name, "w", **facts) as file:
                file.write(np.where(inside, GT, 255).astype(np.uint8), 1)
    split = load_split(home / "train.tif", home / "test.tif", load_scene(str(home), Path()))
    assert np.array_equal(split.train, np.where(train, GT, 0)) and np.array_equal(split.test, np.where(train, 0, GT))


@pytest.mark.parametrize(("spectral", "said"), [("snv", True), ("snv,brightness", False), ("none", False)])
def test_classes_that_differ_in_brightness_alone_are_noticed(tmp_path, spectral, said, capsys):
    form = RNG.uniform(1000, 2000, N_BANDS)
    cube = (GT[..., None] * form + RNG.normal(0, 40, CUBE.shape)).astype(np.int16)
    command = [
        "--dataset",
        str(scene(tmp_path / "Bright", cube)),
        "--model",
        "CNN",
        "--patch_size",
        "3",
        "--epoch",
        "2",
    ]
    command += ["--sampling_mode", "random", "--visdom", "off", "--output", str(tmp_path / "runs"), "--cuda", "-1"]
    assert main.main([*command, "--spectral", spectral]) == 0
    assert ("takes away what the classes differ by" in capsys.readouterr().err) == said
