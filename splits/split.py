"""Decide which labelled pixels train, validate and test."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from utils import InputError, fingerprint

WITH_FOLDS = ("spatial", "fields")  # sampling modes that test one fold
Part = Literal["train", "test", "validation"]


@dataclass(frozen=True)
class Split:
    """Hold the training and test pixels as label maps, (H, W) int64, 1..K, 0 = not among them.

    Attributes:
        train, test: label maps that have no pixel in common.
        class_names: K names; index i is id i + 1.
        palette: K colours "#rrggbb", in the same order.
        method: how the split was made, in words, for the protocol.
        notes: what a reader of the result should know about it, one sentence each.
        validation: label map of the pixels taken out of train, or None.
        border_skipped: number of test pixels left out by `skip_border`.
        buffer_dropped, unlearned_dropped, single_region_dropped: numbers of labelled pixels that neither train nor
            test, see `splits.spatial_cv`.
        drawn_from: label map that the split was drawn from, with the pixels that it dropped; None for masks.
        block_size: side of the blocks of spatial cross-validation in pixels; None for other splits.
    """

    train: np.ndarray
    test: np.ndarray
    class_names: tuple[str, ...]
    palette: tuple[str, ...]
    method: str
    notes: tuple[str, ...] = ()
    validation: np.ndarray | None = None
    border_skipped: int = 0
    buffer_dropped: int = 0
    unlearned_dropped: int = 0
    single_region_dropped: int = 0
    drawn_from: np.ndarray | None = None
    block_size: int | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    @property
    def n_train(self) -> int:
        """Number of training pixels."""
        return int((self.train > 0).sum())

    @property
    def n_test(self) -> int:
        """Number of test pixels."""
        return int((self.test > 0).sum())

    @property
    def n_validation(self) -> int:
        """Number of validation pixels."""
        return 0 if self.validation is None else int((self.validation > 0).sum())

    def masks(self) -> dict[Part, np.ndarray]:
        """Give the label maps of training, validation if there is one, and test."""
        held_out: dict[Part, np.ndarray] = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **held_out, "test": self.test}

    def class_counts(self, part: Part) -> np.ndarray:
        """Count the pixels of each class in a part of the split, (K,) int64."""
        labels = getattr(self, part)
        return np.zeros(self.n_classes, dtype=np.int64) if labels is None else count_classes(labels, self.n_classes)

    @property
    def labelled(self) -> np.ndarray:
        """Label map of all pixels of the split, (H, W); of overlapping masks the larger label counts."""
        return np.maximum.reduce(list(self.masks().values()))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the label maps as used."""
        return fingerprint(self.train, self.test, self.validation)


