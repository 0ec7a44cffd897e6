"""Open .mat files of every version, .npy and .npz; axes as in MATLAB, and dotted names for the fields of structs."""

import logging
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils import InputError, no_such_file

log = logging.getLogger(__name__)

# The format of versions 5 to 7.2: what the tag of an element says, and the class of an array
_DATA_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _SPARSE, _NUMERIC, _OPAQUE, _COMPLEX_FLAG = 1, 2, 5, range(6, 16), 17, 1 << 11
_KINDS = {1: "a cell array", 2: "a struct array", 3: "an object", 4: "text", 5: "a sparse array", 16: "a function"}
_SIDES = ("nrow", "n_row", "num_row"), ("ncol", "n_col", "num_col")  # numbers of rows and of columns, without an s
_MOST_DENSE = 1 << 26  # values of a sparse array
_VERSION_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_SQUEEZED = 1100  # deflate makes nothing smaller than 1/1032; a file that claims more than that is damaged
_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all numeric arrays of a .mat, .npy or .npz file.

    Nothing is allocated for a size that a damaged file states but cannot hold.

    Args:
        path: .npy, .npz, or else a file of MATLAB up to v7.2 or of v7.3 (HDF5).
    Returns:
        Arrays by variable name, axes in MATLAB's order; a struct's field f of s is "s.f". The array of a .npy file
        goes by the file's name without suffix, and its values are read when they are used.
    Raises:
        InputError: the file is missing, or not a readable file of its kind.
    """
    path = Path(path)
    if not path.is_file():
        raise no_such_file(path)
    _refuse_other_kinds(path)
    others: dict[str, str] = {}  # what else the file holds, by name
    try:
        if path.suffix.lower() == ".npy":
            arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        elif path.suffix.lower() == ".npz":
            arrays = _read_npz(path)
        else:
            arrays = _read_hdf5(path, others) if _is_hdf5(path) else _read_classic(path, others)
    except Exception as error:  # a damaged or foreign file can fail in any way inside scipy and h5py
        kind = suffix if (suffix := path.suffix.lower()) in (".npy", ".npz") else ".mat"
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} is not a readable {kind} file ({reason}); fetch or copy it again") from error
    others |= {name: "complex numbers" for name, array in arrays.items() if array.dtype.kind == "c"}
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}
    if not arrays:
        listed = ", ".join(f"{name} ({kind})" for name, kind in others.items())
        raise InputError(f"{path} holds no numeric array" + (f"; it holds {listed}" if listed else ""))
    return _reshaped(arrays, path)


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


def _reshaped(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Make a cube of a matrix (bands, pixels) whose file gives the numbers of rows and columns, as MATLAB's reshape."""
    numbers = {name.lower().rstrip("s"): array.item() for name, array in arrays.items() if array.size == 1}
    sizes = [next((numbers[name] for name in names if name in numbers), 0) for names in _SIDES]
    if not all(size >= 1 and size == int(size) for size in sizes):
        return arrays
    rows, columns = map(int, sizes)
    reshaped = {}
    for name, array in arrays.items():
        if array.ndim == 2 and min(array.shape) > 1 and rows * columns in array.shape:
            pixels_last = array if array.shape[1] == rows * columns else array.T
            array = pixels_last.T.reshape(rows, columns, -1, order="F")
            log.info("%s: %s was reshaped to %s, column by column", path, name, array.shape)
        elif array.size == rows * columns and array.ndim <= 2 and 1 in array.shape:
            array = array.reshape(rows, columns, order="F")
            log.info("%s: %s was reshaped to %s, column by column", path, name, array.shape)
        reshaped[name] = array
    return reshaped


def describe(arrays: dict[str, np.ndarray]) -> str:
    """List arrays with shape and type, for a message."""
    return ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())


def images_among(arrays: dict[str, np.ndarray], n_axes: tuple[int, ...] = (2, 3)) -> dict[str, np.ndarray]:
    """Give the arrays that can be an image: of so many axes, at least two of them longer than 1."""
    return {
        name: array
        for name, array in arrays.items()
        if array.ndim in n_axes and sum(length > 1 for length in array.shape) >= 2
    }


