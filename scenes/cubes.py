"""Read a scene's cube: any format, turned to (rows, columns, bands), without bands that hold no information."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scenes.bands import choose_bands
from scenes.georeference import pixel_size_of
from scenes.matfiles import choose_array
from scenes.raster import Raster, fill_gaps, holds, one_value
from scenes.rasters import read_file, says_no_axes
from scenes.spec import SceneSpec, choose_rgb, note
from scenes.survey import survey
from utils import InputError

AXES = ("rows", "columns", "bands")


@dataclass(frozen=True)
class Cube:
    """A cube as read.

    Attributes:
        values: (H, W, n_bands) float32.
        valid: which pixels have data, (H, W) bool; None if all have.
        raster: its file, if the format knows more than arrays.
        bands: the file's bands that are used, in this order, (n_bands,) from 0.
        n_in_file: bands of the file.
        nodata: the value of pixels without data, or None.
    """

    values: np.ndarray
    valid: np.ndarray | None
    raster: Raster | None
    bands: np.ndarray
    n_in_file: int
    nodata: float | None = None


def read_cube(path: Path, spec: SceneSpec, plane: tuple | None, notes: list[str] | None = None) -> Cube:
    """Read a scene's cube.

    Bands that the file marks as bad, that hold no data or one value everywhere, or that `drop_bands` names are left
    out, and bands of which the wavelengths are known are put in their order. A pixel whose bands all hold the no-data
    value (or are NaN) is empty. It gets the spectrum of the nearest pixel with data, as if the scene were mirrored
    there, so that no meaningless value enters a patch. Normalisation and PCA are fitted without these pixels. If some
    bands of a pixel hold the no-data value, the bands beside them are interpolated there, unless that value is 0.

    Args:
        path: its file.
        spec: the scene; its shape, if it is known, decides the order of the axes.
        plane: (H, W) of the ground truth, which decides if the shape is not known; or None.
        notes: list to which a sentence on each correction is appended; it is logged as well.
    Raises:
        InputError: the file cannot be read, axes or bands do not fit, or pixels that have data hold NaN.
    """
    arrays, raster = read_file(path, spec.cube_key)
    cube = choose_array(arrays, spec.cube_key if raster is None else None, path, "the cube", (3,))
    cube = cube[:, :, None] if raster is not None and cube.ndim == 2 else cube
    if raster is None or says_no_axes(raster):
        cube = _turn(cube, path, spec, plane, notes)
    if spec.shape is not None:
        if spec.n_dropped and cube.ndim == 3 and cube.shape[2] == spec.shape[2] + spec.n_dropped:
            cube = cube[:, :, : spec.shape[2]]
            note(notes, f"{path.name}: the last {spec.n_dropped} bands are left out")
        if cube.shape != spec.shape:
            raise InputError(
                f"{path}: the cube is {cube.shape}, but {spec.name} is {spec.shape} (rows, columns, bands)"
            )
    nodata = spec.nodata if spec.nodata is not None else raster.nodata if raster else None
    n_in_file, wavelengths = cube.shape[2], wavelengths_of(spec, raster, cube.shape[2])
    bands, said = choose_bands(
        survey(replace(Raster.of(cube, path), nodata=nodata)),
        wavelengths,
        bad=raster.bad_bands if raster else (),
        drop=spec.drop_bands,
        overlap=spec.overlap,
        where=path.name,
    )
    for sentence in said:
        note(notes, sentence)
    cube = cube if len(bands) == n_in_file and not said else cube[:, :, bands]
    cube, valid = _fill(cube, nodata, path, notes)
    bad = ~np.isfinite(cube)
    if bad.any():
        row, column, band = np.argwhere(bad)[0]
        raise InputError(
            f"{path}: {int(bad.sum())} values are NaN or infinite, the first at row {row}, column {column}, "
            f"band {bands[band]} (from 0); replace them, or leave the band out (drop_bands)"
        )
    return Cube(cube, valid, None if raster is None or says_no_axes(raster) else raster, bands, n_in_file, nodata)


def wavelengths_of(spec: SceneSpec, raster: Raster | None, n_bands: int) -> tuple[float, ...] | None:
    """Give the wavelengths of a file's bands, those of the scene's description first; InputError if they do not fit."""
    wavelengths = spec.wavelengths or (raster.wavelengths if raster else None)
    if wavelengths is not None and len(wavelengths) != n_bands:
        raise InputError(f"{spec.described}: {len(wavelengths)} wavelengths, but the cube has {n_bands} bands")
    return wavelengths


def complete(
    spec: SceneSpec, shape: tuple[int, int, int], raster: Raster | None, bands: np.ndarray | None = None
) -> SceneSpec:
    """Complete the facts of a scene from its cube: shape, wavelengths, bands of the picture, pixel size.

    Args:
        spec: the scene.
        shape: of the file, (H, W, n_bands).
        raster: of the file, if it has one.
        bands: the bands of the file that are used, in this order; None for all.
    """
    bands = np.arange(shape[2]) if bands is None else bands
    if spec.described is None and len(bands) == shape[2] and (bands == np.arange(shape[2])).all():
        return spec
    wavelengths = wavelengths_of(spec, raster, shape[2])
    wavelengths = None if wavelengths is None else tuple(np.asarray(wavelengths)[bands].tolist())
    if spec.rgb_bands is None:
        rgb_bands = choose_rgb(len(bands), wavelengths)
    elif max(spec.rgb_bands) >= shape[2]:
        raise InputError(f"{spec.described}: 'rgb_bands' counts from 0, and the cube has {shape[2]} bands")
    else:  # they count the file's bands; in place of one that is left out comes its neighbour
        rgb_bands = tuple(int(np.abs(bands - band).argmin()) for band in spec.rgb_bands)
    pixel_size = spec.pixel_size or pixel_size_of(raster.georeference if raster else None)
    shape = (*shape[:2], len(bands))
    return replace(spec, shape=shape, wavelengths=wavelengths, rgb_bands=rgb_bands, pixel_size=pixel_size)


def find_orders(shape: tuple[int, int, int], wanted: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Find the orders of axes in which `shape` begins as `wanted` (rows, columns, perhaps bands), the present first."""
    orders = itertools.permutations(range(3), 3)
    return [order for order in orders if tuple(shape[axis] for axis in order)[: len(wanted)] == tuple(wanted)]


