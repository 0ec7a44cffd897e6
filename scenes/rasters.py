"""Open rasters without reading them: ENVI, GeoTIFF, .npy, .npz, .mat; and write label maps and bands."""

import logging
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from scenes.envi import data_type_code, find_pair, read_header, write_header
from scenes.georeference import crs_of, map_info_of, transform_of
from scenes.matfiles import choose_array, read_arrays
from utils import InputError, no_such_file

log = logging.getLogger(__name__)

GEOTIFF, ARRAYS = (".tif", ".tiff"), (".npy", ".npz", ".mat")
FORMATS = "ENVI (.hdr), GeoTIFF (.tif, .tiff), .npy, .npz, .mat"
_BLOCK = 1 << 24  # bytes written at a time
_SQUEEZED = 20_000  # more than the compression of any GeoTIFF that holds an image


@dataclass(frozen=True)
class Raster:
    """An image on disk, of which only the requested rows are read if the format allows it.

    Attributes:
        path: the file, of an ENVI pair the header.
        shape: (H, W, n_bands); a label map has one band.
        dtype: the values' type, in native byte order.
        wavelengths: of the bands in nm, in the file's order, or None.
        nodata: the value that marks pixels without data, or None.
        georeference: an ENVI header's "map info" (list of words) and "coordinate system string", or a GeoTIFF's "crs"
            (WKT) and "transform" (six numbers, see `georeference.transform_of`); None if it has none.
        class_names: of a classification that names its classes, index i for value i + 1; else None.
        key: the variable, if the file holds several.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    wavelengths: tuple[float, ...] | None = None
    nodata: float | None = None
    georeference: dict | None = None
    class_names: tuple[str, ...] | None = None
    key: str | None = None
    _read: Callable[[int, int], np.ndarray] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, array: np.ndarray, path: Path, key: str | None = None) -> "Raster":
        """Make a raster of an array of two or three axes."""
        cube = array if array.ndim == 3 else array[:, :, None]
        return cls(path, cube.shape, cube.dtype.newbyteorder("="), key=key, _read=lambda start, stop: cube[start:stop])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Read the rows start .. stop - 1, (stop - start, W, n_bands) of `dtype`; InputError if they are damaged."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} of {self.shape[0]}")
        assert self._read is not None
        return np.array(self._read(start, stop), self.dtype, order="C")


def open_raster(path: Path, key: str | None = None) -> Raster:
    """Open an image, without reading its values if the format allows it.

    Args:
        path: a file whose suffix says what it is; an ENVI header or the data file beside it.
        key: the variable of a .mat or .npz file; without it the only array of three axes, else of two, is taken.
    Raises:
        InputError: an unknown suffix, a missing file or package, a damaged file, or sizes that do not fit.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if key is not None and suffix not in ARRAYS:
        raise InputError(f"{path} has no variables, so that {key!r} cannot be one; leave the key out")
    if suffix in GEOTIFF:
        return _open_geotiff(path)
    if suffix in ARRAYS:
        return _open_array(path, key)
    header = find_pair(path)
    if header is None:
        raise InputError(f"{path}: this is none of the formats that are read: {FORMATS}")
    return _open_envi(*header)


def _open_envi(header: Path, data: Path) -> Raster:
    facts = read_header(header)
    height, width, n_bands = shape = facts.shape
    size, wanted = data.stat().st_size, facts.offset + math.prod(shape) * facts.dtype.itemsize
    if size != wanted:
        how = "cut off" if size < wanted else "longer"
        raise InputError(
            f"{data} is {how}: it has {size} bytes where {header.name} ({height} lines, {width} samples, {n_bands} "
            f"bands, {facts.dtype}, offset {facts.offset}) requires {wanted}; copy it again or correct the header"
        )
    axes = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[facts.interleave]
    stored = tuple(shape[axis] for axis in axes)

    def read(start, stop):  # mapped anew each time, so that memory of rows read before is freed
        return np.memmap(data, facts.dtype, "r", facts.offset, stored).transpose(np.argsort(axes))[start:stop]

    return Raster(
        header,
        shape,
        facts.dtype.newbyteorder("="),
        facts.wavelengths,
        facts.nodata,
        facts.georeference,
        facts.class_names,
        _read=read,
    )


