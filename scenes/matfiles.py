"""Open .mat files of every version, .npy and .npz; axes as in MATLAB, and dotted names for the fields of structs."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limits import Budget, Stored, open_npz, regular_file
from scenes.hdf5 import memory_of, walk
from scenes.matlab import dense, open_matlab
from utils import InputError

log = logging.getLogger(__name__)

_SIDES = ("nrow", "n_row", "num_row"), ("ncol", "n_col", "num_col")  # numbers of rows and of columns, without an s
_HDF5 = b"\x89HDF\r\n\x1a\n"
_FORMATS = (".npy", ".npz")
Array = np.ndarray | Stored  # either can be listed and chosen


def open_arrays(path: Path) -> dict[str, Stored]:
    """Find all numeric arrays of a .mat, .npy or .npz file; their values are read when they are asked for.

    Args:
        path: .npy, .npz, or else a file of MATLAB up to v7.2 or of v7.3 (HDF5).
    Returns:
        Arrays by variable name, axes in MATLAB's order, or in HDF5 of another program as they are stored; a struct's
        field f of s is "s.f". The array of a .npy file goes by the file's name without suffix, and what is read of it
        is mapped into memory.
    Raises:
        InputError: the file is missing, or not a readable file of its kind. So does reading the values, and if they
            take more memory than `limits` allows.
    """
    path = regular_file(Path(path))
    _refuse_other_kinds(path)
    others: dict[str, str] = {}  # what else the file holds, by name
    arrays = _readable(path, lambda: _open(path, others))
    others |= {name: "complex numbers" for name, array in arrays.items() if array.dtype.kind == "c"}
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}
    if not arrays:
        listed = ", ".join(f"{name} ({kind})" for name, kind in others.items())
        raise InputError(f"{path} holds no numeric array" + (f"; it holds {listed}" if listed else ""))
    checked = {name: replace(array, _read=_reader(path, array)) for name, array in arrays.items()}
    return _reshaped(checked, path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays that `open_arrays` finds."""
    return {name: array.read() for name, array in open_arrays(path).items()}


def _open(path: Path, others: dict[str, str]) -> Mapping[str, Stored]:
    if path.suffix.lower() == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return {path.stem: Stored(array.shape, array.dtype, None, lambda: array)}
    if path.suffix.lower() == ".npz":
        return open_npz(path)
    return _open_hdf5(path, others) if _is_hdf5(path) else open_matlab(path, others)


def _readable(path: Path, act: Callable):
    """Do something with a file; InputError if it fails in any way, as a damaged one can inside NumPy and h5py."""
    try:
        return act()
    except InputError:
        raise
    except Exception as error:
        kind = suffix if (suffix := path.suffix.lower()) in _FORMATS else ".mat"
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        if "Object arrays" in reason or "Python objects" in reason:
            raise InputError(f"{path} holds Python objects, which are not read; save an array of numbers") from error
        raise InputError(f"{path} is not a readable {kind} file ({reason}); fetch or copy it again") from error


def _reader(path: Path, array: Stored) -> Callable[[], np.ndarray]:
    return lambda: _readable(path, array._read)


def _refuse_other_kinds(path: Path) -> None:
    """Raise InputError, with what to do, for a file that is of another kind than its suffix says."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[:2] == b"\x1f\x8b":
        raise InputError(f"{path} is compressed by gzip; unpack it, for example by gunzip")
    if head.startswith(b"# Created by Octave"):
        raise InputError(f"{path} is in Octave's text format; save it there by `save -v7 FILE`")
    if head.startswith(b"PK\3\4") and path.suffix.lower() != ".npz":
        raise InputError(f"{path} is a zip archive; unpack it")


def _reshaped(arrays: dict[str, Stored], path: Path) -> dict[str, Stored]:
    """Make a cube of a matrix (bands, pixels) whose file gives the numbers of rows and columns, as MATLAB's reshape."""
    single = {name.lower().rstrip("s"): array for name, array in arrays.items() if array.size == 1}
    found = [next((single[name] for name in names if name in single), None) for names in _SIDES]
    sizes = [0 if array is None else array.read().item() for array in found]
    if not all(size >= 1 and size == int(size) for size in sizes):
        return arrays
    rows, columns = map(int, sizes)
    reshaped = {}
    for name, array in arrays.items():
        if array.ndim == 2 and min(array.shape) > 1 and rows * columns in array.shape:
            turned = array.shape[1] == rows * columns
            shape = (rows, columns, array.shape[0] if turned else array.shape[1])
        elif array.size == rows * columns and array.ndim <= 2 and 1 in array.shape:
            turned, shape = False, (rows, columns)
        else:
            reshaped[name] = array
            continue
        log.info("%s: %s was reshaped to %s, column by column", path, name, shape)
        reshaped[name] = replace(array, shape=shape, _read=_column_by_column(array, shape, turned=turned))
    return reshaped


