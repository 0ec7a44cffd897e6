"""Which labelled pixels train, validate and test."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from utils import InputError, fingerprint


@dataclass(frozen=True)
class Split:
    """Train and test pixels as label maps, (H, W) int64, 0 = not in it, 1..K.

    Attributes:
        train, test: label maps that share no pixel.
        class_names: K names; index i is id i + 1.
        palette: K colours "#rrggbb", in the same order.
        method: how the split was made, in words, for the protocol.
        notes: what a reader of the result should know about it, one sentence each.
        validation: label map taken out of train, or None.
        border_skipped: test pixels left out by `skip_border`.
        guard_dropped, unlearned_dropped: labelled pixels that neither train nor test, see `buffered.split_buffered`.
    """

    train: np.ndarray
    test: np.ndarray
    class_names: tuple[str, ...]
    palette: tuple[str, ...]
    method: str
    notes: tuple[str, ...] = ()
    validation: np.ndarray | None = None
    border_skipped: int = 0
    guard_dropped: int = 0
    unlearned_dropped: int = 0

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def labelled(self) -> np.ndarray:
        """All pixels of the split in one label map, (H, W)."""
        return self.train + self.test + (0 if self.validation is None else self.validation)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the label maps as used."""
        return fingerprint(self.train, self.test, self.validation)


def split_random(gt, fraction: float, rng: np.random.Generator, *, class_names, palette) -> Split:
    """Draw a share of every class for training; the rest is the test.

    Args:
        gt: ground truth, (H, W), 0 = unlabelled.
        fraction: share of each class for training, in (0, 1); at least one pixel trains and one tests.
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
    taken from that side until their share is nearest to the fraction.

    Args:
        gt: ground truth, (H, W), 0 = unlabelled.
        fraction: share of each class for training, in (0, 1), met as nearly as whole rows or columns allow.
        rng: source of the directions.
        class_names, palette: K each.
    Raises:
        InputError: a fraction outside (0, 1), no labelled pixel, or a class with a single one.
    """
    _check_fraction(fraction)

    def choose(pixels):
        lines = np.unravel_index(pixels, gt.shape)
        axis, sign = rng.integers(2), rng.choice((-1, 1))
        if np.ptp(lines[axis]) == 0:  # the class lies on one line of this axis: cut along the other
            axis = 1 - axis
        position = sign * lines[axis]
        cuts = np.unique(position)[:-1]  # the last line always tests
        shares = np.array([(position <= cut).mean() for cut in cuts])
        return pixels[position <= cuts[np.abs(shares - fraction).argmin()]]

    return _split(gt, choose, class_names, palette, f"disjoint, about {100 * fraction:g} % of each class train")


def hold_out(split: Split, fraction: float, rng: np.random.Generator) -> Split:
    """Take a stratified share of the training pixels for validation; the test pixels are not touched.

    Args:
        split: the split without validation.
        fraction: share of each class's training pixels, in (0, 1); a class with one pixel keeps it.
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
    """Leave out every pixel whose window would cross the scene's edge, as tools without padding do.

    Args:
        split: any split.
        margin: patch_size // 2, in pixels.
    Raises:
        InputError: a class that loses all its training pixels, or no test pixel left.
    """
    inside = np.zeros(split.train.shape, dtype=bool)
    inside[margin : inside.shape[0] - margin, margin : inside.shape[1] - margin] = True
    maps = {name: getattr(split, name) for name in ("train", "test", "validation")}
    kept = {name: None if mask is None else np.where(inside, mask, 0) for name, mask in maps.items()}
    skipped = {name: int((maps[name] > 0).sum() - (kept[name] > 0).sum()) for name in ("train", "test")}
    if not kept["test"].any():
        raise InputError("--border skip leaves no test pixel; use --border mirror or a smaller --patch_size")
    note = (
        f"--border skip leaves out {skipped['train']} training and {skipped['test']} test pixels near the edge; "
        "the scores do not count them"
    )
    if split.validation is not None and not kept["validation"].any():
        raise InputError("--border skip leaves no validation pixel; use --border mirror or a larger --val_fraction")
    split = replace(split, **kept, border_skipped=skipped["test"], notes=(*split.notes, note))
    try:
        check_classes(split)
    except InputError as error:
        raise InputError(f"--border skip: {error}; or use --border mirror") from error
    return split


def check_classes(split: Split) -> None:
    """Raise InputError unless there are training and test pixels and every class that is tested can be learned."""
    n_train, n_test = (np.bincount(m.ravel(), minlength=split.n_classes + 1)[1:] for m in (split.train, split.test))
    for name, counts in (("training", n_train), ("test", n_test)):
        if not counts.any():
            raise InputError(f"there is no labelled {name} pixel; check the masks")
    missing = [f"{i + 1} ({split.class_names[i]})" for i in np.flatnonzero((n_train == 0) & (n_test > 0))]
    if missing:
        plural = "es" if len(missing) > 1 else ""
        raise InputError(
            f"class{plural} {', '.join(missing)} {'have' if plural else 'has'} test pixels but no training pixel; "
            "add some to the training mask or take the class out of the test mask"
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
                f"class {label} ({class_names[label - 1]}) has one labelled pixel, which cannot both train and test"
            )
        train.flat[choose(pixels)] = label
    return Split(train, np.where(train > 0, 0, gt), tuple(class_names), tuple(palette), method)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise InputError(f"--training_sample must lie between 0 and 1 (a share of each class), not {fraction:g}")
