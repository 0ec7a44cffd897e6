"""Open .mat files of every version; MATLAB's axis order in v7.3 is mended, structs are flattened to dotted names."""

import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from utils import InputError

MATRIX, COMPRESSED = 14, 15
TAGS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13, MATRIX, COMPRESSED, 16, 17, 18}  # data types of version 5


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
    arrays = {}
    content = path.read_bytes()
    if content[126:128] in (b"IM", b"MI"):  # version 5 to 7.2; version 4 has no tags
        _check_tags(content[128:], "<" if content[126:128] == b"IM" else ">")
    for name, value in scipy.io.loadmat(path, struct_as_record=False, squeeze_me=False).items():
        if not name.startswith("__"):
            _flatten(name, value, arrays)
    return arrays


def _check_tags(data: bytes, order: str) -> list[int]:
    """Walk over the tags of a version 5 file; scipy trusts them and may crash the program on one that is damaged.

    Returns:
        The data types of the elements, those inside an element left out.
    """
    position, kinds = 0, []
    while position < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        position += 8
        if kind >> 16:  # a small element keeps its data inside the tag
            kind, size, room = kind & 0xFFFF, kind >> 16, 4
        else:
            room = len(data) - position
        if kind not in TAGS or size > room:
            raise ValueError("a damaged tag")
        kinds.append(kind)
        if room == 4:
            continue
        body = data[position : position + size]
        if kind == COMPRESSED:
            _check_tags(zlib.decompress(body), order)
        elif kind == MATRIX and body:
            parts = _check_tags(body, order)
            flags = struct.unpack_from(f"{order}I", body, 8)[0]
            is_numeric, is_complex = 6 <= flags & 0xFF <= 15, flags >> 11 & 1
            if is_numeric and (len(parts) != 4 + is_complex or MATRIX in parts):  # flags, shape, name, values
                raise ValueError("a damaged array")
        position += size if kind == COMPRESSED else -(-size // 8) * 8
    return kinds


def _flatten(name: str, value, arrays: dict) -> None:
    if isinstance(value, scipy.io.matlab.mat_struct):
        for field in value._fieldnames:
            _flatten(f"{name}.{field}", getattr(value, field), arrays)
    elif isinstance(value, np.ndarray):
        if value.dtype == object and value.size == 1:
            _flatten(name, value.item(), arrays)
        elif value.dtype.kind in "biuf":
            arrays[name] = value


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    arrays = {}

    def collect(name, item):
        numeric = isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf"
        if numeric and item.attrs.get("MATLAB_class") != b"char" and not name.startswith("#"):
            arrays[name.replace("/", ".")] = item[()].T  # HDF5 keeps MATLAB's axes in reverse

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return arrays
