"""Arrays, and .mat files of every version that hold them."""

import struct

import h5py
import numpy as np
import scipy.io

RNG = np.random.default_rng(0)
ARRAYS = {
    "cube": RNG.integers(0, 60_000, (3, 4, 5), dtype=np.uint16),
    "gt": RNG.integers(0, 4, (3, 4), dtype=np.uint8),
    "signed": RNG.integers(-1, 12, (4, 3)).astype(np.int8),
    "wide": RNG.normal(size=(3, 4, 2)),
    "single": RNG.normal(size=(2, 7)).astype(np.float32),
    "row": np.arange(6, dtype=np.int32)[None],
    "column": np.arange(6, dtype=np.int64)[:, None],
}
STRUCT = {"Data": ARRAYS["cube"], "info": "words", "sceneLabels": {"labels": ARRAYS["signed"], "n": 2.0}}


def write_hdf5(path, arrays, **storage):
    """Write as MATLAB does in version 7.3: axes reversed, structs as groups, text as 16-bit numbers."""

    def put(group, name, value):
        if isinstance(value, dict):
            inner = group.create_group(name)
            inner.attrs["MATLAB_class"] = np.bytes_("struct")
            for field, item in value.items():
                put(inner, field, item)
        elif isinstance(value, str):
            text = np.array([[ord(letter)] for letter in value], dtype=np.uint16)
            group.create_dataset(name, data=text).attrs["MATLAB_class"] = np.bytes_("char")
        else:
            options = storage if np.ndim(value) > 1 else {}
            data = group.create_dataset(name, data=np.atleast_2d(value).T, **options)
            data.attrs["MATLAB_class"] = np.bytes_("double")

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            put(file, name, value)
        refs = file.create_group("#refs#")
        refs["a"] = np.zeros((2, 2))  # where MATLAB keeps what cells hold
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def write_big_endian(path, name, array):
    """Write an array as version 5 on a machine with the highest byte first."""

    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    flags = element(6, struct.pack(">II", 11, 0))  # class uint16
    shape = element(5, np.array(array.shape, ">i4").tobytes())
    values = element(4, array.astype(">u2").tobytes(order="F"))
    matrix = element(14, flags + shape + element(1, name.encode()) + values)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI" + matrix)


WRITERS = {
    "v5": lambda path, arrays: scipy.io.savemat(path, arrays),
    "v7": lambda path, arrays: scipy.io.savemat(path, arrays, do_compression=True),
    "v7.3": write_hdf5,
    "v7.3 compressed": lambda path, arrays: write_hdf5(path, arrays, compression="gzip", chunks=True),
}
