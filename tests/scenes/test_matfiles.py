"""The same arrays from every version of .mat file, and one sentence for whatever is no such file."""

import multiprocessing
import os
import struct
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from mat_writers import ARRAYS, RNG, STRUCT, WRITERS, write_big_endian

from scenes.matfiles import choose_array, describe, images_among, read_arrays
from utils import InputError

every_version = pytest.mark.parametrize("version", WRITERS)


def write(path, version, arrays):
    WRITERS[version](path, arrays)
    return path


def assert_one_sentence(error, path):
    assert str(path) in str(error)
    assert "\n" not in str(error)


@every_version
def test_every_version_gives_the_same_arrays(tmp_path, version):
    arrays = read_arrays(write(tmp_path / "a.mat", version, ARRAYS))
    assert arrays.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], expected, err_msg=name)
        assert arrays[name].dtype == expected.dtype


@every_version
def test_structs_become_dotted_names_and_text_is_left_out(tmp_path, version):
    arrays = read_arrays(write(tmp_path / "a.mat", version, {"hsi": STRUCT, "gt": ARRAYS["gt"], "name": "words"}))
    assert set(arrays) == {"hsi.Data", "hsi.sceneLabels.labels", "hsi.sceneLabels.n", "gt"}
    np.testing.assert_array_equal(arrays["hsi.Data"], STRUCT["Data"])
    np.testing.assert_array_equal(arrays["hsi.sceneLabels.labels"], STRUCT["sceneLabels"]["labels"])
    assert arrays["hsi.sceneLabels.n"] == 2


def test_a_struct_in_a_cell_is_opened(tmp_path):
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = {"labels": ARRAYS["gt"]}
    scipy.io.savemat(tmp_path / "a.mat", {"hsi": {"sceneLabels": cell}})
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.mat")["hsi.sceneLabels.labels"], ARRAYS["gt"])


def test_files_of_machines_with_the_other_byte_order_are_read(tmp_path):
    write_big_endian(tmp_path / "a.mat", "cube", ARRAYS["cube"])
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.mat")["cube"], ARRAYS["cube"])


def test_version_4_is_read(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"gt": ARRAYS["gt"].astype(float)}, format="4")
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.mat")["gt"], ARRAYS["gt"])


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "i2", "u2", "u1"])
def test_version_4_is_read_as_scipy_reads_it_in_either_byte_order(tmp_path, dtype):
    array = RNG.integers(0, 100, (4, 3)).astype(dtype)
    path = tmp_path / "a.mat"
    sparse = scipy.sparse.csc_array(np.eye(3))
    others = {"words": "some text", "sparse": sparse, "complex": np.ones((2, 2)) * 1j}
    scipy.io.savemat(path, others | {"x": array, "y": array.T}, format="4")
    found = read_arrays(path)
    assert found.keys() == {"x", "y"}
    for name in found:
        np.testing.assert_array_equal(found[name], scipy.io.loadmat(path)[name])
        assert found[name].dtype == np.dtype(dtype)
    digit = ["f8", "f4", "i4", "i2", "u2", "u1"].index(dtype)
    head = struct.pack(">5i", 1000 + 10 * digit, 4, 3, 0, 2) + b"x\0"
    path.write_bytes(head + array.astype(f">{dtype}").tobytes(order="F"))
    np.testing.assert_array_equal(read_arrays(path)["x"], array)


@every_version
def test_logical_arrays_are_numeric(tmp_path, version):
    mask = ARRAYS["gt"] > 1
    data = mask.astype(np.uint8) if "7.3" in version else mask
    np.testing.assert_array_equal(read_arrays(write(tmp_path / "a.mat", version, {"TR": data}))["TR"], mask)


@every_version
def test_a_file_without_a_numeric_array_is_refused(tmp_path, version):
    path = write(tmp_path / "a.mat", version, {"name": "words"})
    with pytest.raises(InputError, match="holds no numeric array") as caught:
        read_arrays(path)
    assert_one_sentence(caught.value, path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"short",
        b"<!DOCTYPE html>\n<html><body>404 not found</body></html>\n" * 40,
        "1 2 3\n4 5 6\n" * 100,
        "grün\n" * 100,
        np.random.default_rng(1).bytes(5000),
        b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM",
        b"\x89HDF\r\n\x1a\n" + bytes(600),
        b"PK\x03\x04" + bytes(300),
    ],
    ids=["empty", "one byte", "short", "HTML", "numbers", "text", "noise", "v5 header", "HDF5 start", "zip start"],
)
def test_what_is_no_mat_file_is_refused_in_one_sentence_that_names_it(tmp_path, content):
    path = tmp_path / "Indian_pines_gt.mat"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            InputError, match=r"not a readable \.mat file .*copy it again|no numeric array|zip archive"
        ) as caught:
            read_arrays(path)
    assert_one_sentence(caught.value, path)