def _column_by_column(array: Stored, shape: tuple[int, ...], *, turned: bool) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        values = array._read()
        return (values.T if turned else values).reshape(shape, order="F")

    return read


def describe(arrays: Mapping[str, Array]) -> str:
    """List arrays with shape and type, for a message."""
    return ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())


def images_among(arrays: Mapping[str, Array], n_axes: tuple[int, ...] = (2, 3)) -> dict[str, Array]:
    """Give the arrays that can be an image: of so many axes, at least two of them longer than 1."""
    return {
        name: array
        for name, array in arrays.items()
        if array.ndim in n_axes and sum(length > 1 for length in array.shape) >= 2
    }


def choose_array(
    arrays: Mapping[str, Array],
    key: str | None,
    path: Path,
    wanted: str,
    n_axes: tuple[int, ...] = (3, 2),
    shapes: tuple[tuple[int, ...], ...] | None = None,
) -> np.ndarray:
    """Read an array of a file by its name or, without a name, the only one that fits.

    Args:
        arrays: all arrays of the file.
        key: the name, or None; for "s.f" an array f will do, a plain copy of the struct's field.
        path: the file, for a message.
        wanted: what the array is to be, for a message.
        n_axes: how many axes it may have if it is not named; the first number for which an array fits counts.
        shapes: the shapes that it may have if it is not named. Without them the only array of a file always fits, so
            that the caller can say what is wrong with it.
    Raises:
        InputError: no array of that name, or none or several that fit; the message lists the arrays.
    """
    if key is not None:
        for name in (key, key.split(".")[-1]):
            if name in arrays:
                return _values(arrays[name])
        raise InputError(f"{path} has no variable {key!r} for {wanted}; it holds {describe(arrays)}")
    if shapes is None and len(arrays) == 1:
        return _values(next(iter(arrays.values())))
    for number in n_axes:
        images = images_among(arrays, (number,)).values()
        fitting = [image for image in images if shapes is None or image.shape in shapes]
        if len(fitting) == 1:
            return _values(fitting[0])
        if fitting:
            raise InputError(
                f"{path} holds more than one array that can be {wanted}, {describe(arrays)}; name the variable "
                "(cube_key, gt_key, train_key or test_key; a mask is called TR or TE)"
            )
    raise InputError(f"{path} holds no array that can be {wanted}; it holds {describe(arrays)}")


def _values(array: Array) -> np.ndarray:
    return array.read() if isinstance(array, Stored) else array


def _is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, as h5py would say, which is slow to import."""
    with path.open("rb") as file:
        start, size = 0, path.stat().st_size
        while start < size:  # the format begins at 0, 512, 1024, 2048, ...
            file.seek(start)
            if file.read(len(_HDF5)) == _HDF5:
                return True
            start = max(512, 2 * start)
    return False


def _open_hdf5(path: Path, others: dict[str, str]) -> dict[str, Stored]:
    import h5py  # here, because most scenes do without it

    budget, arrays = Budget(path), {}
    with h5py.File(path, "r") as file:
        for name, item in walk(path, file):
            short = name.replace("/", ".")
            if isinstance(item, h5py.Group):
                if "MATLAB_sparse" in item.attrs and {"ir", "jc", "data"} <= {*item}:
                    arrays[short] = _sparse(item, budget)
                continue
            if short.rpartition(".")[0] in arrays:  # a part of a sparse array
                continue
            if "MATLAB_object_decode" in item.attrs:
                others[short] = f"a MATLAB {item.attrs.get('MATLAB_class', b'object').decode()}"
                continue
            if item.dtype.names == ("real", "imag"):
                others[short] = "complex numbers"
            if item.dtype.kind not in "biuf" or item.shape is None:
                continue
            if item.attrs.get("MATLAB_class") != b"char" and "MATLAB_empty" not in item.attrs:  # this holds its shape
                # HDF5 keeps MATLAB's axes in reverse; other programs write theirs as they are
                matlab = "MATLAB_class" in item.attrs
                shape = item.shape[::-1] if matlab else item.shape
                arrays[short] = Stored(shape, item.dtype, budget, _data_set(path, name, budget, reverse=matlab))
    return arrays


def _data_set(path: Path, name: str, budget: Budget, *, reverse: bool) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        import h5py

        with h5py.File(path, "r") as file:
            data: Any = file[name]
            budget.take(memory_of(data) - data.nbytes)  # a chunk is unpacked beside the values
            values = np.asarray(data[()])
            return values.T if reverse else values

    return read


def _sparse(group, budget: Budget) -> Stored:
    for part in ("ir", "jc", "data"):
        budget.take(memory_of(group[part]))
    rows, starts, values = (np.asarray(group[part]) for part in ("ir", "jc", "data"))
    return dense(rows, starts, values, (np.asarray(group.attrs["MATLAB_sparse"]), len(starts) - 1), budget)
