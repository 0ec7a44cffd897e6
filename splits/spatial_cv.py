"""Spatial cross-validation: blocks or whole fields are dealt to folds, with a buffer between training and test windows.

Source: Roberts et al., Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic
structure, Ecography 40 (2017).
"""

import warnings
from dataclasses import replace

import numpy as np
from scipy.ndimage import distance_transform_cdt

from metrics import square_blocks
from splits.regions import find_regions
from splits.split import Split, count_classes
from utils import InputError

METHOD = "spatial cross-validation"
FOLDS = 5  # by default
FIELDS_METHOD = "whole fields"
INTERVAL_PATCH = 7
SIDES = (2, 3, 4, 6, 8, 12)  # block sides that are tried, in patch sizes
FRACTION_UNITS = 2**26  # fractions are computed with as integers: the same on every machine


def split_spatial(
    gt,
    rng: np.random.Generator,
    *,
    fold: int,
    patch_size: int,
    n_folds: int = FOLDS,
    block_size: int | None = None,
    count: float | None = None,
    class_names,
    palette,
) -> Split:
    """Test one fold of the scene's blocks and train on the others; no training window overlaps a test window.

    The scene is cut into square blocks from its top left corner, and `assign_blocks` deals them to the folds; neither
    depends on `rng`, so that the folds of several calls make one cross-validation. Two windows of side P share no pixel
    if their centres are P or more apart in rows or in columns; labelled pixels nearer than that to a test pixel (the
    buffer) neither train nor test. Test pixels of a class that is left without a training pixel are dropped.

    Args:
        gt: ground truth, (H, W), 0 = unlabelled.
        rng: source of the draw of `count` pixels; nothing else is random.
        fold: which fold tests, 0 to n_folds - 1.
        patch_size: P, side of the windows in pixels.
        n_folds: number of folds, at least 2.
        block_size: side of the blocks in pixels; None for `choose_block_size`.
        count: training pixels per class, a whole number, at most; None for all.
        class_names, palette: K each.
    Raises:
        InputError: a number out of range, fewer blocks with labels than folds, or a fold without training or test
            pixels.
    """
    _check(gt, fold, n_folds, count, "spatial")
    if block_size is not None and block_size < 1:
        raise InputError(f"--block_size must be at least 1, not {block_size}")
    side = choose_block_size(gt, n_folds, patch_size) if block_size is None else block_size
    folds = assign_blocks(gt, n_folds, side)
    if folds.max() < n_folds - 1:
        raise InputError(
            f"{n_folds} folds need as many blocks with labelled pixels, but blocks of {side} x {side} give only "
            f"{folds.max() + 1}; lower --folds or --block_size"
        )
    split = _test_fold(gt, folds, fold, n_folds, patch_size, class_names, palette)
    method = f"{METHOD}, fold {fold} of {n_folds} (from 0), blocks of {side} x {side}, {patch_size} pixels apart"
    return _thinned(replace(split, method=method, block_size=side), count, rng)


