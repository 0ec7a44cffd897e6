"""Open a raster of any format, without reading its values if the format allows it; write label maps and bands."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from limits import Budget, Stored, regular_file
from scenes.envi import data_files, data_type_code, find_pair, read_header, write_header
from scenes.georeference import map_info_of
from scenes.geotiff import GEOTIFF, write_geotiff
from scenes.matfiles import choose_array, open_arrays
from scenes.products import SUFFIXES as PRODUCTS
from scenes.products import open_product
from scenes.raster import Raster, beside, blocks
from scenes.sidecars import ERDAS, open_erdas, open_tiff
from utils import InputError

ARRAYS, PICTURES = (".npy", ".npz", ".mat"), (".png",)
FORMATS = "ENVI (.hdr), GeoTIFF (.tif, .tiff), HDF5 and netCDF-4 (.h5, .he5, .nc), .npy, .npz, .mat, .png, .lan, .gis"


def open_raster(path: Path, key: str | None = None) -> Raster:
    """Open an image, without reading its values if the format allows it.

    Args:
        path: a file whose suffix says what it is; an ENVI header or the data file beside it.
        key: the variable of a .mat or .npz file, or the data set of an HDF5 file; without it the only array of three
            axes, else of two, is taken.
    Raises:
        InputError: an unknown suffix, a missing file or package, a damaged file, or sizes that do not fit.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if key is not None and suffix not in (*ARRAYS, *PRODUCTS):
        raise InputError(f"{path} has no variables, so that {key!r} cannot be one; leave the key out")
    if suffix in GEOTIFF:
        return open_tiff(path)
    if suffix in PRODUCTS:
        return open_product(path, key)
    if suffix in ERDAS:
        return open_erdas(path)
    if suffix in ARRAYS:
        return _open_array(path, key)
    if suffix in PICTURES:
        return _open_picture(path)
    if suffix == ".hdr" and (tiff := _tiff_of(path)) is not None:
        return open_tiff(tiff)
    header = find_pair(path)
    if header is None:
        raise InputError(f"{path}: this is none of the formats that are read: {FORMATS}")
    return _open_envi(*header)


def says_no_axes(raster: Raster) -> bool:
    """Whether a raster's file holds arrays alone, whose bands may be on any axis."""
    suffix = raster.path.suffix.lower()
    return suffix in ARRAYS or (suffix in PRODUCTS and raster.product is None)


def _tiff_of(header: Path) -> Path | None:
    """Find the GeoTIFF that a header describes if there is no other data file of its stem."""
    if not header.is_file():
        return None
    beside_it = [each for each in header.parent.iterdir() if each.stem == header.stem]
    tiffs = [each for each in beside_it if each.suffix.lower() in GEOTIFF]
    return tiffs[0] if len(tiffs) == 1 and not data_files(header) else None


def _open_envi(header: Path, data: Path) -> Raster:
    facts = read_header(header)
    height, width, n_bands = shape = facts.shape
    size, wanted = data.stat().st_size, facts.start + math.prod(shape) * facts.dtype.itemsize
    if size != wanted:
        how = "cut off" if size < wanted else "longer"
        raise InputError(
            f"{data} is {how}: it has {size} bytes where {header.name} ({height} lines, {width} samples, {n_bands} "
            f"bands, {facts.dtype}, offset {facts.start}) requires {wanted}; copy it again or correct the header"
        )
    axes = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[facts.interleave]
    stored = tuple(shape[axis] for axis in axes)

    def read(start, stop):  # mapped anew each time, so that memory of rows read before is freed
        return np.memmap(data, facts.dtype, "r", facts.start, stored).transpose(np.argsort(axes))[start:stop]

    scaled = facts.scale is not None or facts.offset is not None
    return Raster(
        header,
        shape,
        np.dtype("f4") if scaled else facts.dtype.newbyteorder("="),
        facts.wavelengths,
        facts.nodata,
        facts.georeference,
        facts.class_names,
        scale=facts.scale,
        offset=facts.offset,
        palette=facts.palette,
        bad_bands=facts.bad_bands,
        files=(header, data),
        _read=read,
    )


def _open_array(path: Path, key: str | None) -> Raster:
    array = choose_array(open_arrays(path), key, path, "an image of two or three axes")
    if array.ndim not in (2, 3) or not array.size:
        raise InputError(f"{path} holds no image of two or three axes; the array is {array.shape}")
    return Raster.of(array, path, key)


