"""Georeferences of rasters: ENVI's map info, GeoTIFF's transform, and conversion between them."""

import logging
import math
from pathlib import Path

import numpy as np

from utils import InputError

log = logging.getLogger(__name__)

_GEOGRAPHIC = "Geographic Lat/Lon"
# EPSG codes of UTM north and south (without the zone) and of degrees, by ENVI's name of the datum
_DATUMS: dict[str, tuple[int | None, int | None, int]] = {
    "WGS-84": (32600, 32700, 4326),
    "WGS-72": (32200, 32300, 4322),
    "North America 1983": (26900, None, 4269),
    "North America 1927": (26700, None, 4267),
    "European 1950": (23000, None, 4230),
    "ETRS 1989": (25800, None, 4258),
}


def transform_of(georeference: dict | None) -> tuple[float, ...] | None:
    """Give the affine transform of a raster's georeference.

    Args:
        georeference: as in `Raster.georeference`.
    Returns:
        (a, b, c, d, e, f): column x and row y of a pixel's upper left corner lie at (a x + b y + c, d x + e y + f);
        None if it is not known.
    """
    if not georeference:
        return None
    if "transform" in georeference:
        return tuple(georeference["transform"])
    try:
        info = georeference["map info"]
        column, row, east, north, width, height = map(float, info[1:7])
    except (KeyError, ValueError, TypeError):
        return None
    turn = math.radians(_rotation(info))
    # ENVI counts the reference pixel from 1, and rotates counter-clockwise about it.
    a, b = width * math.cos(turn), height * math.sin(turn)
    d, e = width * math.sin(turn), -height * math.cos(turn)
    column, row = column - 1, row - 1
    transform = (a, b, east - a * column - b * row, d, e, north - d * column - e * row)
    return transform if all(map(math.isfinite, transform)) else None


def crs_of(georeference: dict | None) -> str | None:
    """Give the coordinate system of a raster's georeference as WKT or "EPSG:<code>", or None."""
    georeference = georeference or {}
    if georeference.get("crs") or georeference.get("coordinate system string"):
        return georeference.get("crs") or georeference["coordinate system string"]
    info = georeference.get("map info") or [""]
    datum = next((_DATUMS[word] for word in info if word in _DATUMS), None)
    if datum is None:
        return None
    if info[0] == _GEOGRAPHIC:
        return f"EPSG:{datum[2]}"
    if info[0] == "UTM" and len(info) > 8 and info[7].isdecimal():
        base = datum[info[8].lower().startswith("s")]
        return None if base is None else f"EPSG:{base + int(info[7])}"
    return None


def pixel_size_of(georeference: dict | None) -> float | None:
    """Give the metres across a pixel; None if they are not known or differ between the two directions."""
    transform = transform_of(georeference)
    if transform is None:
        return None
    across, down = math.hypot(transform[0], transform[3]), math.hypot(transform[1], transform[4])
    unit = _metres_per_unit(georeference)
    if unit is None or not 0 < across < math.inf or abs(down - across) > 0.01 * across:
        return None
    return across * unit


def _metres_per_unit(georeference) -> float | None:
    """Give the metres per unit of the coordinates; None if these are degrees, or not known."""
    info = [str(word).strip().lower() for word in georeference.get("map info") or []]
    if info and (info[0] == "utm" or {"units=meters", "units=metres"} & set(info)):
        return 1.0
    if info or not georeference.get("crs"):
        return None
    try:
        from rasterio.crs import CRS

        system = CRS.from_user_input(georeference["crs"])
        return system.linear_units_factor[1] if system.is_projected else None
    except (ImportError, ValueError):  # unlikely, as this package has read the georeference
        return None


