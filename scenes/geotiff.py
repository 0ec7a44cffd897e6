"""GeoTIFF, read and written by rasterio."""

import logging
import math
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from limits import Budget, check_claim
from scenes.georeference import crs_of, transform_of
from scenes.raster import Raster, beside, blocks
from scenes.wavelengths import in_nanometres
from utils import InputError, no_such_file

log = logging.getLogger(__name__)

GEOTIFF = (".tif", ".tiff")
_SEEN = 512  # rows and columns of a band of transparency that are looked at
_UNIT = r"(nanomet\w+|nm|micromet\w+|microns?|um|[µμ]m)\b"
_DESCRIBED = re.compile(rf"(?<![\d.,eE+-])(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*{_UNIT}", re.IGNORECASE)


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
        _refuse_pages(image, path)
        bands, clear = _transparency(image, path)
        facts: dict[str, Any] = {"nodata": image.nodata, "wavelengths": _wavelengths(image, bands, path)}
        bad = _bad_bands(image)
        facts["bad_bands"] = tuple(number for number, band in enumerate(bands) if band - 1 in bad)
        if placed:
            crs = image.crs.to_wkt() if image.crs else None
            facts["georeference"] = {"crs": crs, "transform": tuple(image.transform)[:6]}
        elif image.gcps[0]:
            log.info(
                "%s: its ground control points are not used and its map has no georeference; gdalwarp applies them",
                path,
            )
        if any(scale != 1 for scale in image.scales):
            facts["scale"] = tuple(image.scales[band - 1] for band in bands)
        if any(image.offsets):
            facts["offset"] = tuple(image.offsets[band - 1] for band in bands)
        if len(bands) == 1:
            facts |= _classes(image)
    except InputError:
        raise
    except (rasterio.errors.RasterioError, ValueError, TypeError) as error:
        raise damaged(error) from error

    def read(start, stop):
        try:
            window = ((start, stop), (0, image.width))
            values = image.read(bands, window=window).transpose(1, 2, 0)
            if clear is not None:
                values = values.astype(np.result_type(dtype, np.float32))
                values[clear(window=window)] = np.nan
            return values
        except rasterio.errors.RasterioError as error:
            raise damaged(error) from error

    scaled = "scale" in facts or "offset" in facts
    shape, dtype = (image.height, image.width, len(bands)), np.dtype("f4") if scaled else np.result_type(*kinds)
    if clear is not None:
        dtype = np.result_type(dtype, np.float32)
    check_claim(path, math.prod(shape) * dtype.itemsize, str(shape))
    Budget(path).take(max(map(math.prod, image.block_shapes)) * image.count * dtype.itemsize)  # unpacked at once
    return Raster(path, shape, dtype, **facts, _read=read)


def _refuse_pages(image, path: Path) -> None:
    """Raise InputError if the file holds several images of one band, of which GDAL shows the first alone."""
    if image.count == 1 and len(image.subdatasets) > 1:
        raise InputError(
            f"{path} holds {len(image.subdatasets)} images (pages) of one band each, where one image with all bands is "
            "read; `gdalbuildvrt -separate` and `gdal_translate` make one"
        )


def _transparency(image, path: Path) -> tuple[list[int], Callable | None]:
    """Give the bands that hold data, from 1, and what tells the clear pixels of a window, if the file marks any."""
    from rasterio.enums import ColorInterp, MaskFlags

    bands = [*range(1, image.count + 1)]
    for band in bands if len(bands) > 1 else ():
        if image.colorinterp[band - 1] != ColorInterp.alpha:
            continue
        seen = np.unique(image.read(band, out_shape=(min(image.height, _SEEN), min(image.width, _SEEN))))
        opaque = {255, *([np.iinfo(seen.dtype).max] if seen.dtype.kind in "iu" else [1])}
        if seen.any() and {*seen.tolist()} <= {0, *opaque}:  # else GDAL takes a band of data for it
            log.info("%s: band %d (from 0) marks clear pixels; it is left out, and they have no data", path, band - 1)
            return [each for each in bands if each != band], partial(_is_0, image.read, band)
    if MaskFlags.per_dataset in image.mask_flag_enums[0] and MaskFlags.alpha not in image.mask_flag_enums[0]:
        log.info("%s: pixels that its mask leaves out have no data", path)
        return bands, partial(_is_0, image.dataset_mask)
    return bands, None


def _is_0(read: Callable, *band: int, window) -> np.ndarray:
    return read(*band, window=window) == 0


def _wavelengths(image, bands: list[int], path: Path) -> tuple[float, ...] | None:
    """Give the wavelengths of bands in nm, from their tags or descriptions, or from a list for the whole file."""
    words = [_words(image, band) for band in bands]
    if not any(words):
        tags = image.tags() | image.tags(ns="ENVI")
        listed = re.split(r"[\s,]+", (tags.get("wavelength") or tags.get("wavelengths") or "").strip("{} "))
        unit = tags.get("wavelength_units") or tags.get("wavelength units") or ""
        words = [[word, unit.strip("{} ")] for word in listed] if len(listed) == image.count > 1 else []
        words = [words[band - 1] for band in bands] if words else []
    numbers = [_number(word[0], math.nan) if word else math.nan for word in words]
    if missing := [band for band, number in zip(bands, numbers, strict=True) if math.isnan(number)] if words else []:
        if len(missing) < len(bands):
            log.info("%s: band %d (from 0) has no wavelength; those of the others are not used", path, missing[0] - 1)
        return None
    if not words:
        return None
    units = {word[1] if len(word) > 1 else None for word in words}
    if len(units) > 1:
        log.info("%s: the wavelengths of its bands are in different units; they are not used", path)
        return None
    return in_nanometres(numbers, units.pop(), path)


def _words(image, band: int) -> list[str]:
    """Give the number and the unit, if there is one, of a band's wavelength; [] if it has none."""
    tags = image.tags(band)
    micrometres = image.tags(band, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM")
    if micrometres is not None:
        return [micrometres, "um"]
    if words := str(tags.get("wavelength") or "").split():
        return words if len(words) > 1 or "wavelength_units" not in tags else [words[0], str(tags["wavelength_units"])]
    text = image.descriptions[band - 1] or ""
    found = _DESCRIBED.findall(text)  # more than one, or another number with a unit, may be a width or a range
    return list(found[0]) if len(found) == len(re.findall(_UNIT, text, re.IGNORECASE)) == 1 else []


def _bad_bands(image) -> tuple[int, ...]:
    """Give the bands whose tag "bbl" is 0, or which the list "bbl" of the whole file marks so."""
    words: list[str | None] = [image.tags(band).get("bbl") for band in range(1, image.count + 1)]
    if not any(words):
        text = image.tags().get("bbl") or image.tags(ns="ENVI").get("bbl") or ""
        words = [word.strip() for word in text.strip("{} ").split(",")]
    if len(words) != image.count:
        return ()
    return tuple(band for band, word in enumerate(words) if word and _number(word, 1.0) <= 0)


def _number(word: str, otherwise: float) -> float:
    try:
        return float(word)
    except ValueError:
        return otherwise


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