def count_classes(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Count the pixels of each class 1..K in a label map, (K,) int64."""
    return np.bincount(labels.ravel(), minlength=n_classes + 1)[1:]


def split_random(gt, fraction: float, rng: np.random.Generator, *, class_names, palette) -> Split:
    """Draw a fraction of every class for training; the other pixels test.

    Args:
        gt: ground truth, (H, W), 0 = unlabelled.
        fraction: of each class for training, in (0, 1); at least one pixel trains and one tests.
        rng: source of the draw.
        class_names, palette: K each.
    Raises:
        InputError: a fraction outside (0, 1), no labelled pixel, or a class with a single one.
    """
    _check_fraction(fraction)

    def choose(pixels):
        n_train = int(np.clip(round(fraction * len(pixels)), 1, len(pixels) - 1))
        return rng.permutation(pixels)[:n_train]

    return _split(gt, choose, class_names, palette, f"random, {100 * fraction:g} % of each class train")


def split_per_class(gt, count: int, rng: np.random.Generator, *, class_names, palette) -> Split:
    """Draw the same number of pixels of every class for training; a small class gives half of its pixels.

    Args:
        gt: ground truth, (H, W), 0 = unlabelled.
        count: training pixels per class, at least 1.
        rng: source of the draw.
        class_names, palette: K each.
    Raises:
        InputError: a count below 1, no labelled pixel, or a class with a single one.
    """
    if not (count >= 1 and float(count).is_integer()):
        raise InputError(
            f"--training_sample {count:g}: with --sampling_mode fixed it is a number of pixels per class, such as 50"
        )
    small = []

    def choose(pixels):
        half = len(pixels) // 2
        if half < count:
            small.append(f"{class_names[gt.flat[pixels[0]] - 1]} ({half})")
        return rng.permutation(pixels)[: min(int(count), half)]

    split = _split(gt, choose, class_names, palette, f"random, {int(count)} pixels of each class train")
    if small:
        split = replace(split, notes=(f"classes with fewer pixels train on half of them: {', '.join(small)}",))
    return split


def split_disjoint(gt, fraction: float, rng: np.random.Generator, *, class_names, palette) -> Split:
    """Cut every class along a row or a column, so that training and test pixels lie on two sides of a line.

    Windows near the line still overlap. For each class the generator draws the direction; whole rows or columns are
    taken from that side until the training pixels are nearest to the fraction.

    Args:
        gt: ground truth, (H, W), 0 = unlabelled.
        fraction: of each class for training, in (0, 1), met as closely as whole rows or columns allow.
        rng: source of the directions.
        class_names, palette: K each.
    Raises:
        InputError: a fraction outside (0, 1), no labelled pixel, or a class with a single one.
    """
    _check_fraction(fraction)

    def choose(pixels):
        lines = np.unravel_index(pixels, gt.shape)
        axis, sign = rng.integers(2), rng.choice((-1, 1))
        if np.ptp(lines[axis]) == 0:  # the class lies on one line of this axis: cut along the other axis
            axis = 1 - axis
        position = sign * lines[axis]
        cuts = np.unique(position)[:-1]  # the last line always tests
        fractions = np.array([(position <= cut).mean() for cut in cuts])
        return pixels[position <= cuts[np.abs(fractions - fraction).argmin()]]

    return _split(gt, choose, class_names, palette, f"disjoint, about {100 * fraction:g} % of each class train")


def hold_out(split: Split, fraction: float, rng: np.random.Generator) -> Split:
    """Take a stratified fraction of the training pixels for validation; the test pixels are not touched.

    Args:
        split: the split without validation.
        fraction: of each class's training pixels, in (0, 1); a class with one pixel keeps it.
        rng: source of the draw.
    Raises:
        InputError: a fraction outside (0, 1), or no class with two training pixels.
    """
    if not 0 < fraction < 1:
        raise InputError(f"--val_fraction must lie between 0 and 1, not {fraction:g}")
    validation = np.zeros_like(split.train)
    for label in range(1, split.n_classes + 1):
        pixels = np.flatnonzero(split.train == label)
        if len(pixels) > 1:
            n_held = int(np.clip(round(fraction * len(pixels)), 1, len(pixels) - 1))
            validation.flat[rng.permutation(pixels)[:n_held]] = label
    if not validation.any():
        raise InputError("--val_fraction: no class has two training pixels, so none can be held out")
    return replace(split, train=np.where(validation > 0, 0, split.train), validation=validation)


def skip_border(split: Split, margin: int) -> Split:
    """Leave out every pixel whose window would cross the scene's edge, like tools without padding.

    Args:
        split: any split.
        margin: patch_size // 2, in pixels.
    Raises:
        InputError: a class that loses all its training pixels, or no test pixel left.
    """
    height, width = split.train.shape
    inside = np.zeros((height, width), dtype=bool)
    inside[margin : height - margin, margin : width - margin] = True
    kept = replace(
        split,
        train=np.where(inside, split.train, 0),
        test=np.where(inside, split.test, 0),
        validation=None if split.validation is None else np.where(inside, split.validation, 0),
    )
    n_train, n_test = split.n_train - kept.n_train, split.n_test - kept.n_test
    if not kept.n_test:
        raise InputError("--border skip leaves no test pixel; use --border mirror or a smaller --patch_size")
    if split.validation is not None and not kept.n_validation:
        raise InputError("--border skip leaves no validation pixel; use --border mirror or a larger --val_fraction")
    try:
        check_classes(kept)
    except InputError as error:
        raise InputError(f"--border skip: {error}; or use --border mirror") from error
    note = (
        f"border skip leaves out {n_train} training and {n_test} test pixels near the edge; the scores do not count "
        "them"
    )
    return replace(kept, border_skipped=n_test, notes=(*split.notes, note))


def check_classes(split: Split) -> None:
    """Raise InputError unless training and test pixels exist and every class that is tested can be learned."""
    train, test = split.class_counts("train"), split.class_counts("test")
    for name, counts in (("training", train), ("test", test)):
        if not counts.any():
            raise InputError(f"there is no labelled {name} pixel; check the masks")
    missing = [f"{i + 1} ({split.class_names[i]})" for i in np.flatnonzero((train == 0) & (test > 0))]
    if missing:
        plural = "es" if len(missing) > 1 else ""
        raise InputError(
            f"class{plural} {', '.join(missing)} {'have' if plural else 'has'} test pixels but no training pixel; "
            "add some to the training mask or take the class out of the test mask"
        )


def check_several(split: Split) -> None:
    """Raise InputError if all pixels are of one class."""
    classes = np.flatnonzero(split.class_counts("train") + split.class_counts("test"))
    if len(classes) == 1:
        raise InputError(
            f"all labelled pixels are of one class, {split.class_names[classes[0]]}, so that there is nothing to "
            "classify; give a label map with at least two"
        )


def _split(gt, choose, class_names, palette, method) -> Split:
    """Let `choose` pick each class's training pixels (flat indices); the other labelled pixels test."""
    if not (gt > 0).any():
        raise InputError("the ground truth has no labelled pixel")
    train = np.zeros(gt.shape, dtype=np.int64)
    for label in np.unique(gt[gt > 0]):
        pixels = np.flatnonzero(gt == label)
        if len(pixels) < 2:
            raise InputError(
                f"class {label} ({class_names[label - 1]}) has one labelled pixel, which cannot both train and test; "
                "--min_pixels 2 leaves such classes out"
            )
        train.flat[choose(pixels)] = label
    return Split(train, np.where(train > 0, 0, gt), tuple(class_names), tuple(palette), method, drawn_from=gt)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise InputError(f"--training_sample must lie between 0 and 1 (a fraction of each class), not {fraction:g}")
