"""Which bands of a cube are used, and in which order."""

from collections.abc import Iterable, Sequence

import numpy as np

from scenes.survey import Values
from scenes.wavelengths import in_order
from utils import InputError


def parse_bands(words: Iterable[int | str], where: str) -> tuple[int, ...]:
    """Read numbers of bands, counted from 0, and ranges such as "104-108"; InputError if one is neither."""
    bands: set[int] = set()
    for word in words:
        first, dash, last = str(word).strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise InputError(f"{where}: {word!r} is no band; give numbers from 0 on and ranges, such as 104-108")
        if int(last or first) >= 1 << 20:
            raise InputError(f"{where}: {word!r} names a band that no cube has")
        bands.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(bands))


def choose_bands(
    values: Values,
    wavelengths: Sequence[float] | None,
    *,
    bad: Sequence[int] = (),
    drop: Sequence[int] = (),
    overlap: str = "both",
    where: str,
) -> tuple[np.ndarray, list[str]]:
    """Choose the bands of a cube that carry information, in the order of their wavelengths.

    Args:
        values: the cube's statistics.
        wavelengths: of its bands in nm, or None.
        bad: bands that the file marks as bad.
        drop: bands that the user leaves out.
        overlap: see `wavelengths.in_order`.
        where: the file, for messages.
    Returns:
        Indices of the bands that are used, and sentences on what is left out or moved, none if that is nothing.
    Raises:
        InputError: no band is left, or `drop` names one that the cube does not have.
    """
    n_bands, left_out, said = len(values.low), set(), []
    if drop and max(drop) >= n_bands:
        raise InputError(f"{where}: drop_bands counts from 0, and the cube has {n_bands} bands; {max(drop)} is none")
    empty = np.isnan(values.low)
    reasons = (
        ("as drop_bands says", drop),
        ("which the file marks as bad", bad),
        ("without data", np.flatnonzero(empty).tolist()),
        ("with one value everywhere", np.flatnonzero(values.low == values.high).tolist()),
    )
    for reason, bands in reasons:
        new = sorted({*bands} - left_out)
        left_out |= {*new}
        if new:
            said.append(f"{named(new, wavelengths)} left out, {reason}")
    used = np.array([band for band in range(n_bands) if band not in left_out], dtype=np.int64)
    if not len(used):
        raise InputError(f"{where}: no band is left: {'; '.join(said)}")
    if wavelengths is not None:
        own = np.asarray(wavelengths, dtype=float)[used]
        order = in_order(own.tolist(), overlap)
        missing = sorted({*range(len(used))} - {*order.tolist()})
        if missing:
            said.append(f"{named(used[missing].tolist(), wavelengths)} left out, as overlap = {overlap} says")
        if (np.diff(order) < 0).any():
            said.append("the bands were put in the order of their wavelengths")
        used = used[order]
    return used, [f"{where}: {sentence}" for sentence in said]


def named(bands: Sequence[int], wavelengths: Sequence[float] | None = None, most: int = 12) -> str:
    """Name bands, counted from 0, as numbers and ranges, with their wavelengths if these are known."""
    runs: list[list[int]] = []
    for band in bands:
        if runs and band == runs[-1][1] + 1:
            runs[-1][1] = band
        else:
            runs.append([band, band])

    def words(first: int, last: int) -> str:
        text = str(first) if first == last else f"{first}-{last}"
        if wavelengths is None:
            return text
        ends = (wavelengths[first], wavelengths[last])
        return f"{text} ({ends[0]:.0f} nm)" if first == last else f"{text} ({ends[0]:.0f}-{ends[1]:.0f} nm)"

    shown = ", ".join(words(*run) for run in runs[:most]) + (", ..." if len(runs) > most else "")
    return f"{'band' if len(bands) == 1 else f'{len(bands)} bands'} (from 0) {shown}"
