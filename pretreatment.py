"""Spectral pre-treatment: what is done to each spectrum before the bands are normalised.

It removes what differs between two pixels of one class, brightness first, and keeps the form of the spectrum.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from utils import InputError

WINDOW, ORDER = 9, 2  # bands of a derivative, and degree of its polynomials and of detrending
GAP = 2.5  # a step between wavelengths this many times the usual one separates bands
AT_ONCE = 2**22  # values that are treated at a time, in float64
STEPS = {
    "none": "the spectrum as it is",
    "snv": "standard normal variate",
    "msc": "multiplicative scatter correction",
    "detrend": "a parabola over the bands taken away",
    "derivative": "first derivative along the bands",
    "second": "second derivative along the bands",
    "continuum": "continuum removed",
    "unit": "length 1",
    "brightness": "mean and standard deviation, in place of the spectrum",
}


@dataclass(frozen=True)
class Pretreatment:
    """Treat each spectrum alone.

    "snv" subtracts from a spectrum its mean and divides by its standard deviation (Barnes et al., Applied Spectroscopy
    43, 1989). "msc" fits a straight line to a spectrum against a reference, the mean spectrum, and takes the line away
    (Geladi et al., Applied Spectroscopy 39, 1985). "detrend" takes away the parabola that fits a spectrum best (Barnes
    et al. 1989). "derivative" and "second" are those of polynomials of degree 2 that
    are fitted to 9 bands (Savitzky and Golay, Analytical Chemistry 36, 1964). "continuum" divides by the upper convex
    hull (Clark and Roush, Journal of Geophysical Research 89, 1984), values of a millionth of the largest at least.
    "unit" divides by the Euclidean length. Of a spectrum that does not vary, "snv" and "msc" make zeros. "brightness"
    makes two values of a spectrum, its mean and its standard deviation, which are what "snv" takes away.

    Attributes:
        spec: treatments whose results are stacked, with commas between, each of one step or several, with - between:
            "snv,derivative-snv" is the SNV of the spectrum, and behind it the SNV of its first derivative; "brightness"
            can only be the last step of a treatment.
        n_bands: of the spectra.
        references: for each step "msc", in order, the reference, (n_bands,) float32.
        starts: the bands at which another piece of the spectrum starts; no derivative reaches from one piece into
            the next.
        axis: where the bands lie, (n_bands,) ascending: their wavelengths in nm, or their numbers.
    """

    spec: str
    n_bands: int
    references: tuple[np.ndarray, ...] = field(default=(), repr=False)
    starts: tuple[int, ...] = (0,)
    axis: tuple[float, ...] = field(default=(), repr=False)

    @property
    def n_bands_out(self) -> int:
        """Values that a spectrum has afterwards."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Values that each treatment makes of a spectrum."""
        return tuple(2 if steps[-1] == "brightness" else self.n_bands for steps in parse_steps(self.spec))

    def __call__(self, spectra: np.ndarray) -> np.ndarray:
        """Treat spectra, (..., n_bands), to (..., n_bands_out) float32; the result of one depends on no other.

        A spectrum with a value that is not finite becomes NaN.
        """
        rows = np.ascontiguousarray(spectra).reshape(-1, self.n_bands)
        out = np.full((len(rows), self.n_bands_out), np.nan, dtype=np.float32)
        at_once = max(1, AT_ONCE // self.n_bands)
        finite = np.flatnonzero(np.isfinite(rows).all(1))
        for numbers in (finite[start : start + at_once] for start in range(0, len(finite), at_once)):
            part, references = rows[numbers].astype(np.float64), iter(self.references)
            treated = [self._treat(part, steps, references) for steps in parse_steps(self.spec)]
            out[numbers] = np.concatenate(treated, axis=1)
        return out.reshape(*spectra.shape[:-1], self.n_bands_out)

    def _treat(self, spectra, steps, references):
        for step in steps:
            if step == "msc":
                spectra = _msc(spectra, next(references).astype(np.float64))
            elif step in ("derivative", "second"):
                spectra = _derivative(spectra, self.starts, 1 if step == "derivative" else 2)
            elif step == "continuum":
                spectra = _continuum(spectra, self.axis)
            elif step == "detrend":
                spectra = _detrend(spectra, self.axis)
            else:
                spectra = _ALONE[step](spectra)
        return spectra

    def state(self) -> dict:
        """Return all attributes as plain values and tensors, for a checkpoint."""
        import torch

        return vars(self) | {"references": [torch.from_numpy(each) for each in self.references]}

    @classmethod
    def from_state(cls, state: dict) -> "Pretreatment":
        """Restore from the values of `state`."""
        values: dict[str, Any] = state | {"references": tuple(each.numpy() for each in state["references"])}
        return cls(**values)


def parse_steps(spec: str) -> tuple[tuple[str, ...], ...]:
    """Split a specification into the steps of each treatment.

    Raises:
        InputError: an unknown step, a step or a treatment twice.
    """
    treatments = tuple(tuple(each.strip().lower().split("-")) for each in spec.split(","))
    for step in (step for steps in treatments for step in steps if step not in STEPS):
        raise InputError(
            f"spectral {spec}: {step or 'nothing'} is not a spectral pre-treatment; choose from {', '.join(STEPS)}; "
            "join steps by - and stack results by a comma, as in snv,derivative-snv"
        )
    if any("brightness" in steps[:-1] for steps in treatments):
        raise InputError(
            f"spectral {spec}: brightness leaves no spectrum, so no step can follow it; join it by a comma"
        )
    if any(len(set(steps)) < len(steps) for steps in treatments):
        raise InputError(f"spectral {spec}: a treatment has the same step twice; leave one out")
    if len(set(treatments)) < len(treatments):
        raise InputError(f"spectral {spec}: the same treatment is stacked twice; leave one out")
    return treatments


def spelled(spec: str) -> str:
    """Give a specification in its usual spelling, in lower case and without blanks; raises as `parse_steps` does."""
    return ",".join("-".join(steps) for steps in parse_steps(spec))


def fit_pretreatment(
    spec: str, spectra: np.ndarray, wavelengths: tuple[float, ...] | None = None
) -> Pretreatment | None:
    """Fit a pre-treatment to spectra; only "msc" takes something of them, their mean as the steps before it leave them.

    Args:
        spec: see `Pretreatment`.
        spectra: (n, n_bands).
        wavelengths: of the bands in nm, or None.
    Returns:
        The pre-treatment; None for "none".
    Raises:
        InputError: a wrong specification, too few bands, or spectra that a step cannot treat.
    """
    treatments = parse_steps(spec)
    if treatments == (("none",),):
        return None
    n_bands = spectra.shape[1]
    used = {step for steps in treatments for step in steps}
    least = 4 if "detrend" in used else 3 if used & {"derivative", "second", "continuum"} else 1
    least = max(least, 2 if used & {"snv", "msc"} else 1)
    if n_bands < least:
        raise InputError(
            f"--spectral {spec} needs at least {least} bands, and there are {n_bands}; use --spectral none"
        )
    starts = _pieces(n_bands, wavelengths)
    known = wavelengths is not None and bool((np.diff(wavelengths) > 0).all())
    axis = tuple(map(float, wavelengths if known and wavelengths is not None else range(n_bands)))
    if "continuum" in used and not (spectra > 0).any():
        raise InputError(f"--spectral {spec}: no value is above 0, so there is no continuum; leave continuum out")
    references = []
    for before in (steps[: steps.index("msc")] for steps in treatments if "msc" in steps):
        treated = Pretreatment("-".join(before) or "none", n_bands, (), starts, axis)(spectra)
        references.append(treated.mean(0, dtype=np.float64).astype(np.float32))
    return Pretreatment(spelled(spec), n_bands, tuple(references), starts, axis)


def nearest_mean_recall(spectra: np.ndarray, labels: np.ndarray) -> float:
    """Measure how well the classes' mean spectra alone tell the classes apart.

    Args:
        spectra: (n, n_values).
        labels: of the spectra, (n,).
    Returns:
        The mean over the classes of the fraction of their spectra that are nearest to their own class's mean, every
        value brought to standard deviation 1 before.
    """
    spread = spectra.std(0, dtype=np.float64)
    values = (spectra - spectra.mean(0, dtype=np.float64)) / np.where(spread > 0, spread, 1)
    classes = np.unique(labels)
    means = np.stack([values[labels == each].mean(0) for each in classes])
    nearest = classes[(values @ means.T - (means**2).sum(1) / 2).argmax(1)]
    return float(np.mean([(nearest[labels == each] == each).mean() for each in classes]))


def _pieces(n_bands: int, wavelengths: tuple[float, ...] | None) -> tuple[int, ...]:
    """Give the bands at which a piece of the spectrum starts; a piece has no fewer bands than a derivative spans."""
    starts = [0]
    if wavelengths is not None:
        steps = np.diff(wavelengths)
        usual = np.median(np.abs(steps))
        for band in np.flatnonzero((steps <= 0) | (steps > GAP * usual)) + 1:
            if band - starts[-1] >= WINDOW and n_bands - band >= WINDOW:
                starts.append(int(band))
    return tuple(starts)


def _divide(values, by):
    """values / by, and 0 if `by` is 0."""
    return np.divide(values, by, out=np.zeros_like(values), where=by != 0)


def _snv(spectra):
    centred = spectra - spectra.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).mean(1, keepdims=True))
    flat = spread <= 1e-12 * np.abs(spectra).max(1, keepdims=True)  # what is left of a constant spectrum is rounding
    return _divide(centred, np.where(flat, 0.0, spread))


