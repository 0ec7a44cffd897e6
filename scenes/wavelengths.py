"""Wavelengths: brought to nanometres by one rule for all formats, and put in order where detectors overlap."""

import logging
import math
import re
from collections.abc import Sequence

import numpy as np

log = logging.getLogger(__name__)

OVERLAPS = ("both", "vnir", "swir")
_TO_NM = {"nanometer": 1.0, "nm": 1.0, "micrometer": 1e3, "micron": 1e3, "um": 1e3, "angstrom": 0.1, "millimeter": 1e6}
_TO_NM |= {"mm": 1e6, "centimeter": 1e7, "cm": 1e7, "meter": 1e9, "m": 1e9, "å": 0.1}
_SHORTEST = 100.0  # nm; no instrument of this kind sees below, or beyond 100 um


def in_nanometres(values: Sequence[float], unit: str | None, where: object) -> tuple[float, ...] | None:
    """Convert wavelengths to nanometres.

    Args:
        values: as a file has them.
        unit: as the file names it, in any case, singular or plural, British or American; None or "unknown" if it does
            not, and then values below 100 are taken for micrometres.
        where: the file, for a message.
    Returns:
        The wavelengths; None, with a message, if a value is not above 0 or the unit is not one of a length.
    """
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        log.info("%s: its wavelengths are not all numbers above 0; they are not used", where)
        return None
    name = plain_unit(unit)
    if not name:
        name = "nm" if max(values) >= _SHORTEST else "um"
        log.info("%s does not say the unit of its wavelengths, which is taken to be %s", where, name)
    elif name in ("nm", "nanometer") and max(values) < _SHORTEST:
        log.info("%s gives its wavelengths in nanometres, but all are below 100: they are taken to be in um", where)
        name = "um"
    if name not in _TO_NM:
        log.info("%s: wavelengths in %s are not used; give them in nanometers or micrometers", where, unit)
        return None
    return tuple(float(value) * _TO_NM[name] for value in values)


def plain_unit(unit: str | None) -> str:
    """Give a unit's name in lower case, singular and American; "" if there is none."""
    name = re.sub(r"[\s._-]", "", unit or "").lower().replace("μ", "u").replace("µ", "u").replace("metre", "meter")
    name = name.removesuffix("s") if len(name) > 2 else name
    return "" if name in ("", "unknown", "none", "na", "n/a") else name


def detectors(wavelengths: Sequence[float]) -> list[np.ndarray]:
    """Tell apart the detectors of an instrument, between which the wavelengths go back.

    Args:
        wavelengths: in the file's order; each detector's may rise or fall, as most of them do.
    Returns:
        The bands of each, in the order of their wavelengths; the detectors from short to long waves.
    """
    steps = np.diff(wavelengths)
    usual = 1 if (steps >= 0).sum() >= (steps < 0).sum() else -1
    parts = np.split(np.arange(len(wavelengths)), np.flatnonzero(steps * usual < 0) + 1)
    values = np.asarray(wavelengths, dtype=float)
    parts = [part[np.argsort(values[part], kind="stable")] for part in parts]
    return sorted(parts, key=lambda part: values[part].mean())


def in_order(wavelengths: Sequence[float], overlap: str = "both") -> np.ndarray:
    """Put bands in the order of their wavelengths.

    Args:
        wavelengths: in the file's order.
        overlap: where two detectors see the same wavelengths, the bands of "both", or of the one for shorter ("vnir")
            or for longer waves ("swir") alone.
    Returns:
        Indices of the bands, of which an overlap may leave some out.
    """
    values, kept = np.asarray(wavelengths, dtype=float), detectors(wavelengths)
    for i in range(len(kept) - 1):
        shorter, longer = kept[i], kept[i + 1]
        if overlap == "vnir" and len(shorter):
            kept[i + 1] = longer[values[longer] > values[shorter].max()]
        elif overlap == "swir" and len(longer):
            kept[i] = shorter[values[shorter] < values[longer].min()]
    bands = np.concatenate(kept)
    return bands[np.argsort(values[bands], kind="stable")]
