"""Open .mat files of every version; MATLAB's axis order in v7.3 is mended, structs are flattened to dotted names."""

from pathlib import Path

import h5py
import numpy as np
import scipy.io

from utils import InputError


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
    for name, value in scipy.io.loadmat(path, struct_as_record=False, squeeze_me=False).items():
        if not name.startswith("__"):
            _flatten(name, value, arrays)
    return arrays


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
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and not name.startswith("#"):
            arrays[name.replace("/", ".")] = item[()].T  # HDF5 keeps MATLAB's axes in reverse

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return arrays
