"""Open .mat files of every version; MATLAB's axis order in v7.3 is mended, structs are flattened to dotted names."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from utils import InputError

# The format of versions 5 to 7.2: what the tag of an element says, and the class of an array
_DATA_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _NUMERIC, _COMPLEX_FLAG = 1, 2, range(6, 16), 1 << 11


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all numeric arrays of a .mat file.

    Args:
        path: file of MATLAB up to v7.2 or of v7.3 (HDF5).
    Returns:
        Arrays by variable name, axes in MATLAB's order; a struct's field f of s is "s.f".
    Raises:
        InputError: the file is missing, or not a readable .mat file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        arrays = _read_hdf5(path) if h5py.is_hdf5(path) else _read_classic(path)
    except Exception as error:  # a damaged or foreign file can fail in any way inside scipy and h5py
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} is not a readable .mat file ({reason}); fetch or copy it again") from error
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
        found = scipy.io.loadmat(path).items()
        return {name: item for name, item in found if isinstance(item, np.ndarray) and item.dtype.kind in "biuf"}
    # scipy.io.loadmat would do, but it does not check the tags, and a damaged file ends the whole program in it
    arrays = {}
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            kind, content = next(_elements(memoryview(zlib.decompress(content)), order))
        if kind == _MATRIX:
            _collect(content, order, "", arrays)
    return arrays


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
        if item.attrs.get("MATLAB_class") != b"char" and "MATLAB_empty" not in item.attrs:  # this one holds its shape
            arrays[name.replace("/", ".")] = item[()].T  # HDF5 keeps MATLAB's axes in reverse

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return arrays