def split_fields(
    gt,
    rng: np.random.Generator,
    *,
    fold: int,
    patch_size: int,
    n_folds: int = FOLDS,
    count: float | None = None,
    class_names,
    palette,
) -> Split:
    """Test the regions of one fold and train on those of the others, so that no region both trains and tests.

    A region is a connected set of pixels of one class (see `regions.find_regions`), such as a field. Classes that lie
    in a single region are left out. scikit-learn's StratifiedGroupKFold deals the other regions to the folds, without
    chance, so that the folds of several calls make one cross-validation. The buffer, and classes that are left without
    a training pixel, are as in `split_spatial`.

    Args:
        gt, rng, fold, patch_size, n_folds, count, class_names, palette: as in `split_spatial`.
    Raises:
        InputError: a number out of range, no class with two regions, or a fold without training or test pixels.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and needed here alone

    _check(gt, fold, n_folds, count, "fields")
    region = find_regions(gt)
    n_regions = np.array([len(np.unique(region[gt == label])) for label in range(1, len(class_names) + 1)])
    n_pixels = count_classes(gt, len(class_names))
    single = np.flatnonzero(n_regions == 1)
    kept = np.where(np.isin(gt, single + 1), 0, gt)
    if not kept.any():
        raise InputError(
            "every class lies in one region, which cannot both train and test; use --sampling_mode spatial"
        )
    labels, groups = kept[kept > 0], region[kept > 0]
    if len(np.unique(groups)) < n_folds:
        raise InputError(
            f"{n_folds} folds need as many regions, but the classes with several have {len(np.unique(groups))} regions "
            "in all; lower --folds"
        )
    folds = np.full(gt.shape, -1)
    in_folds = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has fewer regions than there are folds, which is told below
        try:
            for number, (_, tested) in enumerate(StratifiedGroupKFold(n_folds).split(labels, labels, groups)):
                in_folds[tested] = number
        except ValueError as error:
            raise InputError(f"the regions cannot be dealt to {n_folds} folds ({error}); lower --folds") from error
    folds[kept > 0] = in_folds
    split = _test_fold(kept, folds, fold, n_folds, patch_size, class_names, palette)
    if np.intersect1d(region[split.train > 0], region[split.test > 0]).size:
        raise RuntimeError("a region both trains and tests")  # a fault of this function
    notes = split.notes
    if single.size:
        names = ", ".join(f"{class_names[i]} ({n_pixels[i]:,} pixels)" for i in single)
        notes = (
            f"{len(single)} of {np.count_nonzero(n_regions)} classes lie in one region, which cannot both train and "
            f"test, and are left out: {names}",
            *notes,
        )
    method = f"{FIELDS_METHOD}, fold {fold} of {n_folds} (from 0), {patch_size} pixels apart"
    split = replace(split, method=method, notes=notes, single_region_dropped=int(n_pixels[single].sum()))
    return _thinned(split, count, rng)


def _check(gt, fold: int, n_folds: int, count: float | None, mode: str) -> None:
    if n_folds < 2:
        raise InputError(f"--folds must be at least 2, not {n_folds}")
    if not 0 <= fold < n_folds:
        raise InputError(f"--fold must lie between 0 and {n_folds - 1} (--folds {n_folds}), not {fold}")
    if count is not None and not (count >= 1 and float(count).is_integer()):
        raise InputError(
            f"--training_sample {count:g}: with --sampling_mode {mode} it is a number of pixels per class, such as 50"
        )
    if not (gt > 0).any():
        raise InputError("the ground truth has no labelled pixel")


def _test_fold(gt, folds, fold, n_folds, patch_size, class_names, palette) -> Split:
    """Test the pixels of one fold, and train on those of the others that are far enough from all of them."""
    train, test = _cut(gt, folds == fold, patch_size)
    n_buffer = int((gt > 0).sum() - (train > 0).sum() - (test > 0).sum())
    labelled, trained, tested = (count_classes(labels, len(class_names)) for labels in (gt, train, test))
    unlearned = np.where(trained == 0, tested, 0)
    test[np.isin(test, np.flatnonzero(unlearned) + 1)] = 0
    if not test.any():
        raise InputError(
            f"fold {fold} of {n_folds} leaves no class with test pixels and, {patch_size} or more from them, training "
            "pixels; lower --patch_size and --buffer, or give another --block_size or other --folds"
        )
    near = f"{n_buffer:,} labelled pixels nearer than {patch_size} to a test pixel"
    notes = [f"{near} neither train nor test (the buffer)"]
    if unlearned.any():
        names = ", ".join(f"{class_names[i]} ({unlearned[i]:,})" for i in np.flatnonzero(unlearned))
        notes.append(f"this fold leaves no training pixel to some classes, whose test pixels are dropped: {names}")
    untested = [class_names[i] for i in np.flatnonzero((tested == 0) & (labelled > 0))]
    if untested:
        notes.append(f"this fold has no test pixel of some classes: {', '.join(untested)}")
    return Split(
        train,
        test,
        tuple(class_names),
        tuple(palette),
        METHOD,
        tuple(notes),
        buffer_dropped=n_buffer,
        unlearned_dropped=int(unlearned.sum()),
        drawn_from=gt,
    )


def choose_block_size(gt, n_folds: int, patch_size: int) -> int:
    """Choose the side of the blocks with which the most classes are both trained and tested, counted over all folds.

    Among equally good sides the largest is taken: it loses the fewest pixels to the buffer and puts most test pixels
    farther from the training pixels.

    Args:
        gt: ground truth, (H, W), 0 = unlabelled.
        n_folds: number of folds.
        patch_size: P; the sides that are tried are multiples of it, SIDES.
    """
    best, most = SIDES[0] * patch_size, 0
    for side in (multiple * patch_size for multiple in SIDES):
        folds = assign_blocks(gt, n_folds, side)
        if folds.max() < n_folds - 1:
            continue
        cuts = (_cut(gt, folds == fold, patch_size) for fold in range(n_folds))
        both = 0
        for train, test in cuts:
            both += int(((count_classes(train, gt.max()) > 0) & (count_classes(test, gt.max()) > 0)).sum())
        if both >= most:
            best, most = side, both
    return best


def interval_blocks(split: Split) -> tuple[np.ndarray, str]:
    """Number the pieces of land whose pixels are right or wrong together, which a block bootstrap draws.

    Args:
        split: any.
    Returns:
        (H, W) int64, from 0, and what they are in words: the blocks of spatial cross-validation, and those that it
        would have at patch INTERVAL_PATCH for other splits, whatever the model's patch, so that models compare; whole
        regions if whole fields are held out.
    """
    if split.method.startswith(FIELDS_METHOD):
        assert split.drawn_from is not None
        return find_regions(split.drawn_from), "regions"
    side = split.block_size or choose_block_size(split.labelled, FOLDS, INTERVAL_PATCH)
    return square_blocks(split.train.shape, side), f"blocks of {side} x {side} pixels"


def assign_blocks(gt, n_folds: int, side: int) -> np.ndarray:
    """Deal the blocks to the folds, so that every class and all labelled pixels are spread as evenly as possible.

    Each block holds a fraction of the pixels of each class and of all labelled pixels. Blocks with the largest fraction
    of a class come first; each goes to the fold in which it adds least to the sum of squared fractions.

    Args:
        gt: ground truth, (H, W), 0 = unlabelled.
        n_folds: number of folds.
        side: of the blocks, in pixels; those at the right and lower edge may be smaller.
    Returns:
        (H, W) int64, the fold of every pixel; -1 in blocks without a labelled pixel.
    """
    blocks = square_blocks(gt.shape, side)
    labelled = gt > 0
    counts = np.zeros((blocks.max() + 1, gt.max() + 1))
    np.add.at(counts, (blocks[labelled], gt[labelled]), 1)
    counts[:, 0] = counts.sum(1)  # all labelled pixels, in the place of the unlabelled
    fractions = np.ceil(FRACTION_UNITS * counts / np.maximum(counts.sum(0), 1)).astype(np.int64)
    fold_of = np.full(len(fractions), -1)
    held = np.zeros((n_folds, fractions.shape[1]), dtype=np.int64)
    for block in np.argsort(-fractions.max(1), kind="stable"):
        if fractions[block, 0]:
            fold_of[block] = (held @ fractions[block]).argmin()
            held[fold_of[block]] += fractions[block]
    return fold_of[blocks]


def _cut(gt, tested, patch_size):
    """Return the training and test label maps: the pixels that are `tested`, and those far enough from all of them."""
    test = np.where(tested, gt, 0)
    near = distance_transform_cdt(test == 0, "chessboard") < patch_size
    return np.where(near, 0, gt), test


def _thinned(split: Split, count: float | None, rng: np.random.Generator) -> Split:
    """Train on at most `count` pixels of each class; None for all."""
    if count is None:
        return split
    kept = np.zeros_like(split.train)
    for label in np.unique(split.train[split.train > 0]):
        kept.flat[rng.permutation(np.flatnonzero(split.train == label))[: int(count)]] = label
    return replace(split, train=kept, method=f"{split.method}, at most {int(count)} pixels of each class train")