def _turn(cube: np.ndarray, path: Path, spec: SceneSpec, plane: tuple | None, notes: list | None) -> np.ndarray:
    """Bring the axes to rows, columns, bands if the known shape leaves only one way to do so."""
    wanted = spec.shape or plane
    if cube.ndim == 2 and spec.described is not None:
        raise InputError(f"{path}: the cube has two axes, {cube.shape}; is this the label map?")
    if cube.ndim != 3 or wanted is None or cube.shape[: len(wanted)] == wanted:
        return cube
    orders = find_orders(cube.shape, wanted)
    stored = [", ".join(AXES[order.index(axis)] for axis in range(3)) for order in orders]
    if len(orders) > 1:
        raise InputError(
            f"{path}: the cube is {cube.shape} and {spec.name} {wanted}; its axes could be "
            f"({') or ('.join(stored)}); save it as (rows, columns, bands)"
        )
    if not orders:
        return cube
    note(notes, f"{path.name}: its axes are {stored[0]} {cube.shape} and were turned to rows, columns, bands")
    return cube.transpose(orders[0])


def _fill(
    cube: np.ndarray, nodata: float | None, path: Path, notes: list | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert to float32 and fill what has no data, see `read_cube`; the cube, and which pixels have data."""
    n_partly, empty, gaps = 0, np.zeros(cube.shape[:2], bool), None
    if cube.dtype.kind == "f":
        empty = np.isnan(cube[..., 0])
        empty[empty] = np.isnan(cube[empty]).all(axis=1)
    if nodata is not None and not np.isnan(nodata):
        marked = holds(cube, nodata)
        wholly = marked.all(axis=2)
        partly = marked.any(axis=2) & ~wholly
        empty, n_partly = empty | wholly, int(partly.sum())
        gaps = (partly, marked[partly]) if nodata != 0 else None
    integer = cube.dtype.kind in "iu"
    low, high = (np.iinfo(cube.dtype).min, np.iinfo(cube.dtype).max) if integer else (0, 0)
    cube = np.array(cube, np.float32, order="C")
    if n_partly:
        how = "it is kept there" if gaps is None else "the bands beside them are interpolated there"
        note(notes, f"{path.name}: {n_partly} pixels hold the no-data value {nodata:g} in some bands only; {how}")
    if gaps is not None and n_partly:
        cube[gaps[0]] = fill_gaps(cube[gaps[0]], gaps[1])
    flat = one_value(cube) if nodata is None else np.zeros(cube.shape[:2], bool)
    if flat.any():
        shown = f"{int(flat.sum())} pixels are {cube[flat][0, 0]:g}"
        what = "`nodata` in a scene.toml says that they have none"
        note(notes, f"{path.name}: {shown}, or another value, in all bands, and count as data; {what}")
    elif nodata is not None and integer and not (nodata == int(nodata) and low <= nodata <= high):
        note(notes, f"{path.name}: its values cannot be the no-data value {nodata:g}, so that all pixels have data")
    if empty.all():
        raise InputError(f"{path}: no pixel has data (no-data value {nodata}); is the value right?")
    if not empty.any():
        return cube, None
    from scipy.ndimage import distance_transform_edt  # here, because most scenes have data everywhere

    nearest = np.asarray(distance_transform_edt(empty, return_distances=False, return_indices=True))
    cube[empty] = cube[tuple(nearest[:, empty])]
    note(notes, f"{path.name}: {int(empty.sum())} pixels have no data; they count as unlabelled")
    return cube, ~empty
