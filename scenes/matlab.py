"""The arrays of .mat files of versions 4 to 7.2, found without reading their values."""

import struct
import zlib
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import numpy as np

from limits import MOST_MEMBERS, Budget, Stored

# The format of versions 5 to 7.2: what the tag of an element says, and the class of an array
_DATA_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _SPARSE, _NUMERIC, _OPAQUE, _COMPLEX_FLAG = 1, 2, 5, range(6, 16), 17, 1 << 11
_KINDS = {1: "a cell array", 2: "a struct array", 3: "an object", 4: "text", 5: "a sparse array", 16: "a function"}
_VERSION_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_HEAD = 4096  # bytes that hold what is said of an array before its values
_DEEPEST = 32  # structs and cells in each other


def open_matlab(path: Path, others: dict[str, str]) -> dict[str, Stored]:
    """Find the numeric arrays of a file that is not HDF5.

    Args:
        path: the file.
        others: filled with what else the file holds, by name.
    Raises:
        ValueError and others: it is damaged.
    """
    data = np.memmap(path, np.uint8, "r").data
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]))
    if order is None or 0 in data[:4]:  # version 4 begins with a number
        return _open_version_4(data, Budget(path), others)
    # Not scipy.io.loadmat, which does not check the tags, so that a damaged file can crash the whole program
    found = _Found(order, Budget(path), others)
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            found.add_compressed(content)
        elif kind == _MATRIX:
            found.add(content)
    return found.arrays


def _open_version_4(data: memoryview, budget: Budget, others: dict[str, str]) -> dict[str, Stored]:
    """Find matrices, each of five numbers (type, rows, columns, complex, length of the name), the name and values."""
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
            values = _values(data[start:end], dtype, (rows, columns))
            arrays[name] = Stored((rows, columns), dtype.newbyteorder("="), budget, values)
        if len(arrays) + len(others) > MOST_MEMBERS:
            raise ValueError(f"it holds more than {MOST_MEMBERS:,} variables")
    return arrays


def _values(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    return lambda: np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape, order="F")


