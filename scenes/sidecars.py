"""GeoTIFF products whose facts are in another file or in their names: EnMAP, DESIS, Hyperion; and ERDAS files."""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scenes.envi import data_files, read_header
from scenes.geotiff import open_geotiff
from scenes.raster import Raster
from scenes.wavelengths import in_nanometres
from utils import InputError, no_such_file

ERDAS = (".lan", ".gis")
log = logging.getLogger(__name__)
_XML = re.compile(r"-?SPECTRAL_IMAGE.*$", re.IGNORECASE)
_HYPERION = re.compile(r"(EO1H\w+?)_B(\d{3})(_L1[A-Z]*\.TIFF?)$", re.IGNORECASE)
_CALIBRATED = (*range(8, 58), *range(77, 225))  # channels of Hyperion, from 1
_LONGEST = 1 << 26  # bytes of an XML file


def open_tiff(path: Path) -> Raster:
    """Open a GeoTIFF, with what the files beside it say of it."""
    if _HYPERION.search(path.name):
        return _hyperion(path)
    raster = open_geotiff(path)
    xml = _beside(path, ".xml")
    if xml is not None and (found := _enmap(raster, xml)).product is not None:
        return found
    header = next((each for each in (path.with_suffix(".hdr"), path.with_suffix(".HDR")) if each.is_file()), None)
    if header is not None and raster.wavelengths is None and not data_files(header):
        return _with_header(raster, header)
    return raster


def _beside(path: Path, suffix: str) -> Path | None:
    """Find the metadata of a product whose image is X-SPECTRAL_IMAGE.TIF: X-METADATA.XML, in any case."""
    start = _XML.sub("", path.name).lower()
    if start == path.name.lower():
        return None
    names = (f"{start}-metadata{suffix}", f"{start}_metadata{suffix}", f"{start}metadata{suffix}")
    return next((each for each in sorted(path.parent.iterdir()) if each.name.lower() in names), None)


