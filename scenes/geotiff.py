"""GeoTIFF, read and written by rasterio."""

import logging
import math
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np

from limits import Budget, check_claim
from scenes.georeference import crs_of, transform_of
from scenes.raster import Raster, beside, blocks
from scenes.wavelengths import in_nanometres
from utils import InputError, no_such_file

log = logging.getLogger(__name__)

GEOTIFF = (".tif", ".tiff")


def _rasterio(path: Path) -> ModuleType:
    try:
        import rasterio
    except ImportError as error:
        raise InputError(
            f"{path}: GeoTIFF needs the package rasterio, which is not installed; `pip install rasterio` adds it"
        ) from error
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors are raised as well
    return rasterio


def open_geotiff(path: Path) -> Raster:
    """Open a GeoTIFF; InputError if it is none that can be read."""
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
        if any(kind.startswith("complex") for kind in image.dtypes):
            raise InputError(f"{path}: its values are {', '.join({*image.dtypes})}; only real numbers are read")
        kinds = {np.dtype(kind) for kind in image.dtypes}
        placed = image.crs is not None or not image.transform.is_identity
        facts = {"nodata": image.nodata, "wavelengths": _wavelengths(image, path), "bad_bands": _bad_bands(image)}
        if placed:
            crs = image.crs.to_wkt() if image.crs else None
            facts["georeference"] = {"crs": crs, "transform": tuple(image.transform)[:6]}
        if any(scale != 1 for scale in image.scales):
            facts["scale"] = tuple(image.scales)
        if any(image.offsets):
            facts["offset"] = tuple(image.offsets)
        if image.count == 1:
            facts |= _classes(image)
    except InputError:
        raise
    except (rasterio.errors.RasterioError, ValueError, TypeError) as error:
        raise damaged(error) from error

    def read(start, stop):
        try:
            return image.read(window=((start, stop), (0, image.width))).transpose(1, 2, 0)
        except rasterio.errors.RasterioError as error:
            raise damaged(error) from error

    scaled = "scale" in facts or "offset" in facts
    shape, dtype = (image.height, image.width, image.count), np.dtype("f4") if scaled else np.result_type(*kinds)
    check_claim(path, math.prod(shape) * dtype.itemsize, str(shape))
    Budget(path).take(max(map(math.prod, image.block_shapes)) * image.count * dtype.itemsize)  # unpacked at once
    return Raster(path, shape, dtype, **facts, _read=read)


def _wavelengths(image, path: Path) -> tuple[float, ...] | None:
    """Give the bands' wavelengths in nm; None unless each band's metadata have one of the same unit."""
    found, units = [], set()
    for band in range(1, image.count + 1):
        tags = image.tags(band)
        micrometres = image.tags(band, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM")
        words = (tags.get("wavelength") or "").split() if micrometres is None else [micrometres, "um"]
        try:
            found.append(float(words[0]))
        except (IndexError, ValueError):
            if found or words:
                log.info("%s: band %d (from 0) has no wavelength; those of the others are not used", path, band - 1)
            return None
        units.add(words[1] if len(words) > 1 else tags.get("wavelength_units"))
    if len(units) > 1:
        log.info("%s: the wavelengths of its bands are in different units; they are not used", path)
        return None
    return in_nanometres(found, units.pop(), path)


def _bad_bands(image) -> tuple[int, ...]:
    """Give the bands whose tag "bbl" is 0, or which the list "bbl" of the whole file marks so."""
    words: list[str | None] = [image.tags(band).get("bbl") for band in range(1, image.count + 1)]
    if not any(words):
        text = image.tags().get("bbl") or image.tags(ns="ENVI").get("bbl") or ""
        words = [word.strip() for word in text.strip("{} ").split(",")]
    if len(words) != image.count:
        return ()
    return tuple(band for band, word in enumerate(words) if word and _number(word) <= 0)


def _number(word: str) -> float:
    """Give a number; 1 for a word that is none."""
    try:
        return float(word)
    except ValueError:
        return 1.0


def _classes(image) -> dict:
    """Give the class names, if tags name the values 1, 2, ..., and their colours, if there is a colour table."""
    tags, names = image.tags(), []
    while (name := tags.get(f"class_{len(names) + 1}")) is not None:
        names.append(name)
    if not names:
        return {}
    try:
        table = image.colormap(1)
    except ValueError:  # there is none
        return {"class_names": tuple(names)}
    colours = [table.get(value, (0, 0, 0, 0))[:3] for value in range(1, len(names) + 1)]
    palette = tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours)
    return {"class_names": tuple(names), "palette": palette}


def write_geotiff(
    path: Path, array: np.ndarray, like: Raster | None, tags: dict, *, names=(), colours=None, nodata=None
) -> None:
    """Write an image; see `rasters.write_bands`, and with `colours`, (red, green, blue) by value, `write_labels`."""
    if path.suffix.lower() not in GEOTIFF:
        raise InputError(f"{path}: maps are written as ENVI (.hdr) or GeoTIFF (.tif); choose one of them")
    rasterio = _rasterio(path)
    height, width, n_bands = array.shape
    where = like.georeference if like else None
    transform, crs = transform_of(where), crs_of(where)
    facts = {"height": height, "width": width, "count": n_bands, "dtype": array.dtype.name, "compress": "deflate"}
    if nodata is not None:
        facts["nodata"] = nodata
    if transform is not None:
        facts["transform"] = rasterio.Affine(*transform)
    if crs is not None:
        try:
            facts["crs"] = rasterio.crs.CRS.from_user_input(crs)
        except rasterio.errors.CRSError:
            log.info("%s: the input's coordinate system is unknown to GeoTIFF and left out", path)
    ready = beside(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file without georeference
            with rasterio.open(ready, "w", driver="GTiff", **facts) as image:
                for start, stop in blocks(array):
                    image.write(array[start:stop].transpose(2, 0, 1), window=((start, stop), (0, width)))
                for band, name in enumerate(names, start=1):
                    image.set_band_description(band, name)
                if colours is not None:
                    image.write_colormap(1, colours)
                image.update_tags(**tags)
        ready.replace(path)
    finally:
        ready.unlink(missing_ok=True)