def map_info_of(georeference: dict | None) -> dict:
    """Give the entries of an ENVI header, "map info" and "coordinate system string", that place a raster."""
    georeference = georeference or {}
    if "map info" in georeference:
        keys = ("map info", "projection info", "coordinate system string")
        return {key: georeference[key] for key in keys if key in georeference}
    transform, crs = transform_of(georeference), crs_of(georeference)
    if transform is None:
        return {}
    a, b, c, d, e, f = transform
    width, height, turn = math.hypot(a, d), math.hypot(b, e), math.atan2(d, a)
    # ENVI knows a rotation, but neither mirrored nor sheared pixels
    turned = abs(b - height * math.sin(turn)) <= 1e-9 * height and abs(e + height * math.cos(turn)) <= 1e-9 * height
    if not turned or not width:
        log.info("the input is mirrored or sheared on the map; its georeference is left out of the ENVI header")
        return {}
    entries = {"map info": ["Arbitrary", "1", "1", repr(c), repr(f), repr(width), repr(height)]}
    if crs is not None:
        entries["map info"][0], more = _projection(crs)
        entries["map info"] += more
    if abs(turn) > 1e-9:
        entries["map info"].append(f"rotation={math.degrees(turn)!r}")
    if crs is not None:
        entries["coordinate system string"] = _as_esri(crs)
    return entries


def same_system(one: dict | None, other: dict | None) -> bool:
    """Whether two rasters' coordinates may be compared; a raster without a coordinate system gets the other's."""
    first, second = crs_of(one), crs_of(other)
    if first is None or second is None or first == second:
        return True
    try:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
    except ImportError:  # only this package can compare two different texts
        return False
    try:
        first, second = CRS.from_user_input(first), CRS.from_user_input(second)
    except CRSError:
        return False
    return first == second or first.to_dict() == second.to_dict() != {}


def in_system(east: np.ndarray, north: np.ndarray, one: dict | None, other: dict | None, path: Path) -> tuple:
    """Convert map coordinates from the system of one raster to that of another; NaN where it has none.

    Args:
        east, north: coordinates, of any shape.
        one, other: georeferences with different systems.
        path: the other raster, for a message.
    Raises:
        InputError: a system is unknown, or the package for it is not installed.
    """
    try:
        from rasterio.crs import CRS
        from rasterio.errors import RasterioError
        from rasterio.warp import transform
    except ImportError as error:
        raise InputError(
            f"{path} and the cube name different coordinate systems, and comparing them needs the package rasterio; "
            "`pip install rasterio` adds it"
        ) from error
    try:
        from_, to = (CRS.from_user_input(crs_of(each)) for each in (one, other))
        found = [np.reshape(values, east.shape) for values in transform(from_, to, east.ravel(), north.ravel())[:2]]
    except (RasterioError, ValueError) as error:
        reason = str(error).splitlines()[0][:160]
        raise InputError(
            f"{path}: its coordinate system and the cube's cannot be compared ({reason}); bring it to the cube's grid, "
            "for example by gdalwarp"
        ) from error
    known = np.isfinite(found[0]) & np.isfinite(found[1])
    return np.where(known, found[0], np.nan), np.where(known, found[1], np.nan)


def _rotation(info):
    for word in info:
        if str(word).replace(" ", "").lower().startswith("rotation="):
            return float(word.split("=", 1)[1])
    return 0.0


def _projection(crs):
    """Give ENVI's name of a coordinate system, and the words that follow the pixel size."""
    from rasterio.crs import CRS  # an optional package, which has read the georeference

    code = CRS.from_user_input(crs).to_epsg()
    for datum, (north, south, degrees) in _DATUMS.items():
        if code == degrees:
            return _GEOGRAPHIC, [datum, "units=Degrees"]
        for base, side in ((north, "North"), (south, "South")):
            if code is not None and base is not None and 1 <= code - base <= 60:
                return "UTM", [str(code - base), side, datum, "units=Meters"]
    return "Arbitrary", []


def _as_esri(crs):
    from rasterio.crs import CRS

    return CRS.from_user_input(crs).to_wkt(version="WKT1_ESRI")
