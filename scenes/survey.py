"""Statistics of an image, gathered a few rows at a time."""

import math
from dataclasses import dataclass

import numpy as np

from scenes.raster import Raster, as_stored

_BLOCK = 1 << 24  # bytes read at a time
_MOST_LABELS = 256


@dataclass(frozen=True)
class Values:
    """Statistics of an image's values, gathered block by block.

    Attributes:
        low, high: least and greatest finite value of each band, without the no-data value, (n_bands,); NaN if a band
            has none.
        n_nan, n_infinite, n_nodata: number of such values.
        counts: pixels by value if the image can be a label map (one band of whole numbers from 0 on); else None.
    """

    low: np.ndarray
    high: np.ndarray
    n_nan: int
    n_infinite: int
    n_nodata: int
    counts: dict[int, int] | None


def survey(raster: Raster) -> Values:
    """Read an image once, a few rows at a time, and gather its statistics."""
    height, width, n_bands = raster.shape
    low, high = np.full(n_bands, np.inf), np.full(n_bands, -np.inf)
    n_nan = n_infinite = n_nodata = 0
    marked = raster.nodata is not None and not math.isnan(raster.nodata)
    counts = {} if n_bands == 1 else None
    step = max(1, _BLOCK // (width * n_bands * raster.dtype.itemsize))
    for start in range(0, height, step):
        block = raster.rows(start, min(start + step, height))
        if raster.dtype.kind == "f":
            n_nan += int(np.isnan(block).sum())
            n_infinite += int(np.isinf(block).sum())
        if raster.dtype.kind == "f" or marked:
            used = np.isfinite(block)
            if marked and raster.nodata is not None:
                nodata = block == as_stored(raster.nodata, raster.dtype)
                n_nodata, used = n_nodata + int(nodata.sum()), used & ~nodata
            lows, highs = np.where(used, block, np.inf), np.where(used, block, -np.inf)
        else:
            lows = highs = block
        low, high = np.minimum(low, lows.min((0, 1))), np.maximum(high, highs.max((0, 1)))
        if counts is not None:
            counts = _count(counts, block)
    none = low > high
    return Values(np.where(none, np.nan, low), np.where(none, np.nan, high), n_nan, n_infinite, n_nodata, counts)


def _count(counts: dict[int, int], block: np.ndarray) -> dict[int, int] | None:
    """Add a block to the pixels by value; None if the image is no label map."""
    values, numbers = np.unique(block, return_counts=True)
    if len(values) > _MOST_LABELS or not np.isfinite(values).all() or (values != np.round(values)).any():
        return None
    for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
        counts[int(value)] = counts.get(int(value), 0) + number
    return counts if len(counts) <= _MOST_LABELS and max(counts) < 2**16 else None
