"""Statistics of an image, gathered a few rows at a time."""

import math
from dataclasses import dataclass

import numpy as np

from scenes.raster import Raster, holds

_BLOCK = 1 << 24  # bytes read at a time
_MOST_LABELS = 256
NOISIER = 3.0  # than the neighbouring bands' noise


@dataclass(frozen=True)
class Values:
    """Statistics of an image's values, gathered block by block.

    Attributes:
        low, high: least and greatest finite value of each band, without the no-data value, (n_bands,); NaN if a band
            has none.
        n_nan, n_infinite, n_nodata: number of such values.
        counts: pixels by value if the image can be a label map (one band of whole numbers); else None.
        broken: bands in which some values are NaN or infinite, but not all, of pixels with other values.
        noise: standard deviation of the difference between neighbouring pixels of a row, as a fraction of that of all
            values times the square root of 2: 1 for white noise, (n_bands,); NaN if it is not known.
    """

    low: np.ndarray
    high: np.ndarray
    n_nan: int
    n_infinite: int
    n_nodata: int
    counts: dict[int, int] | None
    broken: list[int]
    noise: np.ndarray

    def noisy(self) -> list[int]:
        """Give the bands that are far noisier than their neighbours, or hold noise alone."""
        usual = [np.nanmedian(self.noise[max(0, band - 5) : band + 6]) for band in range(len(self.noise))]
        with np.errstate(invalid="ignore"):
            return np.flatnonzero((self.noise > 0.5) & (self.noise > NOISIER * np.array(usual))).tolist()


def survey(raster: Raster, *, noise: bool = False) -> Values:
    """Read an image once, a few rows at a time, and gather its statistics; with `noise` that of each band too."""
    height, width, n_bands = raster.shape
    low, high = np.full(n_bands, np.inf), np.full(n_bands, -np.inf)
    n_nan = n_infinite = n_nodata = 0
    marked = raster.nodata is not None and not math.isnan(raster.nodata)
    counts = {} if n_bands == 1 else None
    gaps, n_pairs, n_values = (np.zeros(n_bands, np.int64) for _ in range(3))  # not finite in part; pairs; values
    total, squares, steps = np.zeros(n_bands), np.zeros(n_bands), np.zeros(n_bands)
    at_once = _BLOCK // 16 if noise else _BLOCK  # the noise takes several copies in float64
    step = max(1, at_once // (width * n_bands * raster.dtype.itemsize))
    for start in range(0, height, step):
        block = raster.rows(start, min(start + step, height))
        if raster.dtype.kind == "f":
            n_nan += int(np.isnan(block).sum())
            n_infinite += int(np.isinf(block).sum())
        if raster.dtype.kind == "f" or marked:
            used = np.isfinite(block)
            if marked and raster.nodata is not None:
                nodata = holds(block, raster.nodata)
                n_nodata, used = n_nodata + int(nodata.sum()), used & ~nodata
            lows, highs = np.where(used, block, np.inf), np.where(used, block, -np.inf)
            gaps += (~np.isfinite(block) & np.isfinite(block).any(2, keepdims=True)).sum((0, 1))
        else:
            lows = highs = block
            used = np.ones(block.shape, bool)
        if noise and n_bands > 1:
            values = np.where(used, block, 0).astype(np.float64)
            total, squares, n_values = (
                total + values.sum((0, 1)),
                squares + (values**2).sum((0, 1)),
                n_values + used.sum((0, 1)),
            )
            pairs = used[:, 1:] & used[:, :-1]
            steps += (np.where(pairs, values[:, 1:] - values[:, :-1], 0) ** 2).sum((0, 1))
            n_pairs += pairs.sum((0, 1))
        low, high = np.minimum(low, lows.min((0, 1))), np.maximum(high, highs.max((0, 1)))
        if counts is not None:
            counts = _count(counts, block)
    none = low > high
    broken = np.flatnonzero((gaps > 0) & ~none).tolist()
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = squares / n_values - (total / n_values) ** 2
        ratio = np.sqrt(steps / n_pairs / (2 * variance))
    low, high = np.where(none, np.nan, low), np.where(none, np.nan, high)
    return Values(low, high, n_nan, n_infinite, n_nodata, counts, broken, np.where(low == high, np.nan, ratio))


def _count(counts: dict[int, int], block: np.ndarray) -> dict[int, int] | None:
    """Add a block to the pixels by value; None if the image is no label map."""
    values, numbers = np.unique(block, return_counts=True)
    if len(values) > _MOST_LABELS or not np.isfinite(values).all() or (values != np.round(values)).any():
        return None
    for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
        counts[int(value)] = counts.get(int(value), 0) + number
    return counts if len(counts) <= _MOST_LABELS and max(counts) < 2**16 else None
