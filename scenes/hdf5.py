"""Read cubes of HDF5 and netCDF-4 files by rows, as records of `scenes.products` describe them, or as they are."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from limits import Budget, check_claim
from scenes.raster import Ortho, Raster
from scenes.wavelengths import in_nanometres
from utils import InputError

DEEPEST, MOST_ITEMS = 32, 10_000  # groups in each other; groups and data sets of a file
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A cube in a file.

    Attributes:
        data: its data set; * stands for one group of any name.
        axes: what its axes are, in order: y rows, x columns, b bands.
        wavelengths: a data set, or @name for an attribute of the file; 0 marks an unused channel.
        good: a data set that is 1 for good bands, or None.
        scale: gives multiplier and offset, from the data set; None for 1 and 0.
    """

    data: str
    axes: str
    wavelengths: str
    good: str | None = None
    scale: Callable[[Any], tuple[float, float]] | None = None


@dataclass(frozen=True)
class Product:
    """A product; it is recognised by the data sets of its parts.

    Attributes:
        name: for messages.
        parts: cubes whose bands follow each other.
        nodata: the stored value of pixels without data, or None for what the data set's attributes say.
        place: gives the georeference, from the first data set, or None.
        ortho: gives the table that places the map, see `raster.Ortho`, from the first data set, or None.
    """

    name: str
    parts: tuple[Part, ...]
    nodata: float | None = None
    place: Callable[[Any], dict | None] | None = None
    ortho: Callable[[Any], Ortho | None] | None = None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    import h5py  # here, because most scenes do without it

    try:
        with path.open("rb") as start:
            if start.read(3) == b"CDF":
                raise InputError(
                    f"{path} is netCDF-3, and netCDF-4 is read; `nccopy -k nc4 {path.name} NEW.nc` makes one"
                )
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputError(
            f"{path} is not a readable HDF5 or netCDF-4 file ({reason}); fetch or copy it again"
        ) from error


def walk(path: Path, file) -> Iterator[tuple[str, Any]]:
    """Give name and item of every group and data set of a file, each once; MATLAB's own, #refs#, are left out.

    Raises:
        InputError: there are too many, they are nested too deeply, or the values of one are in another file.
    """
    import h5py
    from h5py.h5o import get_info

    seen, waiting = set(), [("", file, 0)]
    while waiting:
        before, group, depth = waiting.pop(0)
        for key in group:
            name, link = before + key, group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _elsewhere(path, name, "a link to another file")
            if isinstance(link, h5py.SoftLink) or key.startswith("#"):
                continue
            item = group[key]
            if (place := get_info(item.id).addr) in seen:
                continue
            seen.add(place)
            if len(seen) > MOST_ITEMS:
                raise InputError(f"{path} holds more than {MOST_ITEMS:,} groups and data sets; save what is needed")
            if isinstance(item, h5py.Group):
                if depth == DEEPEST:
                    raise InputError(f"{path} has groups nested more than {DEEPEST} times; save what is needed")
                waiting.append((f"{name}/", item, depth + 1))
            elif not isinstance(item, h5py.Dataset):  # a named type
                continue
            elif item.external or item.is_virtual:
                raise _elsewhere(path, name, "a virtual data set" if item.is_virtual else "external storage")
            yield name, item


def _elsewhere(path: Path, name: str, how: str) -> InputError:
    return InputError(f"{path}: the values of {name} are in other files ({how}), which are not read; save them in it")


def memory_of(data) -> int:
    """Give the bytes that reading a data set takes: its values, and the largest block that is unpacked at once."""
    return (data.nbytes if data.shape is not None else 0) + _chunk(data)


def _chunk(data) -> int:
    return math.prod(data.chunks) * data.dtype.itemsize if data.chunks else 0


def check_file(path: Path, file) -> None:
    """Check what a file claims to hold; InputError if a file of its size does not, see also `walk`."""
    import h5py

    sets = [item for _, item in walk(path, file) if isinstance(item, h5py.Dataset) and item.shape is not None]
    check_claim(path, sum(each.nbytes for each in sets), f"{len(sets)} data sets")
    Budget(path).take(max(map(_chunk, sets), default=0))


def whole(data) -> np.ndarray:
    """Read a whole data set; InputError if it takes too much memory."""
    Budget(Path(data.file.filename)).take(memory_of(data))
    return np.asarray(data)


def find(file, name: str) -> str | None:
    """Find a data set of a name with at most one * in a file; gives its full name."""
    import h5py

    first, star, rest = name.partition("*/")
    names = [f"{group}/{rest}" for group in file] if star and not first else [name]
    return next((each for each in names if each in file and isinstance(file[each], h5py.Dataset)), None)