def _enmap(raster: Raster, xml: Path) -> Raster:
    """Add wavelengths, gains and offsets of EnMAP's XML file: an entry bandID for each band."""
    from xml.etree import ElementTree

    try:
        if xml.stat().st_size > _LONGEST:
            raise InputError(f"{xml} is too long for the metadata of a product")
        text = xml.read_bytes()
        if b"<!ENTITY" in text or b"<!DOCTYPE" in text:
            raise InputError(f"{xml} defines entities, which the metadata of a product do not; fetch or copy it again")
        bands = ElementTree.fromstring(text).findall(".//bandCharacterisation/bandID")
        entries = [{part.tag: (part.text or "").strip() for part in band} for band in bands]
        facts = {
            name: [float(entry[key]) for entry in entries if entry.get(key)]
            for name, key in (("waves", "wavelengthCenterOfBand"), ("gains", "GainOfBand"), ("offsets", "OffsetOfBand"))
        }
    except (ElementTree.ParseError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{xml} is not readable metadata of a product ({error}); fetch or copy it again") from error
    n_bands = raster.shape[2]
    found = {name: tuple(values) for name, values in facts.items() if len(values) == n_bands}
    if not found:
        return raster
    log.info("%s was recognised as EnMAP L2A by %s", raster.path, xml.name)
    changes: dict[str, Any] = {"product": "EnMAP L2A"}
    if raster.wavelengths is None and "waves" in found:
        changes["wavelengths"] = in_nanometres(found["waves"], None, xml)
    if not raster.scaled:
        changes |= _scaling(found.get("gains"), found.get("offsets"))
    return replace(raster, **changes)


def _scaling(gains: tuple[float, ...] | None, offsets: tuple[float, ...] | None) -> dict[str, Any]:
    """Give the fields of a raster for gains and offsets, none for 1 and 0."""
    scale = gains if gains and any(gain != 1 for gain in gains) else None
    offset = offsets if offsets and any(offsets) else None
    return {"scale": scale, "offset": offset, "dtype": np.dtype("f4")} if scale or offset else {}


def _with_header(raster: Raster, header: Path) -> Raster:
    """Add what an ENVI header beside a GeoTIFF says of its bands, as DESIS has it."""
    try:
        facts = read_header(header)
    except InputError as error:
        log.info("%s is not used: %s", header, error)
        return raster
    if facts.shape != raster.shape:
        log.info("%s is of another size than %s and is not used", header, raster.path.name)
        return raster
    changes: dict[str, Any] = {"wavelengths": facts.wavelengths, "bad_bands": raster.bad_bands or facts.bad_bands}
    if raster.nodata is None:
        changes["nodata"] = facts.nodata
    if not raster.scaled:
        changes |= _scaling(facts.scale, facts.offset)
    log.info("%s: wavelengths, bad bands and scale are those of %s", raster.path, header.name)
    return replace(raster, **changes)


def _hyperion(path: Path) -> Raster:
    """Open all calibrated channels of a Hyperion product, one GeoTIFF each, given any of them."""
    found = _HYPERION.search(path.name)
    assert found is not None
    names = {channel: f"{found[1]}_B{channel:03d}{found[3]}".lower() for channel in _CALIBRATED}
    if not path.is_file():
        raise no_such_file(path)
    there = {each.name.lower(): each for each in path.parent.iterdir()}
    channels = [channel for channel in _CALIBRATED if names[channel] in there]
    if not channels:
        raise InputError(f"{path} is a channel of Hyperion that is not calibrated, and no calibrated one is beside it")
    rasters = [open_geotiff(there[names[channel]]) for channel in channels]
    first = rasters[0]
    for raster in rasters:
        if raster.shape != first.shape or raster.shape[2] != 1:
            raise InputError(f"{raster.path} is {raster.shape}, and {first.path.name} {first.shape}; copy it again")
    if len(channels) < len(_CALIBRATED):
        log.info("%s: %d of the %d calibrated channels are there", path, len(channels), len(_CALIBRATED))
    log.info("%s was recognised as Hyperion L1T, of which %d channels are read", path, len(channels))

    def read(start: int, stop: int) -> np.ndarray:
        return np.concatenate([raster.rows(start, stop) for raster in rasters], axis=2)

    # 70 channels of the VNIR detector and 172 of the SWIR one, evenly spaced
    waves = tuple(355.59 + 10.1746 * (c - 1) if c <= 70 else 851.92 + 10.0886 * (c - 71) for c in channels)
    return Raster(
        path,
        (*first.shape[:2], len(channels)),
        np.dtype("f4"),
        waves,
        0.0,
        first.georeference,
        scale=tuple(1 / 40 if channel <= 70 else 1 / 80 for channel in channels),
        product="Hyperion L1T",
        _read=read,
    )


def open_erdas(path: Path) -> Raster:
    """Open an ERDAS 7 file (.lan, .GIS)."""
    from spectral.io import erdas  # here, because most scenes do without it

    if not path.is_file():
        raise no_such_file(path)
    try:
        image = erdas.open(str(path))
        height, width, n_bands = map(int, image.shape)
        wanted = image.offset + height * width * n_bands * image.sample_size
    except Exception as error:  # a damaged file can fail in any way inside the package
        raise InputError(
            f"{path} is not a readable ERDAS file ({type(error).__name__}); fetch or copy it again"
        ) from error
    if min(height, width, n_bands) < 1 or path.stat().st_size < wanted:
        raise InputError(f"{path} is cut off or damaged; copy it again")

    def read(start: int, stop: int) -> np.ndarray:
        values = np.asarray(erdas.open(str(path)).read_subregion((start, stop), (0, width)))
        return values.view(np.uint8) if values.dtype == np.int8 else values  # 8 bits have no sign

    dtype = np.dtype(np.uint8) if np.dtype(image.dtype) == np.int8 else np.dtype(image.dtype).newbyteorder("=")
    return Raster(path, (height, width, n_bands), dtype, _read=read)
