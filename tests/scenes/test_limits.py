"""Files of strangers: what is read is bounded over the whole file, and only what is wanted is read."""

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

import limits
import main
from cli.describe import describe
from limits import Budget, raise_limit
from scenes.catalogue import find_spec
from scenes.matfiles import choose_array, open_arrays, read_arrays
from scenes.rasters import open_raster, read_file
from scenes.scene_toml import read_description
from utils import InputError

SMALL = np.arange(12, dtype=np.uint8).reshape(3, 4)
BIG = np.zeros((400, 400, 60), np.uint8)  # 9.6 MB, of which deflate leaves 10 KB
N_BIG = 4


@pytest.fixture(autouse=True)
def low_limits(monkeypatch):
    """Limits that one big array keeps and N_BIG of them do not."""
    monkeypatch.setattr(limits, "SMALL", 25_000_000)
    yield
    raise_limit(None)


def write_v5(path):
    scipy.io.savemat(path, {"small": SMALL} | {f"x{i}": BIG for i in range(N_BIG)}, do_compression=True)


def write_npz(path):
    arrays: dict = {f"x{i}": BIG for i in range(N_BIG)}
    np.savez_compressed(path, small=SMALL, **arrays)


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["small"] = SMALL.T
        file["small"].attrs["MATLAB_class"] = np.bytes_("double")
        for i in range(N_BIG):
            big = file.create_dataset(f"x{i}", data=BIG.T, compression="gzip", chunks=(60, 40, 40))
            big.attrs["MATLAB_class"] = np.bytes_("double")


PACKED = {"a.mat": write_v5, "a.npz": write_npz, "b.mat": write_hdf5}


@pytest.mark.parametrize("name", PACKED)
def test_the_arrays_of_a_file_are_bounded_together_and_one_that_is_wanted_is_read(tmp_path, name):
    path = tmp_path / name
    PACKED[name](path)
    assert path.stat().st_size < 300_000
    np.testing.assert_array_equal(choose_array(open_arrays(path), "small", path, "the ground truth"), SMALL)
    assert open_raster(path, "x1").shape == BIG.shape
    with pytest.raises(InputError, match=rf"{name} needs 0\.03 GB of memory, .* --max_gigabytes 0\.029") as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)
    raise_limit(0.04)
    assert read_arrays(path).keys() == {"small", *(f"x{i}" for i in range(N_BIG))}


def test_a_struct_is_bounded_before_it_is_unpacked(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"s": {f"x{i}": BIG for i in range(N_BIG)}}, do_compression=True)
    with pytest.raises(InputError, match=r"a\.mat needs 0\.04 GB"):
        open_arrays(tmp_path / "a.mat")


def test_the_values_of_an_array_that_is_not_wanted_may_be_damaged(tmp_path):
    body = zlib.compress(struct.pack("<II", 14, 2**31) + bytes(2**20))
    scipy.io.savemat(tmp_path / "a.mat", {"small": SMALL})
    content = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(content + struct.pack("<II", 15, len(body)) + body)
    with pytest.raises(InputError, match=r"a\.mat needs 2\.15 GB of memory|is not a readable"):
        open_arrays(tmp_path / "a.mat")  # a matrix of 2 GB that does not say what it is
    np.savez(tmp_path / "a.npz", small=SMALL, other=np.arange(1000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(np.arange(1000).tobytes()) + 100] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    arrays = open_arrays(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["small"].read(), SMALL)
    with pytest.raises(InputError, match=r"a\.npz is not a readable \.npz file"):
        arrays["other"].read()


def test_data_sets_of_hdf5_are_bounded_together_and_so_is_a_chunk(tmp_path):
    path = tmp_path / "a.h5"
    write_hdf5(path)
    with pytest.raises(InputError, match=r"a\.h5 claims to be 5 data sets, 0\.04 GB"):
        open_raster(path, "x0")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(2, 3, 4), maxshape=(None, None, None), chunks=(300, 400, 500), dtype="u1")
    with pytest.raises(InputError, match=r"a\.h5 needs 0\.06 GB of memory"):
        open_raster(path)