@every_version
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(tmp_path, version, share):
    path = write(tmp_path / "a.mat", version, {"cube": RNG.integers(0, 60_000, (20, 20, 10), dtype=np.uint16)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is not a readable") as caught:
        read_arrays(path)
    assert_one_sentence(caught.value, path)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    for path, reason in ((tmp_path / "absent.mat", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=reason) as caught:
            read_arrays(path)
        assert_one_sentence(caught.value, path)


def at_random(content, n_cases=300):
    """Copies of a file's content, cut off or with a few other bytes."""
    for seed in range(n_cases):
        rng = np.random.default_rng(seed)
        changed = bytearray(content)
        if seed % 3 == 0:
            del changed[rng.integers(len(content)) :]
        else:
            for position in rng.integers(len(content), size=rng.integers(1, 6)):
                changed[position] = rng.integers(256)
        yield changed


def byte_by_byte(content):
    """Copies of a file's content with one other byte after the header."""
    for position in range(128, len(content)):
        for value in {255, 2 * content[position] % 256} - {content[position]}:
            changed = bytearray(content)
            changed[position] = value
            yield changed


def read_damaged(path, damage):
    """Read damaged copies; the number of copies read and refused. Anything else is an error."""
    broken, n_read, n_refused = path.with_name("broken.mat"), 0, 0
    for content in damage(path.read_bytes()):
        broken.write_bytes(content)
        try:
            assert all(isinstance(array, np.ndarray) for array in read_arrays(broken).values())
            n_read += 1
        except InputError as error:
            assert_one_sentence(error, broken)
            n_refused += 1
    return n_read, n_refused


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system starts no process by fork")
@pytest.mark.parametrize(("version", "damage"), [*((version, at_random) for version in WRITERS), ("v5", byte_by_byte)])
def test_a_damaged_file_gives_arrays_or_one_sentence_and_never_ends_the_program(tmp_path, version, damage):
    contents = {"gt": ARRAYS["gt"], "hsi": STRUCT, "name": "words", "cube": ARRAYS["cube"]}
    path = write(tmp_path / "a.mat", version, contents)
    # In a process of its own: what reads out of bounds in a library would take all the tests with it.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        n_read, n_refused = pool.submit(read_damaged, path, damage).result()
    assert n_read > 0
    assert n_refused > 100


def test_a_description_lists_names_shapes_and_types():
    assert describe({"gt": ARRAYS["gt"], "hsi.Data": ARRAYS["cube"]}) == "gt (3, 4) uint8, hsi.Data (3, 4, 5) uint16"


# The only array that fits


@pytest.mark.parametrize(
    ("names", "key", "options", "found"),
    [
        (("cube", "gt"), None, {}, "cube"),  # three axes go before two
        (("gt", "row", "column"), None, {}, "gt"),  # with one axis longer than 1 it is no image
        (("cube", "gt"), None, {"n_axes": (2,)}, "gt"),
        (("row",), None, {"n_axes": (3,)}, "row"),  # the only array of a file
        (("gt", "signed"), None, {"n_axes": (2,), "shapes": ((4, 3),)}, "signed"),
        (("cube", "gt"), "gt", {}, "gt"),
        (("cube", "gt"), "hsi.labels.gt", {}, "gt"),  # a plain copy of a struct's field
    ],
)
def test_an_array_is_found_by_name_or_as_the_only_one_that_fits(names, key, options, found):
    arrays = {name: ARRAYS[name] for name in names}
    assert choose_array(arrays, key, Path("a.mat"), "the cube", **options) is ARRAYS[found]


@pytest.mark.parametrize(
    ("names", "key", "options", "match"),
    [
        (
            ("cube", "wide"),
            None,
            {},
            r"more than one array that can be the cube, cube .*; name the variable",
        ),
        (
            ("row", "column"),
            None,
            {},
            r"no array that can be the cube; it holds row \(1, 6\) int32, column",
        ),
        (("gt",), None, {"shapes": ((4, 3),)}, r"a.mat holds no array that can be the cube; it holds gt \(3, 4\)"),
        (("gt",), "cube", {}, r"a.mat has no variable 'cube' for the cube; it holds gt \(3, 4\) uint8"),
    ],
)
def test_an_array_that_is_not_certain_is_refused_with_those_in_the_file(names, key, options, match):
    with pytest.raises(InputError, match=match):
        choose_array({name: ARRAYS[name] for name in names}, key, Path("a.mat"), "the cube", **options)


def test_images_have_two_axes_longer_than_1():
    assert [*images_among(ARRAYS)] == ["cube", "gt", "signed", "wide", "single"]
    assert [*images_among({"line": np.ones((1, 5, 4)), "point": np.ones((1, 1, 4)), "gt": np.ones((3, 4, 1))})] == [
        "line",
        "gt",
    ]


@pytest.mark.parametrize("start", [0, 512, 1024, 4096])
def test_hdf5_is_recognised_after_a_block_of_the_users(tmp_path, start):
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=start) as file:
        file["x"], file["y"] = np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3)
        file["x"].attrs["MATLAB_class"] = np.bytes_("double")  # which keeps the axes in reverse
    found = read_arrays(tmp_path / "a.mat")
    np.testing.assert_array_equal(found["x"], np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(found["y"], np.arange(6).reshape(2, 3))
