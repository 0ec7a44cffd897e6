"""A file's bands and values matched with those that a network was trained on."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from preprocessing import Preprocessing
from scenes.bands import named
from scenes.raster import Raster, holds
from utils import InputError

SAMPLE = 1 << 22  # values of a file that are looked at before it is mapped, about
FEWEST = 25  # pixels in all of which one value is suspicious
FAR = 1.0  # beyond the usual values, as a fraction of their range, which counts as outside them
ALIKE = 1e-3  # a range of the file's values this small a fraction of the usual one is in another unit
SMALLER, FAR_SMALLER = 3.0, 30.0  # times than the usual values: may be, and surely is, in another unit
log = logging.getLogger("mim")


@dataclass(frozen=True)
class Bands:
    """How a file's bands become the network's: some of them in some order, or interpolated between neighbours.

    Attributes:
        lower: per band of the network the file's band that it is taken from; None if all are taken as they are.
        upper, weight: the next one, and its weight; None if nothing is interpolated.
    """

    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    weight: np.ndarray | None = None

    def used(self, n_in_file: int) -> np.ndarray:
        """List the file's bands that are looked at."""
        if self.lower is None:
            return np.arange(n_in_file)
        return np.unique(self.lower if self.upper is None else np.concatenate([self.lower, self.upper]))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(..., n_bands of the file) to (..., n_bands of the network) float32."""
        values = values.astype(np.float32)
        if self.lower is None:
            return values
        below = values[..., self.lower]
        if self.upper is None or self.weight is None:
            return below
        return below + self.weight * (values[..., self.upper] - below)


def match_bands(
    raster: Raster,
    n_bands: int,
    wavelengths: tuple[float, ...] | None,
    *,
    resample: bool,
    used: tuple[int, ...] | None = None,
    n_in_file: int | None = None,
) -> Bands:
    """Find the bands of a file that a network takes.

    Args:
        raster: the file.
        n_bands: bands that the network takes.
        wavelengths: theirs in nm, or None where not known.
        resample: interpolate linearly between the file's good bands.
        used, n_in_file: which bands these are of the training scene's file, and how many that has, if known.
    Raises:
        InputError: another number of bands or other wavelengths, without `resample`; wavelengths that are not known on
            both sides, or do not reach as far as the network's, with it; a band that the file marks as bad.
    """
    theirs, n_theirs = raster.wavelengths, raster.shape[2]
    if resample:
        return _resampled(raster, wavelengths)
    taken = None
    if used is not None and n_theirs == n_in_file:
        taken = np.asarray(used)
    elif n_theirs == n_bands:
        taken = np.arange(n_bands)
    if wavelengths is not None and theirs is not None:
        taken = _by_wavelength(raster, wavelengths, theirs, taken)
    elif taken is None:
        raise _other_number(raster, n_bands)
    elif wavelengths is not None:
        log.info(
            "note: %s does not say its wavelengths; its bands are taken for those of the network unchecked", raster.path
        )
    if bad := sorted({*taken.tolist()} & {*raster.bad_bands}):
        hint = "`--resample` interpolates them, or " if wavelengths and theirs else ""
        raise InputError(
            f"{raster.path} marks as bad what the network needs: {named(bad, theirs)}; {hint}take a network that was "
            "trained without them"
        )
    return Bands() if n_theirs == n_bands and (taken == np.arange(n_bands)).all() else Bands(taken)


def _by_wavelength(
    raster: Raster, wavelengths: Sequence[float], theirs: Sequence[float], taken: np.ndarray | None
) -> np.ndarray:
    """Give the file's bands at the network's wavelengths, those in `taken` if they are; InputError if not all exist."""
    far = None if taken is None else _farthest(raster, wavelengths, taken)
    if taken is not None and far is None:
        return taken
    nearest = np.abs(np.subtract.outer(wavelengths, theirs)).argmin(1)
    if len({*nearest.tolist()}) == len(wavelengths) and _farthest(raster, wavelengths, nearest) is None:
        said = "note: %d of the %d bands of %s are used, those at the network's wavelengths, in its order"
        log.info(said, len(wavelengths), len(theirs), raster.path)
        return nearest
    if taken is None or far is None:
        raise _other_number(raster, len(wavelengths), "; `--resample` interpolates them")
    raise InputError(
        f"{raster.path}: its band {taken[far]} (from 0) lies at {theirs[taken[far]]:g} nm, where the network has "
        f"{wavelengths[far]:g} nm; `--resample` interpolates them"
    )


def turned(raster: Raster, n_bands: Collection[int], axis: str | None) -> Raster:
    """Bring the bands of an array, which may be on any axis, to the last one.

    Args:
        raster: of a file that holds arrays alone, which says nothing of its axes.
        n_bands: how many bands it may have.
        axis: "first" or "last" where the bands are, or None if their number tells.
    Raises:
        InputError: the number fits more than one axis, and `axis` does not say which.
    """
    fitting = [number for number in (2, 0, 1) if raster.shape[number] in n_bands]
    if axis is not None:
        fitting = [{"first": 0, "last": 2}[axis]]
    if len(fitting) > 1:
        raise InputError(
            f"{raster.path} is {raster.shape}, and its bands could be on more than one axis; say where they are by "
            "`--bands_axis first` or `--bands_axis last`"
        )
    if not fitting or fitting == [2]:
        return raster
    array = np.moveaxis(raster.whole(), fitting[0], 2)
    log.info("note: %s is %s, and its bands are on axis %d; it was turned", raster.path, raster.shape, fitting[0] + 1)
    scaling = {
        name: values and values[:1] * array.shape[2]
        for name, values in (("scale", raster.scale), ("offset", raster.offset))
    }
    return replace(raster, shape=array.shape, _read=lambda start, stop: array[start:stop], **scaling)


def _other_number(raster: Raster, n_bands: int, hint: str = "") -> InputError:
    return InputError(
        f"{raster.path} has another number of bands, {raster.shape[2]}, than the network was trained on, "
        f"{n_bands}{hint}"
    )


def _farthest(raster: Raster, wavelengths: Sequence[float], taken: np.ndarray) -> int | None:
    """Give the network's band that is farthest from the file's that is taken for it, if that is too far; else None."""
    assert raster.wavelengths is not None
    apart = np.abs(np.subtract(wavelengths, np.asarray(raster.wavelengths)[taken]))
    spacing = np.median(np.diff(np.sort(wavelengths))) if len(wavelengths) > 1 else 1
    return int(apart.argmax()) if apart.max() > spacing / 2 else None


def _resampled(raster: Raster, wavelengths: Sequence[float] | None) -> Bands:
    if wavelengths is None or raster.wavelengths is None:
        who = raster.path if raster.wavelengths is None else "the network's training scene"
        raise InputError(f"resampling needs wavelengths on both sides, and {who} has none; leave it out")
    good = np.array([band for band in range(raster.shape[2]) if band not in {*raster.bad_bands}], dtype=np.int64)
    if not len(good):
        raise InputError(f"{raster.path} marks all its bands as bad")
    values = np.asarray(raster.wavelengths)[good]
    values, first = np.unique(values, return_index=True)  # in order; of equal ones the first
    good, wanted = good[first], np.asarray(wavelengths)
    reach = np.diff(values).max() if len(values) > 1 else 0
    if wanted.min() < values[0] - reach or wanted.max() > values[-1] + reach:
        raise InputError(
            f"{raster.path} has bands from {values[0]:g} to {values[-1]:g} nm, but the network wants "
            f"{wanted.min():g} to {wanted.max():g} nm; take a network trained on what both have"
        )
    lower = np.clip(np.searchsorted(values, wanted, side="right") - 1, 0, max(len(values) - 2, 0))
    upper = np.minimum(lower + 1, len(values) - 1)
    width = np.where(upper > lower, values[upper] - values[lower], 1)
    weight = ((wanted - values[lower]) / width).clip(0, 1).astype(np.float32)
    return Bands(good[lower], good[upper], weight)


def check_values(raster: Raster, bands: Bands, preprocessing: Preprocessing) -> None:
    """Compare a file's values with those that the network was trained on, in some rows from top to bottom.

    Args:
        raster: the file.
        bands: makes the network's bands of its bands.
        preprocessing: the network's, which keeps the usual values of its channels.
    Raises:
        InputError: a band that the network needs has one value everywhere, or most pixels lie far outside what the
            network knows, as values in another unit do. If some do, a message says so.
    """
    height, width, n_bands = raster.shape
    rows = np.unique(np.linspace(0, height - 1, num=max(1, min(height, SAMPLE // (width * n_bands)))).astype(int))
    raw = np.concatenate([raster.rows(row, row + 1)[0] for row in rows.tolist()])
    values = bands(raw)
    known = np.isfinite(values).all(1)
    if raster.nodata is not None:
        marked = holds(raw, raster.nodata)
        known &= ~(marked.all(1) if raster.nodata == 0 else marked[:, bands.used(n_bands)].any(1))
    values = values[known]
    if not len(values):
        return
    flat = np.flatnonzero(values.min(0) == values.max(0))
    if len(flat) and len(values) >= FEWEST:
        taken = flat if bands.lower is None else bands.lower[flat]
        raise InputError(
            f"{raster.path}: the network needs {named(taken.tolist(), raster.wavelengths)}, which has one value in "
            f"all {len(values):,} pixels that were looked at; give a file with data there, or leave such bands out in "
            "training (drop_bands)"
        )
    if preprocessing.usual is None:
        return
    treatment = preprocessing.pretreatment
    channels = values if treatment is None else treatment(values)
    ends = np.cumsum(() if treatment is None else treatment.widths)[:-1].astype(int)
    shares, smaller = [], 1.0
    for part, (low, high) in zip(
        np.split(channels, ends, axis=1), np.split(preprocessing.usual, ends, axis=1), strict=True
    ):
        span = np.maximum(high - low, np.finfo(np.float32).tiny)
        outside = ((part < low - FAR * span) | (part > high + FAR * span)).mean(1)
        spread = np.subtract(*np.percentile(part, (99, 1), axis=0)) / span
        size = np.percentile(np.abs(part), 99, axis=0)
        some = size > 0
        times = np.median(np.maximum(np.abs(low), np.abs(high))[some] / size[some]) if some.any() else 1.0
        unlike = len(values) >= FEWEST and np.median(spread) < ALIKE
        if (outside > 0.5).mean() > 0.5 or unlike or times > FAR_SMALLER:
            treated = "" if treatment is None else f", treated by {treatment.spec},"
            raise InputError(
                f"{raster.path}: most of its values{treated} are {_range(part)}, far from those that the network was "
                f"trained on, {low.min():g} to {high.max():g}; are they in another unit? A 'reflectance scale factor' "
                "in an ENVI header, or scale and offset in a GeoTIFF, are applied"
            )
        shares.append(outside.mean())
        smaller = max(smaller, times)
    if smaller > SMALLER:
        log.info(
            "note: %s: its values are about %.0f times smaller than those that the network was trained on; see whether "
            "the unit is right",
            raster.path,
            smaller,
        )
    if (share := max(shares)) > 0.05:
        log.info(
            "note: %s: %.0f %% of its values are far outside those that the network was trained on; see whether the "
            "unit and the place are right",
            raster.path,
            100 * share,
        )


def _range(channels: np.ndarray) -> str:
    low, high = np.percentile(channels, (1, 99))
    return f"{low:g} to {high:g}"