def _rasterio(path: Path) -> ModuleType:
    try:
        import rasterio
    except ImportError as error:
        raise InputError(
            f"{path}: GeoTIFF needs the package rasterio, which is not installed; `pip install rasterio` adds it"
        ) from error
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors are raised as well
    return rasterio


def _open_geotiff(path: Path) -> Raster:
    rasterio = _rasterio(path)
    if not path.is_file():
        raise no_such_file(path)

    def damaged(error):
        reason = str(error.__cause__ or error).splitlines()[0].replace(f"'{path}'", "it")
        return InputError(f"{path} is not a readable GeoTIFF ({reason}); fetch or copy it again")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file without georeference
            image = rasterio.open(path, driver="GTiff")
        kinds = {np.dtype(kind) for kind in image.dtypes}
        placed = image.crs is not None or not image.transform.is_identity
        where = {"crs": image.crs.to_wkt() if image.crs else None, "transform": tuple(image.transform)[:6]}
        wavelengths, nodata = _geotiff_wavelengths(image), image.nodata
    except (rasterio.errors.RasterioError, ValueError, TypeError) as error:
        raise damaged(error) from error
    if any(kind.kind not in "biuf" for kind in kinds):
        raise InputError(f"{path}: its values are {', '.join(map(str, kinds))}; only real numbers are read")

    def read(start, stop):
        try:
            return image.read(window=((start, stop), (0, image.width))).transpose(1, 2, 0)
        except rasterio.errors.RasterioError as error:
            raise damaged(error) from error

    shape, dtype = (image.height, image.width, image.count), np.result_type(*kinds)
    if math.prod(shape) * dtype.itemsize > _SQUEEZED * path.stat().st_size:
        raise InputError(f"{path} claims to be {shape}, which a file of its size cannot hold; fetch or copy it again")
    return Raster(path, shape, dtype, wavelengths, nodata, where if placed else None, _read=read)


