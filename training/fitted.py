"""Classifiers that are fitted at once: what a checkpoint holds of them is checked, and a fit can be stopped."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import Tensor

import stops
from models.base import PatchClassifier
from models.classical import Classical

MANY = 1000  # spectra, whose fit may take long
LARGEST = 1e12  # of a normalised value; its square and sums of that are far from the largest number
ENTRIES = {"spectra": (torch.float32, 2), "labels": (torch.int64, 1), "seed": (torch.int64, 0)}  # type and axes
CHOSEN = {"chosen": (torch.int64, 0)}
log = logging.getLogger("mim")


def not_fitted(model: Classical, weights: dict[str, Tensor]) -> str:
    """Say what is wrong with the training spectra that a classifier is fitted to again, or "" if nothing is."""
    known = ENTRIES | (CHOSEN if model.grid() else {})
    if missing := [part for part in ENTRIES if part not in weights]:
        return f"{missing[0]!r} is missing"
    if unknown := sorted({*weights} - {*known}):
        return f"{unknown[0][:99]!r} is unknown"
    for part, value in weights.items():
        dtype, axes = known[part]
        if value.dtype != dtype or value.ndim != axes:
            shape = "a single number" if not axes else f"of {axes} ax{'i' if axes == 1 else 'e'}s"
            return f"{part!r} must be {shape} of type {str(dtype).removeprefix('torch.')}"
    spectra, labels, seed = (weights[part] for part in ENTRIES)
    if spectra.shape[1] != model.n_bands or not len(spectra):
        return f"the spectra are {' x '.join(map(str, spectra.shape))}, for {model.n_bands} bands"
    if not bool((spectra.abs() < LARGEST).all()):  # nor if it is no number
        return f"the spectra must be finite and below {LARGEST:g}"
    if len(labels) != len(spectra):
        return "the labels do not fit the spectra"
    if int(labels.min()) < 0 or int(labels.max()) >= model.n_classes:
        return f"the labels must lie between 0 and {model.n_classes - 1}"
    if not 0 <= int(seed) < 2**32:
        return "the seed must lie between 0 and 2^32"
    model.labels = labels  # on whose number the settings to choose from may depend
    if "chosen" in weights and not -1 <= int(weights["chosen"]) < model.n_combinations:
        return f"the chosen settings must lie between -1 and {model.n_combinations - 1}"
    return ""


def fit(model: Classical, name: str, spectra: Tensor, labels: Tensor, seed: int) -> None:
    """Fit a classifier to training spectra (n, n_bands) and their classes 0..K-1, (n,)."""
    with _fitting(name, len(spectra)):
        model.fit(spectra, labels, seed)


def load(model: PatchClassifier, name: str, weights: dict[str, Tensor]) -> None:
    """Give a network its weights, or fit a classifier again to the spectra that it was fitted to."""
    if not isinstance(model, Classical):
        model.load_state_dict(weights)
        return
    with _fitting(name, len(weights["spectra"])):
        model.load_state_dict(weights)


@contextlib.contextmanager
def _fitting(name: str, n: int) -> Iterator[None]:
    if n >= MANY:
        log.info("fitting %s on %s spectra", name, f"{n:,}")
    with stops.at_once():
        yield
