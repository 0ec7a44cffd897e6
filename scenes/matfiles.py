"""Open .mat files of every version, .npy and .npz; MATLAB's axes in v7.3 are mended, structs become dotted names."""

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from utils import InputError

# The format of versions 5 to 7.2: what the tag of an element says, and the class of an array
_DATA_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _NUMERIC, _COMPLEX_FLAG = 1, 2, range(6, 16), 1 << 11
_VERSION_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_SQUEEZED = 1100  # deflate makes nothing smaller than 1/1032; what claims more than that lies


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all numeric arrays of a .mat, .npy or .npz file.

    Nothing is allocated for a size that a damaged file claims but cannot hold.

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
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".npy":
            arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        elif path.suffix.lower() == ".npz":
            arrays = _read_npz(path)
        else:
            arrays = _read_hdf5(path) if h5py.is_hdf5(path) else _read_classic(path)
    except Exception as error:  # a damaged or foreign file can fail in any way inside scipy and h5py
        kind = suffix if (suffix := path.suffix.lower()) in (".npy", ".npz") else ".mat"
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} is not a readable {kind} file ({reason}); fetch or copy it again") from error
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}
    if not arrays:
        raise InputError(f"{path} holds no numeric array")
    return arrays


def describe(arrays: dict[str, np.ndarray]) -> str:
    """List arrays with shape and type, for a message."""
    return ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())


def _read_classic(path: Path) -> dict[str, np.ndarray]:
    data = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if order is None or 0 in data[:4]:  # version 4 begins with a number
        return _read_version_4(data)
    # scipy.io.loadmat would do, but it does not check the tags, and a damaged file ends the whole program in it
    arrays = {}
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            kind, content = next(_elements(memoryview(zlib.decompress(content)), order))
        if kind == _MATRIX:
            _collect(content, order, "", arrays)
    return arrays


def _read_version_4(data: memoryview) -> dict[str, np.ndarray]:
    """Matrices one after the other: five numbers (type, rows, columns, complex, length of the name), name, values."""
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
        if matrix == 0 and not imaginary:
            name = bytes(data[start - length : start]).rstrip(b"\0").decode("latin-1")
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
    """Type and content of the elements that lie one after the other."""
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


def _collect(matrix: memoryview, order: str, name: str, arrays: dict) -> None:
    """Add a matrix to the arrays, or, where it is a struct or a cell of one, what lies in it."""
    if not matrix:
        return
    (_, flags), (_, shape), (_, own_name), *parts = _elements(matrix, order)
    (flags,) = struct.unpack_from(f"{order}I", flags)
    shape = np.frombuffer(shape, f"{order}i4").tolist()
    name, kind, n_items = name or bytes(own_name).decode(), flags & 0xFF, np.prod(shape)
    if not name:  # MATLAB's own workspace of functions
        return
    if kind in _NUMERIC and not flags & _COMPLEX_FLAG:
        dtype = _DATA_TYPES[parts[0][0]]
        arrays[name] = np.frombuffer(parts[0][1], order + dtype).astype(dtype).reshape(shape, order="F")
    elif kind == _STRUCT and n_items == 1:
        (length,), text = struct.unpack(f"{order}i", parts[0][1]), bytes(parts[1][1])  # every name fills `length` bytes
        fields = [text[i : i + length].split(b"\0")[0].decode() for i in range(0, len(text), length)]
        for field, (_, content) in zip(fields, parts[2:], strict=True):
            _collect(content, order, f"{name}.{field}", arrays)
    elif kind == _CELL and n_items == 1:
        _collect(parts[0][1], order, name, arrays)


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    arrays = {}

    def collect(name, item):
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "biuf" or name.startswith("#"):
            return
        if item.shape is None:
            return
        if item.nbytes > max(path.stat().st_size, 1) * (_SQUEEZED if item.chunks else 1):
            raise ValueError(f"{name} claims to hold {item.nbytes} bytes")
        if item.attrs.get("MATLAB_class") != b"char" and "MATLAB_empty" not in item.attrs:  # this one holds its shape
            arrays[name.replace("/", ".")] = item[()].T  # HDF5 keeps MATLAB's axes in reverse

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return arrays
