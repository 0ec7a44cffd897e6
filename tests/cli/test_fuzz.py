"""Thousands of damaged .mat, .npy, .npz, .hdr, .tif and .toml files: a clean result or one sentence, little memory."""

import multiprocessing
import os
import struct
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mat_writers import ARRAYS, STRUCT, WRITERS, write_big_endian

from scenes.matfiles import read_arrays
from scenes.rasters import open_raster
from scenes.scene_toml import read_description
from utils import InputError

N_EACH = 250
LIMIT = 1 << 30  # bytes that the process may have more than at its start
SLOWEST = 5.0  # seconds for a file
SMALL = {"gt": ARRAYS["gt"], "hsi": STRUCT, "name": "words", "cube": ARRAYS["cube"]}
HEADER = """ENVI
description = { a scene,
  of two lines }
samples = 5
lines   = 7
bands   = 4
header offset = 0
file type = ENVI Standard
data type = 12
interleave = bil
byte order = 1
map info = {UTM, 1, 1, 500000.0, 4000000.0, 10.0, 10.0, 31, North, WGS-84, units=Meters}
coordinate system string = {PROJCS["a",GEOGCS["b"]]}
wavelength units = Nanometers
wavelength = {450.5, 550, 650, 900}
data ignore value = -9999
class names = {Unclassified, Land, Water}
bbl = {1, 1, 0, 1}
"""
TOML = """name = "My scene"
cube = "cube.hdr"
cube_key = "x"
gt = 'gt.mat'
class_names = ["Land", "Water", "Roof"]
palette = ["#ff0000", "#00ff00", "#0000ff"]
wavelengths = [450.5, 550, 650, 900]
rgb_bands = [2, 1, 0]
nodata = -9999.0
source = "here"
train = "TRAIN_GT.mat"
test = "TEST_GT.mat"
"""
TOKENS = [b"0", b"-1", b"1", b"99999999999999999999", b"1e999", b"nan", b"{", b"}", b"[", b"]", b"=", b"\n", b'"', b"'"]
TOKENS += [
    b"\x00",
    b"\xff",
    b"\xc3\x28",
    b"bsq",
    b"4294967296",
    b"\r",
    b",",
    b"9" * 5000,
    b"[" * 3000,
    b"{" * 300,
    b"a.",
]
TOKENS += [
    b"\xff\xff\xff\x7f",
    b"\x0e\x00\x00\x00",
    b"\x00\x00\x00\x80",
    b"PK",
    b"samples",
    b"= 6",
    b"[[a]]\n",
    b"\\u0000",
]


@st.composite
def damage(draw, content: bytes):
    """A file's content with a few bytes flipped, cut, inserted, or words replaced or exchanged."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if not changed:
            break
        at = draw(st.integers(0, len(changed) - 1))
        kind = draw(st.sampled_from(("flip", "flip", "byte", "cut", "insert", "remove", "token", "swap")))
        if kind == "flip":
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            changed[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "remove":
            del changed[at : at + draw(st.integers(1, 12))]
        elif kind == "token":
            changed[at : at + draw(st.integers(0, 8))] = draw(st.sampled_from(TOKENS))
        else:
            words = bytes(changed).split(b" ")
            i, j = (draw(st.integers(0, len(words) - 1)) for _ in range(2))
            words[i], words[j] = words[j], words[i]
            changed = bytearray(b" ".join(words))
    return bytes(changed)


def fuzz(path, read, content, n_cases):
    """Read damaged copies of a file; how many were read, how many refused, and the longest time. Else an error."""
    import resource

    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115, PTH123
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, used + LIMIT))
    tally = {"read": 0, "refused": 0, "slowest": 0.0}

    @settings(
        max_examples=n_cases,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck.__members__.values()),
    )
    @given(damage(content))
    def check(changed):
        path.write_bytes(changed)
        started = time.perf_counter()
        refusal = None
        try:
            read(path)
        except InputError as error:
            refusal = str(error)
        tally["read" if refusal is None else "refused"] += 1
        if refusal is not None:
            assert str(path.parent) in refusal
            assert "\n" not in refusal
            assert len(refusal) < 1000
            assert "MemoryError" not in refusal  # what is claimed must be checked, not tried
            assert "allocate" not in refusal
        tally["slowest"] = max(tally["slowest"], time.perf_counter() - started)

    check()
    return tally


def in_a_process_of_its_own(path, read, content, n_cases=N_EACH):
    """What crashes or eats the memory in a library would take all the tests with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        tally = pool.submit(fuzz, path, read, content, n_cases).result(timeout=120)
    assert tally["read"] + tally["refused"] >= n_cases
    assert tally["refused"] > n_cases / 10
    assert tally["slowest"] < SLOWEST
    return tally