def raster_of(path: Path, file, product: Product, names: list) -> Raster:
    """Put the parts of a product together."""
    wavelengths, bad, scale, offset, taken, shapes = [], [], [], [], [], []
    for part, name in zip(product.parts, names, strict=True):
        data = file[name]
        if data.ndim != 3:
            raise InputError(f"{path}: {name} of a {product.name} file should have three axes, and is {data.shape}")
        sizes = dict(zip(part.axes, data.shape, strict=True))
        waves = _values(file, part.wavelengths, name)
        used = np.flatnonzero(np.ones(sizes["b"], bool) if waves is None else waves > 0)
        if waves is not None and len(waves) != sizes["b"]:
            raise InputError(f"{path}: {part.wavelengths} has {len(waves)} values for {sizes['b']} bands")
        good = None if part.good is None else _values(file, part.good, name)
        start = sum(map(len, taken))
        bad += [start + i for i, band in enumerate(used) if good is not None and not good[band] > 0]
        wavelengths += [] if waves is None else waves[used].tolist()
        factors = (1.0, 0.0) if part.scale is None else part.scale(data)
        scale += [factors[0]] * len(used)
        offset += [factors[1]] * len(used)
        taken.append(used)
        shapes.append((sizes["y"], sizes["x"]))
    if len({*shapes}) > 1:
        raise InputError(f"{path}: the cubes of this {product.name} file differ in size: {shapes}")
    (height, width), stored = shapes[0], np.result_type(*(file[name].dtype for name in names))
    nodata = product.nodata
    if nodata is None:
        attributes = file[names[0]].attrs
        nodata = next((number(attributes[key]) for key in _NODATA if key in attributes), None)
    scaled = any(value != 1 for value in scale) or any(offset)
    log.info("%s was recognised as %s", path, product.name)
    return Raster(
        path,
        (height, width, sum(map(len, taken))),
        np.dtype("f4") if scaled else stored.newbyteorder("="),
        in_nanometres(wavelengths, _unit(wavelengths), path) if wavelengths else None,
        nodata,
        None if product.place is None else product.place(file[names[0]]),
        scale=tuple(scale) if any(value != 1 for value in scale) else None,
        offset=tuple(offset) if any(offset) else None,
        bad_bands=tuple(bad),
        product=product.name,
        ortho=None if product.ortho is None else product.ortho(file[names[0]]),
        _read=_reader(path, names, [part.axes for part in product.parts], taken),
    )


_SCALING = ("scale_factor", 1.0), ("add_offset", 0.0)  # of netCDF
_NODATA = ("_FillValue", "Data_Ignore_Value", "missing_value", "_Fillvalue")


def _unit(wavelengths: list[float]) -> str:
    return "nm" if max(wavelengths) >= 100 else "um"


def _reader(path: Path, names: list[str], axes: list[str], taken: list[np.ndarray]):
    """Make the function that reads rows; the file is opened anew each time, so that nothing stays in memory."""

    def read(start: int, stop: int) -> np.ndarray:
        parts = []
        with opened(path) as file:
            for name, order, bands in zip(names, axes, taken, strict=True):
                index: list[Any] = [slice(None)] * 3
                index[order.index("y")] = slice(start, stop)
                block = np.asarray(file[name][tuple(index)]).transpose([order.index(axis) for axis in "yxb"])
                parts.append(block if len(bands) == block.shape[2] else block[:, :, bands])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    return read


def plain_raster(path: Path, file, key: str | None, n_axes: tuple[int, ...] = (3, 2)) -> Raster:
    """Open a data set of a file that is of no known product, with its axes as they are."""
    import h5py

    cubes: dict[str, Any] = {}

    for name, item in walk(path, file):
        shape = (item.shape or ()) if isinstance(item, h5py.Dataset) else ()
        if len(shape) in (2, 3) and min(shape) > 0 and item.dtype.kind in "biuf":
            cubes[name] = item
    names = [name for name in cubes if key in (name, name.split("/")[-1])] if key else []
    for axes in n_axes if key is None else ():
        names = names or [name for name, item in cubes.items() if item.ndim == axes]
    if len(names) != 1:
        listed = ", ".join(f"{name} {item.shape} {item.dtype}" for name, item in cubes.items()) or "no image"
        raise InputError(
            f"{path} is no product that is known; name the data set (cube_key, or gt_key for labels): {listed}"
        )
    data = cubes[names[0]]
    nodata = next((number(data.attrs[name]) for name in _NODATA if name in data.attrs), None)
    if data.ndim == 2:
        return replace(Raster.of(whole(data), path, names[0]), nodata=nodata)
    read = _reader(path, names, ["yxb"], [np.arange(data.shape[2])])
    scale, offset = (number(data.attrs[name]) if name in data.attrs else usual for name, usual in _SCALING)
    scaled = (scale, offset) != (1, 0)
    return Raster(
        path,
        data.shape,
        np.dtype("f4") if scaled else data.dtype.newbyteorder("="),
        nodata=nodata,
        key=names[0],
        scale=(scale,) * data.shape[2] if scaled else None,
        offset=(offset,) * data.shape[2] if scaled else None,
        _read=read,
    )


def _values(file, name: str, of: str) -> np.ndarray | None:
    """Give the values of a data set, or of an attribute of the file; None if there are none. * is as in `of`."""
    if name.startswith("@"):
        return np.asarray(file.attrs[name[1:]], dtype=float).ravel() if name[1:] in file.attrs else None
    name = name.replace("*", of.split("/")[0])
    return whole(file[name]).astype(float).ravel() if name in file else None


def number(value) -> float:
    """Give a number that is stored as one or as an array of one."""
    return float(np.asarray(value).ravel()[0])


def text(value) -> str:
    """Give a text that is stored as one, as bytes, or as an array of one."""
    value = np.asarray(value).ravel()[0] if not isinstance(value, str | bytes) else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