def _open_picture(path: Path) -> Raster:
    """Open a PNG: the numbers of a grey or palette picture, with the palette's colours, or its three colours."""
    from PIL import Image  # here, because most scenes do without it

    budget = Budget(regular_file(path))
    try:
        with Image.open(path) as picture:
            budget.take(4 * picture.width * picture.height)
            mode, table = picture.mode, picture.getpalette()
            numbers = mode in ("L", "P", "I", "I;16", "1", "LA")
            array = np.asarray(
                picture.getchannel(0) if mode == "LA" else picture if numbers else picture.convert("RGB")
            )
            clear = picture.has_transparency_data and np.asarray(picture.convert("RGBA"))[..., 3] == 0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable PNG ({error}); fetch or copy it again") from error
    array = array.astype(np.uint8) if array.dtype == bool else array
    nodata = None
    if np.any(clear) and numbers:
        array, nodata = np.where(clear, -1, array.astype(np.int64)), -1
    elif np.any(clear):
        array = np.where(clear[..., None], np.uint8(0), array)  # black, which is unlabelled
    raster = replace(Raster.of(array, path), nodata=nodata)
    if mode != "P" or table is None or array.max() == 0:
        return raster
    colours = [table[3 * value : 3 * value + 3] for value in range(1, int(array.max()) + 1)]
    palette = tuple(f"#{bytes(colour).hex()}" for colour in colours if len(colour) == 3)
    return replace(raster, palette=palette if len(palette) == len(colours) else None)


def read_file(
    path: Path, key: str | None = None, n_axes: tuple[int, ...] = (3, 2)
) -> tuple[dict[str, Stored], Raster | None]:
    """Open the images in a file of any format.

    Args:
        path: the file.
        key: the data set of an HDF5 file; that of a file of arrays is chosen among what is returned.
        n_axes: axes of the only data set that is taken without a key, those that are wanted first.
    Returns:
        Arrays by name, whose values are read when they are asked for, (H, W) if an image has one band; and its raster
        if the format knows more than arrays.
    Raises:
        InputError: see `open_raster` and `matfiles.open_arrays`.
    """
    if path.suffix.lower() in ARRAYS:
        return open_arrays(path), None
    raster = open_product(path, key, n_axes) if path.suffix.lower() in PRODUCTS else open_raster(path)
    height, _, n_bands = raster.shape
    shape = raster.shape[:2] if n_bands == 1 else raster.shape
    budget = Budget(raster.path, by_size=False)  # compared when it was opened
    return {path.stem: Stored(shape, raster.dtype, budget, lambda: raster.rows(0, height).reshape(shape))}, raster


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
        extra["data ignore value"] = 0
        extra["class lookup"] = [value for colour in colours for value in colour]
        _write_envi(path, labels[:, :, None], like, extra)
    else:
        tags = {f"class_{i}": name for i, name in enumerate(names)}
        write_geotiff(path, labels[:, :, None], like, tags, colours=dict(enumerate(colours)), nodata=0)


def write_bands(
    path: Path, array: np.ndarray, names, like: Raster | None = None, *, nodata: float | None = None
) -> None:
    """Write images of numbers, such as probabilities, as ENVI (.hdr with .img) or GeoTIFF.

    Args:
        path: .hdr or .tif; an earlier file is replaced once the new one is whole.
        array: (H, W, n) float32, uint8 or uint16.
        names: n names of its bands.
        like: the mapped raster, whose georeference the file gets.
        nodata: the value of pixels without data, which the file then names.
    Raises:
        InputError: another suffix, or rasterio is needed but not installed.
    """
    if path.suffix.lower() == ".hdr":
        extra = {} if nodata is None else {"data ignore value": nodata}
        _write_envi(path, array, like, {"band names": names} | extra)
    else:
        write_geotiff(path, array, like, {}, names=names, nodata=nodata)


def _write_envi(path: Path, array: np.ndarray, like: Raster | None, extra: dict) -> None:
    (height, width, n_bands), place = array.shape, map_info_of(like.georeference if like else None)
    facts = {"samples": width, "lines": height, "bands": n_bands, "header offset": 0}
    facts |= {"data type": data_type_code(array.dtype), "interleave": "bip", "byte order": 0} | place | extra
    data, ready_data, ready = path.with_suffix(".img"), beside(path.with_suffix(".img")), beside(path)
    try:
        with ready_data.open("wb") as file:
            for start, stop in blocks(array):
                block = array[start:stop]
                file.write(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data)
        write_header(ready, facts)
        ready_data.replace(data)
        ready.replace(path)
    finally:
        ready_data.unlink(missing_ok=True)
        ready.unlink(missing_ok=True)
