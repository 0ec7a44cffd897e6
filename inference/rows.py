"""Read a scene's rows, normalised as a network needs them, and record which pixels have data."""

import numpy as np
import torch

from context import GaussianContext
from inference.bands import Bands
from preprocessing import Preprocessing
from scenes.raster import Raster, fill_gaps, holds, one_value
from utils import InputError

DATA, NO_DATA, BROKEN, PARTLY, FLAT = 1, 2, 3, 4, 5


class RowReader:
    """Read normalised rows for `map_blocks`, 0 in pixels without data, and keep a record of those pixels.

    Args:
        raster: the scene.
        bands: makes the network's bands of its bands.
        preprocessing: the network's.
        known: (H, W) uint8, set as rows are read: NO_DATA if every band that the network takes is the raster's no-data
            value, or not finite; BROKEN if some are not finite, or what preprocessing makes of them; PARTLY if some
            have the no-data value, where the bands beside them are interpolated, unless it is 0; FLAT if all have one
            value and the raster has no no-data value; else DATA.
        context: of the network's probabilities, or None.
        features: the context's features, (H, W, n_features) float32, set as rows are read.
    """

    def __init__(
        self,
        raster: Raster,
        bands: Bands,
        preprocessing: Preprocessing,
        known: np.ndarray,
        context: GaussianContext | None = None,
        features: np.ndarray | None = None,
    ):
        self.raster, self.bands, self.preprocessing, self.known = raster, bands, preprocessing, known
        self.context, self.features = context, features

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Read the rows start to stop; (stop - start, W, n_bands) float32."""
        raw, nodata = self.raster.rows(start, stop), self.raster.nodata
        marked = np.zeros(raw.shape[:2], bool)  # wholly, or in part
        partly = marked.copy()
        if nodata is not None:
            raw, marked, partly = self._filled(raw, nodata)
        values = self.bands(raw)
        out = self.preprocessing(values)
        some = np.isfinite(values).any(-1)
        known = np.where(np.isfinite(out).all(-1), DATA, np.where(some, BROKEN, NO_DATA))
        known[partly & (known == DATA)] = PARTLY
        known[marked] = NO_DATA
        if nodata is None:
            known[one_value(values) & (known == DATA)] = FLAT
        out[~with_data(known)] = 0
        self.known[start:stop] = known
        if self.context is not None and self.features is not None:
            self.features[start:stop] = self.context.features(torch.from_numpy(out)).numpy()
        return out

    def _filled(self, raw: np.ndarray, nodata: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fill gaps in spectra; the rows, and which pixels hold the no-data value in all and in some used bands."""
        used = self.bands.used(raw.shape[2])
        gaps = np.asarray(holds(raw[..., used], nodata))
        wholly = np.asarray(gaps.all(-1))
        partly = np.asarray(gaps.any(-1)) & ~wholly
        if nodata != 0 and partly.any():
            raw, taken = raw.astype(np.float32), raw[partly][:, used]
            pixels = np.argwhere(partly)
            raw[pixels[:, :1], pixels[:, 1:], used] = fill_gaps(taken, gaps[partly])
        return raw, wholly, partly

    def without_data(self, row: int) -> np.ndarray:
        """Give the pixels of a row that have no data, (W,) bool; the row is read if it has not been."""
        if not self.known[row].all():
            self(row, row + 1)
        return ~with_data(self.known[row])

    def count(self) -> dict[str, int]:
        """Count the pixels that are 0 in the map for lack of data, those of them that lack only some bands, and others.

        Raises:
            InputError: no pixel has data, so that there is nothing to map.
        """
        absent = sum(int(self.without_data(row).sum()) for row in range(len(self.known)))
        broken, partly, flat = (int((self.known == kind).sum()) for kind in (BROKEN, PARTLY, FLAT))
        if absent == self.known.size:
            why = f"{broken:,} of its pixels have bands that are NaN or infinite" if broken else "all are marked so"
            raise InputError(f"{self.raster.path}: no pixel has data in all bands that the network takes; {why}")
        return {
            "pixels_without_data": absent,
            "of_them_some_bands_not_finite": broken,
            "pixels_with_data_in_some_bands_only": partly,
            "pixels_of_one_value_in_all_bands": flat,
        }


def with_data(known: np.ndarray) -> np.ndarray:
    """Give the pixels that are mapped, of the values of `RowReader.known`."""
    return (known == DATA) | (known == PARTLY) | (known == FLAT)
