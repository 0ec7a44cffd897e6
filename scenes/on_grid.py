"""Bring a label map to the grid of the cube, by map coordinates or by whole factors."""

from pathlib import Path

import numpy as np

from scenes.georeference import crs_of, in_system, same_system, transform_of
from scenes.raster import Raster
from scenes.spec import note
from utils import InputError

UNLABELLED = -(2**31)  # stands in a label map for pixels that its file marks as without data, or has nothing for
_NEAR = 0.5  # pixels that the corners of two grids may lie apart which count as the same


def to_grid(
    labels: np.ndarray,
    raster: Raster | None,
    like: Raster | None,
    shape: tuple[int, int],
    path: Path,
    notes: list[str] | None = None,
) -> np.ndarray:
    """Give each pixel of the cube the label that its centre lies on.

    Args:
        labels: (h, w).
        raster: the label map's file, with its place on the map; None if it has none.
        like: the cube's likewise.
        shape: (H, W) of the cube.
        path: the label map's file, for messages.
        notes: list to which a sentence on what was done is appended; it is logged as well.
    Returns:
        (H, W), `UNLABELLED` outside the label map; the labels as they are if neither map coordinates nor whole factors
        bring them to the grid.
    Raises:
        InputError: the two do not overlap on the map, or their coordinate systems cannot be compared.
    """
    places = [each.georeference if each and _is_placed(each.georeference) else None for each in (raster, like)]
    theirs, ours = map(transform_of, places)
    if theirs is None or ours is None:
        return _by_factors(labels, shape, path, notes)
    if labels.shape == shape and _is_same(places, theirs, ours, shape, path):
        return labels
    rows, columns = _rows_and_columns(places, theirs, ours, np.indices(shape) + 0.5, path)
    # A centre on the edge between two pixels goes to the one right of it or below, whatever the rounding.
    i, j = (np.floor(np.nan_to_num(each, nan=-1) + 1e-6).astype(np.int64) for each in (rows, columns))
    inside = (i >= 0) & (i < labels.shape[0]) & (j >= 0) & (j < labels.shape[1])
    if not inside.any():
        raise InputError(f"{path} and the cube do not overlap on the map; is it of the same place?")
    found = np.full(shape, UNLABELLED, np.result_type(labels.dtype, np.int64))
    found[inside] = labels[i[inside], j[inside]]
    covered = f"by map coordinates; it covers {inside.mean():.1%} of the cube"
    note(notes, f"{path.name}: {labels.shape} brought to the cube's grid {shape}, {covered}")
    return found


def _is_placed(georeference: dict | None) -> bool:
    """Whether a georeference places an image on a map; pixels of size 1 without a coordinate system do not."""
    transform = transform_of(georeference)
    if transform is None:
        return False
    a, b, _, d, e, _ = transform
    return crs_of(georeference) is not None or not (abs(a) == abs(e) == 1 and not b and not d)


def _is_same(places, theirs, ours, shape: tuple[int, int], path: Path) -> bool:
    """Whether the corners of two grids of a shape lie on each other."""
    corners = np.array([(0, 0), (0, shape[1]), (shape[0], 0), shape], dtype=float).T
    rows, columns = _rows_and_columns(places, theirs, ours, corners, path)
    return bool(np.nanmax(np.abs([rows - corners[0], columns - corners[1]])) < _NEAR)


def _rows_and_columns(places, theirs, ours, at: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Give rows and columns of the label map at those of the cube, counted from the upper left corner."""
    a, b, c, d, e, f = ours
    east, north = a * at[1] + b * at[0] + c, d * at[1] + e * at[0] + f
    if not same_system(*places):
        east, north = in_system(east, north, places[1], places[0], path)
    a, b, c, d, e, f = theirs
    east, north, area = east - c, north - f, a * e - b * d
    return (a * north - d * east) / area, (e * east - b * north) / area


def _by_factors(labels: np.ndarray, shape: tuple[int, int], path: Path, notes: list[str] | None) -> np.ndarray:
    """Take the label at the centre of each pixel of a cube whose pixels are a whole number of times larger."""
    factors = [labels.shape[axis] // shape[axis] for axis in (0, 1)]
    exact = all(labels.shape[axis] == factors[axis] * shape[axis] for axis in (0, 1))
    if labels.shape == shape or min(factors) < 1 or not exact:
        return labels
    finer = f"the nearest of {factors[0]} x {factors[1]}"
    note(notes, f"{path.name}: {labels.shape} brought to the cube's grid {shape}, {finer}")
    rows, columns = (((np.arange(shape[axis]) + 0.5) * factors[axis]).astype(int) for axis in (0, 1))
    return labels[np.ix_(rows, columns)]