def test_a_picture_is_bounded_before_it_is_unpacked(tmp_path):
    Image.new("L", (6000, 5000)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png needs 0\.12 GB of memory"):
        open_raster(tmp_path / "a.png")


def test_a_geotiff_is_bounded_by_its_size(tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    facts = {"driver": "GTiff", "height": 6000, "width": 5000, "count": 1, "dtype": "uint8", "compress": "deflate"}
    with rasterio.open(tmp_path / "a.tif", "w", **facts) as image:
        image.write(np.zeros((1, 6000, 5000), np.uint8))
    with pytest.raises(InputError, match=r"a\.tif claims to be \(6000, 5000, 1\), 0\.03 GB, which a file of its size"):
        open_raster(tmp_path / "a.tif")
    noise = np.random.default_rng(0).integers(0, 2, (1, 6000, 5000), dtype=np.uint8)
    with rasterio.open(tmp_path / "b.tif", "w", **facts) as image:
        image.write(noise)
    open_raster(tmp_path / "b.tif")  # 30 MB of a file of 4 MB
    monkeypatch.setattr(limits, "SMALL", 1)
    monkeypatch.setattr(limits, "RATIO", 5)
    with pytest.raises(InputError, match=r"b\.tif claims to be"):
        open_raster(tmp_path / "b.tif")


def test_what_is_read_at_once_is_bounded_by_the_memory_that_is_granted(tmp_path, monkeypatch):
    (tmp_path / "a.img").write_bytes(bytes(3_000_000))
    text = "ENVI\nsamples = 1000\nlines = 1000\nbands = 3\ndata type = 1\ninterleave = bil\nbyte order = 0\n"
    (tmp_path / "a.hdr").write_text(text)
    monkeypatch.setattr(limits, "granted_memory", lambda: 5_000_000)
    arrays, raster = read_file(tmp_path / "a.hdr")
    assert raster is not None
    assert raster.rows(10, 12).shape == (2, 1000, 3)  # as mapping reads it
    with pytest.raises(InputError, match=r"a\.hdr needs 0\.00 GB"):
        arrays["a"].read()
    monkeypatch.setattr(limits, "granted_memory", lambda: None)
    assert Budget(tmp_path / "a.img").most == limits.RATIO * 3_000_000


def nested(path, depth):
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(depth):
            group = group.create_group("g")
        group["x"] = np.ones((3, 4, 5))


@pytest.mark.parametrize("name", ["a.mat", "a.h5"])
def test_groups_that_are_nested_too_deeply_or_too_many_are_refused(tmp_path, name):
    path = tmp_path / name
    nested(path, 20)
    assert open_raster(path).shape[:2] in ((3, 4), (5, 4))
    nested(path, 1000)
    with pytest.raises(InputError, match=rf"{name} has groups nested more than 32 times"):
        open_raster(path)


def test_too_many_data_sets_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("scenes.hdf5.MOST_ITEMS", 20)
    with h5py.File(tmp_path / "a.mat", "w") as file:
        for i in range(21):
            file[f"x{i}"] = SMALL
    with pytest.raises(InputError, match=r"a\.mat holds more than 20 groups and data sets"):
        open_arrays(tmp_path / "a.mat")


def test_a_group_that_contains_itself_is_walked_once(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("g")
        group["again"] = group
        group["x"] = np.ones((3, 4, 5))
    assert open_raster(tmp_path / "a.h5").shape == (3, 4, 5)


def external(file, secret):
    file.create_dataset("x", (3, 4, 5), "u1", external=[(str(secret), 0, 60)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((3, 4, 5), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "x", (3, 4, 5))
    file.create_virtual_dataset("x", layout)


def linked(file, secret):
    file["x"] = h5py.ExternalLink(str(secret), "/x")


@pytest.mark.parametrize("name", ["a.mat", "a.h5"])
@pytest.mark.parametrize("write", [external, virtual, linked])
def test_values_in_other_files_are_refused(tmp_path, name, write):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones((3, 4, 5), np.uint8)
    with h5py.File(tmp_path / name, "w") as file:
        write(file, tmp_path / "secret.h5")
    with pytest.raises(InputError, match=rf"{name}: the values of x are in other files .*, which are not read"):
        open_raster(tmp_path / name)


def refused_at_once(act):
    """The sentence with which something is refused; a wait for a pipe ends the test."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        try:
            return str(future.exception(timeout=20))
        except TimeoutError:
            os._exit(1)  # the thread waits for ever


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["scene.toml", "a.mat", "a.npy", "a.npz", "a.h5", "a.png", "a.tif", "a.hdr", "a.gpkg"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    sentence = refused_at_once(lambda: describe(str(tmp_path / name), tmp_path))
    assert f"{name} is a pipe or a device, not a regular file" in sentence
    if name == "scene.toml":
        for act in (lambda: read_description(tmp_path / name), lambda: find_spec("odd", tmp_path.parent)):
            assert "InputError" not in refused_at_once(act)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_scene_whose_files_are_pipes_is_refused(tmp_path):
    home = tmp_path / "Odd"
    home.mkdir()
    (home / "scene.toml").write_text('cube = "cube.npy"\ngt = "gt.npy"\nclass_names = ["a", "b"]\n')
    np.save(home / "cube.npy", np.ones((3, 4, 5)))
    os.mkfifo(home / "gt.npy")
    argv = ["--dataset", "Odd", "--folder", str(tmp_path), "--audit"]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main.main, argv).result(timeout=60) == 2


def test_describe_reads_the_named_file_only(tmp_path, monkeypatch):
    np.save(tmp_path / "cube.npy", np.random.default_rng(0).random((3, 4, 5)))
    np.save(tmp_path / "gt.npy", SMALL % 3)
    opened = []

    def noted(path, key=None):
        opened.append(path.name)
        return open_raster(path, key)

    monkeypatch.setattr("cli.describe.open_raster", noted)
    assert "(describe its folder)" in "\n".join(describe(str(tmp_path / "cube.npy"), tmp_path))
    assert opened == ["cube.npy"]


def test_the_flag_raises_the_limit_of_one_command_only(tmp_path, capsys):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((1000, 1000, 30), np.uint8))
    assert main.main(["--describe", str(path)]) == 2
    assert "--max_gigabytes 0.03 if you trust it" in capsys.readouterr().err
    assert main.main(["--describe", str(path), "--max_gigabytes", "0.031"]) == 0
    assert main.main(["--describe", str(path)]) == 2
    assert main.main(["--describe", str(path), "--max_gigabytes", "0"]) == 2
    assert "--max_gigabytes must be above 0" in capsys.readouterr().err