def use_arrays(path):
    for array in read_arrays(path).values():
        assert isinstance(array, np.ndarray)
        assert array.dtype.kind in "biuf"
        assert array.nbytes < 1 << 26


def use_raster(path):
    raster = open_raster(path)
    assert len(raster.shape) == 3
    rows = raster.rows(0, min(3, raster.shape[0]))
    assert rows.shape == (min(3, raster.shape[0]), *raster.shape[1:])
    assert raster.wavelengths is None or len(raster.wavelengths) == raster.shape[2]


def use_description(path):
    spec = read_description(path)
    assert spec.name
    assert spec.cube_file
    assert len(spec.palette) == spec.n_classes


forks = pytest.mark.skipif(
    not os.path.isdir("/proc/self") or not hasattr(os, "fork"),  # noqa: PTH112
    reason="this system starts no process by fork or has no /proc",
)


@forks
@pytest.mark.parametrize("version", [*WRITERS, "v4", "big endian"])
def test_damaged_mat_files(tmp_path, version):
    path = tmp_path / "a.mat"
    if version == "v4":
        scipy.io.savemat(path, {"gt": ARRAYS["gt"].astype(float), "name": "words", "b": ARRAYS["row"]}, format="4")
    elif version == "big endian":
        write_big_endian(path, "cube", ARRAYS["cube"])
    else:
        WRITERS[version](path, SMALL)
    in_a_process_of_its_own(path, use_arrays, path.read_bytes())


@forks
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_numpy_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    np.save(path, ARRAYS["cube"]) if suffix == ".npy" else np.savez_compressed(path, **ARRAYS)
    in_a_process_of_its_own(path, use_raster if suffix == ".npy" else use_arrays, path.read_bytes())


@forks
def test_damaged_envi_headers(tmp_path):
    (tmp_path / "a.img").write_bytes(np.arange(140, dtype=">u2").tobytes())
    tally = in_a_process_of_its_own(tmp_path / "a.hdr", use_raster, HEADER.encode(), 2 * N_EACH)
    assert tally["read"] > 20


@forks
def test_damaged_geotiffs(tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    path = tmp_path / "a.tif"
    facts = {"height": 3, "width": 4, "count": 5, "dtype": "uint16", "crs": "EPSG:32633", "compress": "deflate"}
    facts["transform"] = rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)
    with rasterio.open(path, "w", driver="GTiff", **facts) as image:
        image.write(ARRAYS["cube"].transpose(2, 0, 1))
    in_a_process_of_its_own(path, use_raster, path.read_bytes())


@forks
def test_damaged_descriptions(tmp_path):
    tally = in_a_process_of_its_own(tmp_path / "scene.toml", use_description, TOML.encode(), 2 * N_EACH)
    assert tally["read"] > 20


def test_a_geotiffs_size_that_is_claimed_and_not_there_is_refused(tmp_path):
    pytest.importorskip("rasterio", reason="rasterio is not installed")
    entries = {256: 2**31 - 1, 257: 10, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 10, 279: 100}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4))
    with pytest.raises(InputError, match=r"a\.tif claims to be \(10, 2147483647, 1\)"):
        open_raster(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("kind", "claim"),
    [("v4", 2**31 - 1), ("v5", 2**30), ("v7.3", 2**40), ("npz", 2**40), ("npy", 2**40), ("hdr", 2**30)],
)
def test_a_size_that_is_claimed_and_not_there_is_refused_before_anything_is_allocated(tmp_path, kind, claim):
    path = tmp_path / {"npz": "a.npz", "npy": "a.npy", "hdr": "a.hdr"}.get(kind, "a.mat")
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({claim},), }}".encode().ljust(117)
        + b"\n"
    )
    if kind == "v4":
        path.write_bytes(struct.pack("<5i", 0, claim, 1, 0, 2) + b"x\0" + bytes(8))
    elif kind == "v5":
        shape = struct.pack("<II2i", 5, 8, claim, 1)
        body = (
            struct.pack("<IIII", 6, 8, 6, 0) + shape + struct.pack("<HH4s", 1, 1, b"x") + struct.pack("<IId", 9, 8, 1)
        )
        path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 14, len(body)) + body)
    elif kind == "v7.3":
        with h5py.File(path, "w") as file:
            file.create_dataset("x", shape=(claim,), dtype="u1", chunks=(1 << 16,))
    elif kind == "npz":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", header)
    elif kind == "npy":
        path.write_bytes(header)
    else:
        path.write_text(HEADER.replace("lines   = 7", f"lines = {claim}"))
        (tmp_path / "a.img").write_bytes(bytes(280))
    started = time.perf_counter()
    with pytest.raises(InputError) as caught:
        open_raster(path)
    assert "\n" not in str(caught.value)
    assert "allocate" not in str(caught.value)
    assert time.perf_counter() - started < 1
