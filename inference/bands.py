"""A file's bands matched with those that a network was trained on."""

from dataclasses import dataclass

import numpy as np

from scenes.rasters import Raster
from utils import InputError


@dataclass(frozen=True)
class Bands:
    """How a file's bands become the network's: taken as they are, or interpolated between neighbours.

    Attributes:
        lower, weight: per band of the network, the file's band below it and the weight of the next one; None if the
            bands are taken as they are.
    """

    lower: np.ndarray | None = None
    weight: np.ndarray | None = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(..., n_bands of the file) to (..., n_bands of the network) float32."""
        values = values.astype(np.float32)
        if self.lower is None:
            return values
        below, above = values[..., self.lower], values[..., np.minimum(self.lower + 1, values.shape[-1] - 1)]
        return below + self.weight * (above - below)


def match_bands(raster: Raster, n_bands: int, wavelengths: tuple[float, ...] | None, *, resample: bool) -> Bands:
    """Check a file's bands against those that a network was trained on.

    Args:
        raster: the file.
        n_bands: bands of the network's training scene.
        wavelengths: theirs in nm, or None where not known.
        resample: interpolate linearly where they differ.
    Raises:
        InputError: another number of bands or other wavelengths, without `resample`; wavelengths that are not known on
            both sides, or do not reach as far as the network's, with it.
    """
    theirs = raster.wavelengths
    if resample:
        if wavelengths is None or theirs is None:
            who = raster.path if theirs is None else "the network's training scene"
            raise InputError(f"resampling needs wavelengths on both sides, and {who} has none; leave it out")
        order = np.argsort(theirs)
        given, wanted = np.asarray(theirs)[order], np.asarray(wavelengths)
        reach = np.diff(given).max() if len(given) > 1 else 0
        if wanted.min() < given[0] - reach or wanted.max() > given[-1] + reach:
            raise InputError(
                f"{raster.path} has bands from {given[0]:g} to {given[-1]:g} nm, but the network wants "
                f"{wanted.min():g} to {wanted.max():g} nm; take a network trained on what both have"
            )
        lower = np.clip(np.searchsorted(given, wanted, side="right") - 1, 0, max(len(given) - 2, 0))
        upper = np.minimum(lower + 1, len(given) - 1)
        width = np.where(upper > lower, given[upper] - given[lower], 1)
        weight = ((wanted - given[lower]) / width).clip(0, 1).astype(np.float32)
        if (order != np.arange(len(order))).any():
            raise InputError(f"{raster.path}: resampling needs bands in the order of their wavelengths; sort them")
        return Bands(lower, weight)
    if raster.shape[2] != n_bands:
        hint = "; `--resample` interpolates them" if wavelengths and theirs else ""
        raise InputError(
            f"{raster.path} has another number of bands, {raster.shape[2]}, than the network was trained on, "
            f"{n_bands}{hint}"
        )
    if wavelengths is not None and theirs is not None:
        apart = np.abs(np.subtract(wavelengths, theirs))
        spacing = np.median(np.diff(sorted(wavelengths))) if n_bands > 1 else 1
        if apart.max() > spacing / 2:
            band = int(apart.argmax())
            raise InputError(
                f"{raster.path}: its band {band} (from 0) lies at {theirs[band]:g} nm, the network's at "
                f"{wavelengths[band]:g} nm; `--resample` interpolates them"
            )
    return Bands()