def _tag(data: memoryview, position: int, order: str) -> tuple[int, int, int, int]:
    """Read the tag of an element: its type, its size in bytes, where its content starts, and where the next one is."""
    kind, size = struct.unpack_from(f"{order}II", data, position)
    if kind >> 16:  # up to four bytes lie in the tag itself
        kind, size, start, end = kind & 0xFFFF, kind >> 16, position + 4, position + 8
        if size > 4:
            raise ValueError("it is cut off or damaged")
        return kind, size, start, end
    start = position + 8
    return kind, size, start, start + size + (0 if kind == _COMPRESSED else -size % 8)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Give type and content of the elements that follow each other."""
    position = 0
    while position < len(data):
        kind, size, start, end = _tag(data, position, order)
        if start + size > len(data):
            raise ValueError("it is cut off or damaged")
        yield kind, data[start : start + size]
        position = end


class _Found:
    """The arrays of versions 5 to 7.2 that were found, and what else there is."""

    def __init__(self, order: str, budget: Budget, others: dict[str, str]):
        self.order, self.budget, self.others = order, budget, others
        self.arrays: dict[str, Stored] = {}

    def add_compressed(self, content: memoryview) -> None:
        """Add a compressed matrix, of which only the beginning is unpacked if it is a plain array."""
        head = memoryview(zlib.decompressobj().decompress(content, _HEAD))
        kind, size, start, _ = _tag(head, 0, self.order)
        if kind != _MATRIX:
            return
        flags, shape, name, data_type, n_bytes, begin = self._facts(head[start : start + size])
        if flags & 0xFF in _NUMERIC and not flags & _COMPLEX_FLAG and name:
            dtype = np.dtype(self.order + _DATA_TYPES[data_type])
            begin += start
            self._check(shape, dtype, n_bytes, size)

            def read() -> np.ndarray:
                whole = self._unpacked(content, begin + n_bytes)[begin:]
                return _values(memoryview(whole), dtype, shape)()

            self._keep(name, Stored(shape, dtype.newbyteorder("="), self.budget, read))
            return
        self.budget.take(size)
        self.add(memoryview(self._unpacked(content, start + size))[start:])

    def _unpacked(self, content: memoryview, size: int) -> bytes:
        unpacked = zlib.decompressobj().decompress(content, size)
        if len(unpacked) < size:
            raise ValueError("it is cut off or damaged")
        return unpacked

    def _facts(self, matrix: memoryview) -> tuple[int, tuple[int, ...], str, int, int, int]:
        """Give flags, shape and name of a matrix; type and bytes of the element behind them, and where it begins."""
        elements, position = [], 0
        for _ in range(3):
            _, size, start, end = _tag(matrix, position, self.order)
            elements.append(matrix[start : start + size])
            position = end
        (flags,) = struct.unpack_from(f"{self.order}I", elements[0])
        if flags & 0xFF not in _NUMERIC:
            return flags, (), "", 0, 0, 0
        shape = tuple(np.frombuffer(elements[1], f"{self.order}i4").tolist())
        data_type, n_bytes, start, _ = _tag(matrix, position, self.order)
        return flags, shape, bytes(elements[2]).decode(), data_type, n_bytes, start

    def _check(self, shape: tuple[int, ...], dtype: np.dtype, n_bytes: int, size: int) -> None:
        if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != n_bytes or n_bytes > size:
            raise ValueError("it is cut off or damaged")

    def _keep(self, name: str, array: Stored) -> None:
        self.arrays[name] = array
        if len(self.arrays) + len(self.others) > MOST_MEMBERS:
            raise ValueError(f"it holds more than {MOST_MEMBERS:,} arrays")

    def add(self, matrix: memoryview, name: str = "", depth: int = 0) -> None:
        """Add a matrix, or its content if it is a struct or a cell of one; or say what it is."""
        if not matrix:
            return
        if depth > _DEEPEST:
            raise ValueError(f"its structs and cells are nested more than {_DEEPEST} times")
        order = self.order
        (_, flags), (_, shape), (_, own_name), *parts = _elements(matrix, order)
        (flags,) = struct.unpack_from(f"{order}I", flags)
        if flags & 0xFF == _OPAQUE:  # here the second element is the name, and the fourth that of the class
            self.others[name or bytes(shape).decode("latin-1")] = f"a MATLAB {bytes(parts[0][1]).decode('latin-1')}"
            return
        shape = tuple(np.frombuffer(shape, f"{order}i4").tolist())
        name, kind, n_items = name or bytes(own_name).decode(), flags & 0xFF, prod(shape)
        if not name:  # MATLAB's own workspace of functions
            return
        if kind in _NUMERIC and not flags & _COMPLEX_FLAG:
            dtype, data = np.dtype(order + _DATA_TYPES[parts[0][0]]), parts[0][1]
            self._check(shape, dtype, len(data), len(matrix))
            stored = Stored(shape, dtype.newbyteorder("="), self.budget, _values(data, dtype, shape))
            self._keep(name, stored)
        elif kind == _SPARSE and len(shape) == 2 and not flags & _COMPLEX_FLAG:
            (_, rows), (_, starts), (values_type, values) = parts[:3]
            values = np.frombuffer(values, order + _DATA_TYPES[values_type])
            places = np.frombuffer(rows, f"{order}i4"), np.frombuffer(starts, f"{order}i4")
            self._keep(name, dense(*places, values, shape, self.budget))
        elif kind == _STRUCT and n_items == 1:
            (length,), text = struct.unpack(f"{order}i", parts[0][1]), bytes(parts[1][1])
            # every name fills `length` bytes
            fields = [text[i : i + length].split(b"\0")[0].decode() for i in range(0, len(text), length)]
            for each, (_, content) in zip(fields, parts[2:], strict=True):
                self.add(content, f"{name}.{each}", depth + 1)
        elif kind == _CELL and n_items == 1:
            self.add(parts[0][1], name, depth + 1)
        else:
            self.others[name] = "complex numbers" if kind in _NUMERIC else _KINDS.get(kind, "of another kind")


def dense(rows: np.ndarray, starts: np.ndarray, values: np.ndarray, shape, budget: Budget) -> Stored:
    """Make a plain array of MATLAB's sparse one: the values column by column, their rows, where the columns start."""
    n_rows, n_columns = map(int, shape)
    if min(n_rows, n_columns) < 0 or len(starts) != n_columns + 1:
        raise ValueError("it holds a sparse array that is damaged")
    dtype = values.dtype.newbyteorder("=")

    def read() -> np.ndarray:
        n = int(starts[-1])
        columns = np.repeat(np.arange(n_columns), np.diff(starts))
        array = np.zeros((n_rows, n_columns), dtype)
        array[rows[:n], columns] = values[:n]
        return array

    return Stored((n_rows, n_columns), dtype, budget, read)