def choose_array(
    arrays: dict[str, np.ndarray],
    key: str | None,
    path: Path,
    wanted: str,
    n_axes: tuple[int, ...] = (3, 2),
    shapes: tuple[tuple[int, ...], ...] | None = None,
) -> np.ndarray:
    """Take an array of a file by its name or, without a name, the only one that fits.

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
                return arrays[name]
        raise InputError(f"{path} has no variable {key!r} for {wanted}; it holds {describe(arrays)}")
    if shapes is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    for number in n_axes:
        images = images_among(arrays, (number,)).values()
        fitting = [image for image in images if shapes is None or image.shape in shapes]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise InputError(
                f"{path} holds more than one array that can be {wanted}, {describe(arrays)}; name the variable "
                "(cube_key, gt_key, train_key or test_key; a mask is called TR or TE)"
            )
    raise InputError(f"{path} holds no array that can be {wanted}; it holds {describe(arrays)}")


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


def _read_classic(path: Path, others: dict[str, str]) -> dict[str, np.ndarray]:
    data = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if order is None or 0 in data[:4]:  # version 4 begins with a number
        return _read_version_4(data, others)
    # Not scipy.io.loadmat, which does not check the tags, so that a damaged file can crash the whole program
    arrays = {}
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            kind, content = next(_elements(memoryview(zlib.decompress(content)), order))
        if kind == _MATRIX:
            _collect(content, order, "", arrays, others)
    return arrays


def _read_version_4(data: memoryview, others: dict[str, str]) -> dict[str, np.ndarray]:
    """Read matrices, each of five numbers (type, rows, columns, complex, length of the name), the name and values."""
    arrays, position = {}, 0
    order = "<" if struct.unpack_from("<I", data)[0] < 100 else ">"
    while position < len(data):
        kind, rows, columns, imaginary, length = struct.unpack_from(f"{order}5i", data, position)
        machine, zero, digit, matrix = (kind // unit % 10 for unit in (1000, 100, 10, 1))
        if not 0 <= kind < 2000 or machine != "<>".index(order) or zero or digit >= len(_VERSION_4):
            raise ValueError("it begins like no .mat file")
        if min(rows, columns, length) < 0 or imaginary not in (0, 1) or matrix > 2:
            raise ValueError("it is damaged")
        dtype, start = np.dtype(order + _VERSION_4[digit]), position + 20 + length
        end = start + rows * columns * dtype.itemsize
        position = end + imaginary * (end - start)
        if position > len(data):
            raise ValueError("it is cut off or damaged")
        name = bytes(data[start - length : start]).rstrip(b"\0").decode("latin-1")
        if matrix or imaginary:
            others[name] = (
                "complex numbers" if not matrix else "text" if matrix == 1 else "a sparse matrix of version 4"
            )
        else:
            values = np.frombuffer(data[start:end], dtype).astype(dtype.newbyteorder("="))
            arrays[name] = values.reshape((rows, columns), order="F")
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > _SQUEEZED * (member.compress_size + 1):
                raise ValueError(f"{member.filename} claims to hold {member.file_size} bytes")
            if member.filename.endswith(".npy"):
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    head = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                    shape, _, dtype = (head or np.lib.format.read_array_header_2_0)(file)
                    if math.prod(shape) * dtype.itemsize > member.file_size:
                        raise ValueError(f"{member.filename} is cut off or damaged")
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name]) for name in file.files}


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Give type and content of the elements that follow each other."""
    position = 0
    while position < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, size, start, end = kind & 0xFFFF, kind >> 16, position + 4, position + 8
        else:
            start = position + 8
            end = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > min(end, len(data)):
            raise ValueError("it is cut off or damaged")
        yield kind, data[start : start + size]
        position = end