def _msc(spectra, reference):
    centred = reference - reference.mean()
    slope = (spectra * centred).sum(1, keepdims=True) / max((centred**2).sum(), np.finfo(float).tiny)
    level = spectra.mean(1, keepdims=True) - slope * reference.mean()
    flat = np.abs(slope) * np.abs(centred).max() <= 1e-12 * np.abs(spectra).max(1, keepdims=True)
    return _divide(spectra - level, np.where(flat, 0.0, slope))


def _derivative(spectra, starts, order):
    from scipy.signal import savgol_filter

    parts = []
    for start, stop in zip(starts, (*starts[1:], spectra.shape[1]), strict=True):
        window = min(WINDOW, (stop - start - 1) // 2 * 2 + 1)
        parts.append(savgol_filter(spectra[:, start:stop], window, ORDER, deriv=order, axis=1))
    return np.concatenate(parts, axis=1)


def _continuum(spectra, axis):
    from spectral import remove_continuum

    out, usable = np.zeros_like(spectra), (spectra > 0).any(1)
    if usable.any():
        raised = np.maximum(spectra[usable], 1e-6 * spectra[usable].max(1, keepdims=True))
        out[usable] = remove_continuum(raised, np.asarray(axis))
    return out


def _unit(spectra):
    return _divide(spectra, np.linalg.norm(spectra, axis=1, keepdims=True))


def _detrend(spectra, axis):
    places = np.interp(axis, (axis[0], axis[-1]), (-1, 1))
    basis, _ = np.linalg.qr(places[:, None] ** np.arange(ORDER + 1))
    left = spectra - (spectra @ basis) @ basis.T
    return np.where(
        np.abs(left) <= 1e-12 * np.abs(spectra).max(1, keepdims=True), 0.0, left
    )  # what is left is rounding


def _brightness(spectra):
    return np.stack([spectra.mean(1), spectra.std(1)], axis=1)


_ALONE: dict[str, Callable] = {"none": lambda x: x, "snv": _snv, "unit": _unit, "brightness": _brightness}
