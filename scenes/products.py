"""Products of imaging spectrometers in HDF5 and netCDF-4: what is where in the file, one record each.

A new product is a record here and a fixture in tests/scenes/test_products.py. The layouts are those of the products'
documentation; docs/data.md says which were tried on real files.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scenes.hdf5 import Part, Product, check_file, find, number, opened, plain_raster, raster_of, text, whole
from scenes.raster import Ortho, Raster
from utils import no_such_file

SUFFIXES = (".he5", ".h5", ".hdf5", ".nc")
log = logging.getLogger(__name__)


def open_product(path: Path, key: str | None = None, n_axes: tuple[int, ...] = (3, 2)) -> Raster:
    """Open a cube in HDF5 or netCDF-4: of a known product, else the data set `key`, else the only one of three axes.

    Raises:
        InputError: the file cannot be read, or holds no cube, or several.
    """
    if not path.is_file():
        raise no_such_file(path)
    with opened(path) as file:
        check_file(path, file)
        for product in PRODUCTS if key is None and n_axes[0] == 3 else ():
            found = [find(file, part.data) for part in product.parts]
            waves = [part.wavelengths for part in product.parts if not part.wavelengths.startswith("@")]
            if all(each is not None for each in (*found, *(find(file, name) for name in waves))):
                return raster_of(path, file, product, found)
        return plain_raster(path, file, key, n_axes)


def _prisma_scale(kind: str) -> Callable:
    """PRISMA's stored values run from a minimum to a maximum (L2), or have a factor and an offset (L1)."""

    def scale(data) -> tuple[float, float]:
        file = data.file
        low, high = (file.attrs.get(f"L2Scale{kind}{end}") for end in ("Min", "Max"))
        if low is not None and high is not None:
            return (number(high) - number(low)) / 65535, number(low)
        factor, offset = (file.attrs.get(f"{name}_{kind}") for name in ("ScaleFactor", "Offset"))
        return (1.0 if factor is None else 1 / number(factor), 0.0 if offset is None else -number(offset))

    return scale


def _prisma_place(data) -> dict | None:
    """Place a PRISMA L2D cube; whether its corners are centres or edges of pixels follows from their distance."""
    file, height, width = data.file, data.shape[0], data.shape[2]
    names = ("Epsg_Code", *(f"Product_{c}corner_{side}" for c in ("UL", "LR") for side in ("easting", "northing")))
    if not all(name in file.attrs for name in names):
        return None
    code, west, north, east, south = (number(file.attrs[name]) for name in names)
    centres = abs(east - west - 30 * (width - 1)) < abs(east - west - 30 * width)
    x, y = ((east - west) / (width - centres), (north - south) / (height - centres))
    log.info("the corners of the product are taken for %s of pixels", "centres" if centres else "outer edges")
    return {"crs": f"EPSG:{int(code)}", "transform": (x, 0.0, west - centres * x / 2, 0.0, -y, north + centres * y / 2)}


def _prisma(level: str) -> Product:
    base = f"HDFEOS/SWATHS/PRS_{level}_HCO/Data Fields"
    parts = tuple(
        Part(f"{base}/{kind.upper()}_Cube", "ybx", f"@List_Cw_{kind}", scale=_prisma_scale(kind))
        for kind in ("Vnir", "Swir")
    )
    return Product(f"PRISMA {level}", parts, nodata=0, place=_prisma_place if level == "L2D" else None)


def _table(rows, columns, georeference) -> Ortho:
    """Make the table of an orthorectified grid from 1-based rows and columns, 0 = none (negative: interpolated)."""
    rows, columns = (np.abs(whole(each).astype(np.int64)) for each in (rows, columns))
    return Ortho(rows.astype(np.int32), columns.astype(np.int32), georeference)


def _geotransform(values) -> tuple[float, ...]:
    """Bring GDAL's six numbers into the order of `georeference.transform_of`."""
    c, a, b, f, d, e = (float(value) for value in np.asarray(values).ravel()[:6])
    return (a, b, c, d, e, f)


def _emit_ortho(data) -> Ortho | None:
    file = data.file
    if not {"location/glt_x", "location/glt_y"} <= {f"location/{name}" for name in file.get("location", ())}:
        return None
    place = None
    if "geotransform" in file.attrs:
        crs = text(file.attrs["spatial_ref"]) if "spatial_ref" in file.attrs else None
        place = {"crs": crs, "transform": _geotransform(file.attrs["geotransform"])}
    return _table(file["location/glt_y"], file["location/glt_x"], place)


def _aviris_ortho(data) -> Ortho | None:
    group = data.file.get("geolocation_lookup_table") or {}
    for rows, columns in (("glt_y", "glt_x"), ("line", "sample")):
        if rows in group and columns in group:
            return _table(group[rows], group[columns], _aviris_place(data))
    return None


def _aviris_place(data) -> dict | None:
    file = data.file
    for name in ("transverse_mercator", "crs", "projection"):
        attributes = file[name].attrs if name in file else {}
        if "GeoTransform" in attributes:
            words = attributes["GeoTransform"]
            numbers = text(words).split() if not isinstance(words, np.ndarray) or words.size == 1 else words
            crs = next((text(attributes[key]) for key in ("spatial_ref", "crs_wkt") if key in attributes), None)
            return {"crs": crs, "transform": _geotransform(numbers)}
    return None


def _aviris_place_unless_table(data) -> dict | None:
    return None if _aviris_ortho(data) is not None else _aviris_place(data)


def _neon_scale(data) -> tuple[float, float]:
    return (1 / number(data.attrs["Scale_Factor"]) if "Scale_Factor" in data.attrs else 1.0), 0.0


def _neon_place(data) -> dict | None:
    file = data.file
    name = f"{data.name.split('/')[1]}/Reflectance/Metadata/Coordinate_System/Map_Info"
    return {"map info": [word.strip() for word in text(file[name][()]).split(",")]} if name in file else None


PRODUCTS = (
    _prisma("L2D"),
    _prisma("L1"),
    Product(
        "EMIT L2A",
        (Part("reflectance", "yxb", "sensor_band_parameters/wavelengths", "sensor_band_parameters/good_wavelengths"),),
        ortho=_emit_ortho,
    ),
    Product(
        "AVIRIS-3",
        (Part("reflectance/reflectance", "byx", "reflectance/wavelength"),),
        place=_aviris_place_unless_table,
        ortho=_aviris_ortho,
    ),
    Product(
        "NEON",
        (
            Part(
                "*/Reflectance/Reflectance_Data",
                "yxb",
                "*/Reflectance/Metadata/Spectral_Data/Wavelength",
                scale=_neon_scale,
            ),
        ),
        place=_neon_place,
    ),
)
