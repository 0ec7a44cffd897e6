"""An image on disk, of which only the rows that are asked for are read."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_BLOCK = 1 << 24  # bytes written at a time
_HUGE = 1e30


@dataclass(frozen=True)
class Ortho:
    """Where the pixels of a map's grid are in a raster that is as the sensor saw it.

    Attributes:
        rows, columns: of the raster, from 1 on, for each pixel of the grid, (H, W) int32; 0 where it has none.
        georeference: of the grid, as in `Raster`.
    """

    rows: np.ndarray = field(repr=False)
    columns: np.ndarray = field(repr=False)
    georeference: dict | None

    def __call__(self, image: np.ndarray, empty: float = 0) -> np.ndarray:
        """Bring an image of the raster, (h, w, ...), to the grid, (H, W, ...); `empty` where it has no pixel."""
        known = (self.rows > 0) & (self.columns > 0)
        known &= (self.rows <= image.shape[0]) & (self.columns <= image.shape[1])
        placed = np.full((*self.rows.shape, *image.shape[2:]), empty, image.dtype)
        placed[known] = image[self.rows[known] - 1, self.columns[known] - 1]
        return placed


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
        scale, offset: per band what a stored value is multiplied by, and what is added then; None for 1 and 0.
        palette: of a classification that has colours, "#rrggbb" for each class name; else None.
        product: name of the instrument's product, if it is one that is known.
        ortho: places the map of a raster that is as the sensor saw it; None if it is in place.
        bad_bands: indices of the bands that the file marks as bad.
        files: all files that it is read from, if they are more than `path`.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    wavelengths: tuple[float, ...] | None = None
    nodata: float | None = None
    georeference: dict | None = None
    class_names: tuple[str, ...] | None = None
    key: str | None = None
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None
    palette: tuple[str, ...] | None = None
    bad_bands: tuple[int, ...] = ()
    files: tuple[Path, ...] = ()
    product: str | None = None
    ortho: Ortho | None = field(default=None, compare=False)
    _read: Callable[[int, int], np.ndarray] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, array: np.ndarray, path: Path, key: str | None = None) -> "Raster":
        """Make a raster of an array of two or three axes."""
        cube = array if array.ndim == 3 else array[:, :, None]
        return cls(path, cube.shape, cube.dtype.newbyteorder("="), key=key, _read=lambda start, stop: cube[start:stop])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Read rows, scaled as the file says; a no-data value stays as it is.

        Args:
            start, stop: first row, and the one after the last.
        Returns:
            (stop - start, W, n_bands) of `dtype`, float32 if the file has a scale or an offset.
        Raises:
            InputError: the file is damaged.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} of {self.shape[0]}")
        assert self._read is not None
        stored = self._read(start, stop)
        if not self.scaled:
            return np.array(stored, self.dtype, order="C")
        marked, values = None if self.nodata is None else holds(stored, self.nodata), stored
        values = np.array(stored, np.float64, order="C")
        values *= 1.0 if self.scale is None else np.asarray(self.scale)
        values += 0.0 if self.offset is None else np.asarray(self.offset)
        if marked is not None:
            values[marked] = self.nodata
        return values.astype(self.dtype)

    def whole(self) -> np.ndarray:
        """Give all values as they are stored, (H, W, n_bands); those of an array are not read before they are used."""
        assert self._read is not None
        return self._read(0, self.shape[0])

    @property
    def scaled(self) -> bool:
        """Whether the file has a scale or an offset, so that its values are not those that are stored."""
        return self.scale is not None or self.offset is not None


def holds(values: np.ndarray, nodata: float) -> np.ndarray:
    """Tell which values are a no-data value, as floating-point numbers of their type hold it.

    Files write those of more than 1e30, such as the least of all float32, with a few digits: these are compared to
    1 part in 1,000.
    """
    if values.dtype.kind != "f":
        return values == nodata
    if abs(nodata) > _HUGE:
        return np.abs(values / nodata - 1) < 1e-3
    return values == values.dtype.type(nodata)


def one_value(cube: np.ndarray) -> np.ndarray:
    """Tell which pixels of a cube, (..., n_bands), have one value in all of their bands, if there are several."""
    if cube.shape[-1] == 1:
        return np.zeros(cube.shape[:-1], bool)
    return (cube == cube[..., :1]).all(-1)


def fill_gaps(spectra: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Interpolate spectra where they have no data, linearly between the bands beside the gap.

    Args:
        spectra: (n, n_bands).
        gaps: (n, n_bands) bool, some but not all of each row.
    Returns:
        (n, n_bands) float32; beyond the first or last band with data its value is repeated.
    """
    filled, bands = spectra.astype(np.float32), np.arange(spectra.shape[1])
    for spectrum, gap in zip(filled, gaps, strict=True):
        spectrum[gap] = np.interp(bands[gap], bands[~gap], spectrum[~gap])
    return filled


def beside(path: Path) -> Path:
    """Name the file that is written first and then takes the place of another; with its suffix, as rasterio needs."""
    return path.with_name(f".{os.getpid()}.{path.name}")


def blocks(array: np.ndarray) -> list[tuple[int, int]]:
    """Give first and last row, exclusive, of blocks that are small enough to be held twice."""
    step = max(1, _BLOCK // max(1, array[:1].nbytes))
    return [(start, min(start + step, len(array))) for start in range(0, len(array), step)]