def _geotiff_wavelengths(image) -> tuple[float, ...] | None:
    """Give the bands' wavelengths in nm, or None unless each band's metadata have one."""
    found = []
    for band in range(1, image.count + 1):
        tags = image.tags(band)
        micrometres = image.tags(band, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM")
        words = (tags.get("wavelength") or "").split() if micrometres is None else [micrometres]
        if not words:
            return None
        unit = "um" if micrometres is not None else (tags.get("wavelength_units") or "nm").lower()
        scale = 1000 if unit.startswith(("um", "µm", "micro")) else 1
        found.append(scale * float(words[0]))
    return tuple(found)


def _open_array(path: Path, key: str | None) -> Raster:
    array = choose_array(read_arrays(path), key, path, "an image of two or three axes")
    if array.ndim not in (2, 3) or not array.size:
        raise InputError(f"{path} holds no image of two or three axes; the array is {array.shape}")
    return Raster.of(array, path, key)


def read_file(path: Path) -> tuple[dict[str, np.ndarray], Raster | None]:
    """Read all values of a file of any format.

    Returns:
        Arrays by name, (H, W) if an image has one band; and its raster if the format knows more than arrays.
    Raises:
        InputError: see `open_raster` and `matfiles.read_arrays`.
    """
    if path.suffix.lower() in ARRAYS:
        return read_arrays(path), None
    raster = open_raster(path)
    array = raster.rows(0, raster.shape[0])
    return {path.stem: array[..., 0] if raster.shape[2] == 1 else array}, raster


def write_labels(path: Path, labels: np.ndarray, class_names, palette, like: Raster | None = None) -> None:
    """Write a label map as an ENVI classification or a GeoTIFF with a colour table.

    Args:
        path: .hdr (the data go beside it into .img) or .tif; an earlier file is replaced once the new one is whole.
        labels: (H, W) uint8 or uint16, 0 = unlabelled, 1..K.
        class_names, palette: K names and "#rrggbb" each; index i is label i + 1.
        like: the mapped raster, whose georeference the file gets.
    Raises:
        InputError: another suffix, or rasterio is needed but not installed.
    """
    names = ("Unlabelled", *class_names)
    colours = [tuple(bytes.fromhex(colour.lstrip("#"))) for colour in ("#000000", *palette)]
    if path.suffix.lower() == ".hdr":
        extra = {"file type": "ENVI Classification", "classes": len(names), "class names": names}
        extra["class lookup"] = [value for colour in colours for value in colour]
        _write_envi(path, labels[:, :, None], like, extra)
    else:
        tags = {f"class_{i}": name for i, name in enumerate(names)}
        _write_geotiff(path, labels[:, :, None], like, tags, colours=dict(enumerate(colours)))


def write_bands(path: Path, array: np.ndarray, names, like: Raster | None = None) -> None:
    """Write images of numbers, such as probabilities, as ENVI (.hdr with .img) or GeoTIFF.

    Args:
        path: .hdr or .tif; an earlier file is replaced once the new one is whole.
        array: (H, W, n) float32, uint8 or uint16.
        names: n names of its bands.
        like: the mapped raster, whose georeference the file gets.
    Raises:
        InputError: another suffix, or rasterio is needed but not installed.
    """
    if path.suffix.lower() == ".hdr":
        _write_envi(path, array, like, {"band names": names})
    else:
        _write_geotiff(path, array, like, {}, names=names)


def _beside(path: Path) -> Path:
    return path.with_name(f".{os.getpid()}.{path.name}")  # with the suffix, from which rasterio takes the format


def _blocks(array: np.ndarray):
    """Give first and last row, exclusive, of blocks that are small enough to be held twice."""
    step = max(1, _BLOCK // max(1, array[:1].nbytes))
    return [(start, min(start + step, len(array))) for start in range(0, len(array), step)]


def _write_envi(path: Path, array: np.ndarray, like: Raster | None, extra: dict) -> None:
    (height, width, n_bands), place = array.shape, map_info_of(like.georeference if like else None)
    facts = {"samples": width, "lines": height, "bands": n_bands, "header offset": 0}
    facts |= {"data type": data_type_code(array.dtype), "interleave": "bip", "byte order": 0} | place | extra
    data, ready_data, ready = path.with_suffix(".img"), _beside(path.with_suffix(".img")), _beside(path)
    try:
        with ready_data.open("wb") as file:
            for start, stop in _blocks(array):
                block = array[start:stop]
                file.write(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data)
        write_header(ready, facts)
        ready_data.replace(data)
        ready.replace(path)
    finally:
        ready_data.unlink(missing_ok=True)
        ready.unlink(missing_ok=True)


def _write_geotiff(path: Path, array: np.ndarray, like: Raster | None, tags, *, names=(), colours=None) -> None:
    if path.suffix.lower() not in GEOTIFF:
        raise InputError(f"{path}: maps are written as ENVI (.hdr) or GeoTIFF (.tif); choose one of them")
    rasterio = _rasterio(path)
    height, width, n_bands = array.shape
    where = like.georeference if like else None
    transform, crs = transform_of(where), crs_of(where)
    facts = {"height": height, "width": width, "count": n_bands, "dtype": array.dtype.name, "compress": "deflate"}
    if transform is not None:
        facts["transform"] = rasterio.Affine(*transform)
    if crs is not None:
        try:
            facts["crs"] = rasterio.crs.CRS.from_user_input(crs)
        except rasterio.errors.CRSError:
            log.info("%s: the input's coordinate system is unknown to GeoTIFF and left out", path)
    ready = _beside(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file without georeference
            with rasterio.open(ready, "w", driver="GTiff", **facts) as image:
                for start, stop in _blocks(array):
                    image.write(array[start:stop].transpose(2, 0, 1), window=((start, stop), (0, width)))
                for band, name in enumerate(names, start=1):
                    image.set_band_description(band, name)
                if colours is not None:
                    image.write_colormap(1, colours)
                image.update_tags(**tags)
        ready.replace(path)
    finally:
        ready.unlink(missing_ok=True)