def _collect(matrix: memoryview, order: str, name: str, arrays: dict, others: dict[str, str]) -> None:
    """Add a matrix to the arrays, or its content if it is a struct or a cell of one; or say what it is."""
    if not matrix:
        return
    (_, flags), (_, shape), (_, own_name), *parts = _elements(matrix, order)
    (flags,) = struct.unpack_from(f"{order}I", flags)
    if flags & 0xFF == _OPAQUE:  # here the second element is the name, and the fourth that of the class
        others[name or bytes(shape).decode("latin-1")] = f"a MATLAB {bytes(parts[0][1]).decode('latin-1')}"
        return
    shape = np.frombuffer(shape, f"{order}i4").tolist()
    name, kind, n_items = name or bytes(own_name).decode(), flags & 0xFF, np.prod(shape)
    if not name:  # MATLAB's own workspace of functions
        return
    if kind in _NUMERIC and not flags & _COMPLEX_FLAG:
        dtype = _DATA_TYPES[parts[0][0]]
        arrays[name] = np.frombuffer(parts[0][1], order + dtype).astype(dtype).reshape(shape, order="F")
    elif kind == _SPARSE and len(shape) == 2 and not flags & _COMPLEX_FLAG:
        (_, rows), (_, starts), (values_type, values) = parts[:3]
        values = np.frombuffer(values, order + _DATA_TYPES[values_type])
        arrays[name] = _dense(np.frombuffer(rows, f"{order}i4"), np.frombuffer(starts, f"{order}i4"), values, shape)
    elif kind == _STRUCT and n_items == 1:
        (length,), text = struct.unpack(f"{order}i", parts[0][1]), bytes(parts[1][1])  # every name fills `length` bytes
        fields = [text[i : i + length].split(b"\0")[0].decode() for i in range(0, len(text), length)]
        for field, (_, content) in zip(fields, parts[2:], strict=True):
            _collect(content, order, f"{name}.{field}", arrays, others)
    elif kind == _CELL and n_items == 1:
        _collect(parts[0][1], order, name, arrays, others)
    else:
        others[name] = "complex numbers" if kind in _NUMERIC else _KINDS.get(kind, "of another kind")


def _dense(rows: np.ndarray, starts: np.ndarray, values: np.ndarray, shape) -> np.ndarray:
    """Make a plain array of MATLAB's sparse one: the values column by column, their rows, where the columns start."""
    n_rows, n_columns = map(int, shape)
    if n_rows * n_columns > _MOST_DENSE or len(starts) != n_columns + 1:
        raise ValueError("it holds a sparse array that is damaged or too large")
    n = int(starts[-1])
    columns = np.repeat(np.arange(n_columns), np.diff(starts))
    dense = np.zeros((n_rows, n_columns), values.dtype.newbyteorder("="))
    dense[rows[:n], columns] = values[:n]
    return dense


def _read_hdf5(path: Path, others: dict[str, str]) -> dict[str, np.ndarray]:
    import h5py  # here, because most scenes do without it

    arrays = {}

    def collect(name, item):
        short = name.replace("/", ".")
        if isinstance(item, h5py.Group) and "MATLAB_sparse" in item.attrs and {"ir", "jc", "data"} <= {*item}:
            rows, starts, values = (np.asarray(item[part]) for part in ("ir", "jc", "data"))
            arrays[short] = _dense(rows, starts, values, (np.asarray(item.attrs["MATLAB_sparse"]), len(starts) - 1))
        if not isinstance(item, h5py.Dataset) or name.startswith("#"):
            return
        if short.rpartition(".")[0] in arrays:  # a part of a sparse array
            return
        if "MATLAB_object_decode" in item.attrs:
            others[short] = f"a MATLAB {item.attrs.get('MATLAB_class', b'object').decode()}"
            return
        if item.dtype.names == ("real", "imag"):
            others[short] = "complex numbers"
        if item.dtype.kind not in "biuf":
            return
        if item.shape is None:
            return
        if item.nbytes > max(path.stat().st_size, 1) * (_SQUEEZED if item.chunks else 1):
            raise ValueError(f"{name} claims to hold {item.nbytes} bytes")
        if item.attrs.get("MATLAB_class") != b"char" and "MATLAB_empty" not in item.attrs:  # this one holds its shape
            arrays[short] = item[()].T  # HDF5 keeps MATLAB's axes in reverse

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return arrays
