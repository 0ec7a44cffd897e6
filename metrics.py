"""Compute the scores of a classification and their confidence intervals; fractions, never per cent."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

N_DRAWS = 2000  # of a bootstrap
LEVEL = 0.95  # of its intervals
FEWEST_BLOCKS = 5  # with which an interval is given
DRAWN_AT_ONCE = 2**22  # numbers of blocks, which bounds the memory
DISTANCES = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 8), (9, 12), (13, 20), (21, None))  # pixels, from and to


@dataclass(frozen=True)
class Scores:
    """Hold the scores of one confusion matrix; NaN if a score is not defined.

    Attributes:
        overall_accuracy: fraction of the pixels that are right.
        average_accuracy: mean of the recalls of the classes that have pixels.
        kappa: Cohen's kappa, 1 = perfect, 0 = chance.
        recall, f1: per class, (K,) float64; NaN for a class without pixels.
        support: pixels per class, (K,) int64.
    """

    overall_accuracy: float
    average_accuracy: float
    kappa: float
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def confusion_matrix(target: ArrayLike, prediction: ArrayLike, n_classes: int) -> np.ndarray:
    """Count the pairs of target and prediction.

    Args:
        target, prediction: classes 0..K-1, any shape, the same for both.
        n_classes: K.
    Returns:
        (K, K) int64; rows are the ground truth, columns the prediction.
    Raises:
        ValueError: shapes that differ, or a class outside 0..K-1.
    """
    target, prediction = np.asarray(target), np.asarray(prediction)
    if target.shape != prediction.shape:
        raise ValueError(f"target and prediction differ in shape: {target.shape} and {prediction.shape}")
    for name, classes in (("target", target), ("prediction", prediction)):
        if classes.size and (classes.min() < 0 or classes.max() >= n_classes):
            raise ValueError(f"{name} holds classes outside 0..{n_classes - 1}")
    pairs = target.astype(np.int64).ravel() * n_classes + prediction.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def scores(confusion: ArrayLike) -> Scores:
    """Compute all scores of a confusion matrix, (K, K), rows = ground truth.

    Raises:
        ValueError: a matrix that is not square.
    """
    confusion = np.asarray(confusion, dtype=np.int64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is square, not {confusion.shape}")
    right, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    overall, average, kappa, recall = _scores_of_counts(right, support, predicted)
    f1 = 2 * right / np.where(support > 0, support + predicted, np.nan)
    return Scores(float(overall), float(average), float(kappa), recall, f1, support)


def _scores_of_counts(right: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Compute OA, AA, kappa and the recalls from the counts of each class, (..., K): right, labelled, predicted."""
    total = support.sum(-1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / np.where(support > 0, support, np.nan)
        overall = right.sum(-1) / total
        chance = (support.astype(np.float64) * predicted).sum(-1) / total**2
        kappa = (overall - chance) / (1 - chance)
        average = np.nansum(recall, axis=-1) / (support > 0).sum(-1)
    return overall, average, kappa, recall


def accuracy_by_distance(correct: ArrayLike, distance: ArrayLike) -> list[dict]:
    """Compute the overall accuracy of the test pixels in steps of their distance to the nearest training pixel.

    Args:
        correct: whether the prediction is right, (n,) bool.
        distance: chessboard distance of the same pixels, (n,) integer, at least 1.
    Returns:
        Per step of DISTANCES with pixels: "from" and "to" in pixels, both included ("to" is None in the last),
        "n" pixels, "accuracy" as a fraction.
    Raises:
        ValueError: shapes that differ, or a distance below 1.
    """
    correct, distance = np.asarray(correct, dtype=bool), np.asarray(distance)
    if correct.shape != distance.shape:
        raise ValueError(f"correct and distance differ in shape: {correct.shape} and {distance.shape}")
    if (distance < 1).any():
        raise ValueError("a test pixel is 1 or more away from every training pixel")
    entries = []
    for first, last in DISTANCES:
        inside = (distance >= first) & (distance <= (np.inf if last is None else last))
        if inside.any():
            entries.append(
                {"from": first, "to": last, "n": int(inside.sum()), "accuracy": float(correct[inside].mean())}
            )
    return entries


def square_blocks(shape: tuple[int, int], side: int) -> np.ndarray:
    """Number square blocks of a scene from its top left corner.

    Args:
        shape: (H, W).
        side: of the blocks in pixels; those at the right and lower edge may be smaller.
    Returns:
        (H, W) int64, from 0.
    """
    rows, columns = (np.arange(size) // side for size in shape)
    return rows[:, None] * (columns[-1] + 1) + columns


def block_counts(target: ArrayLike, prediction: ArrayLike, blocks: ArrayLike, n_blocks: int, n_classes: int):
    """Count the pixels of each class in each block, of which the scores are functions.

    Args:
        target, prediction: classes 0..K-1, (n,).
        blocks: the block of each pixel, 0..n_blocks-1, (n,).
        n_blocks: number of blocks; some may have no pixel.
        n_classes: K.
    Returns:
        (n_blocks, 3, K) int64: pixels that are right, that have the class in the ground truth, that are predicted so.
    """
    target, prediction, blocks = (np.asarray(values, dtype=np.int64) for values in (target, prediction, blocks))
    right = target == prediction
    counts = np.empty((n_blocks, 3, n_classes), dtype=np.int64)
    for i, (block, label) in enumerate(((blocks[right], target[right]), (blocks, target), (blocks, prediction))):
        counted = np.bincount(block * n_classes + label, minlength=n_blocks * n_classes)
        counts[:, i] = counted.reshape(n_blocks, n_classes)
    return counts


def block_bootstrap(counts: np.ndarray, *, n_draws: int = N_DRAWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Compute the scores of scenes that are put together from blocks of this scene, drawn with replacement.

    The pixels of a field are right or wrong together, so they say less than as many independent pixels; whole blocks
    are drawn instead. All leading dimensions share their draws, so that differences between them are paired.

    Args:
        counts: of `block_counts`, (..., n_blocks, 3, K).
        n_draws: number of scenes.
        seed: of the draws.
    Returns:
        "overall_accuracy", "average_accuracy", "kappa", (n_draws, ...), and "recall", (n_draws, ..., K); NaN if a draw
        lacks what a score needs.

    Source: Lahiri, Resampling methods for dependent data (2003), chapter 12.
    """
    counts = counts[..., counts.any((*range(counts.ndim - 3), -2, -1)), :, :]
    n_blocks = counts.shape[-3]
    table = np.moveaxis(counts, -3, 0).reshape(n_blocks, -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = []
    at_once = max(1, DRAWN_AT_ONCE // max(n_blocks, table.shape[1], 1))
    for first in range(0, n_draws, at_once):
        n = min(at_once, n_draws - first)
        times = rng.multinomial(n_blocks, np.full(n_blocks, 1 / max(n_blocks, 1)), size=n)
        totals = (times @ table).reshape(n, *counts.shape[:-3], 3, counts.shape[-1])
        drawn.append(_scores_of_counts(totals[..., 0, :], totals[..., 1, :], totals[..., 2, :]))
    names = ("overall_accuracy", "average_accuracy", "kappa", "recall")
    return {name: np.concatenate(values) for name, values in zip(names, zip(*drawn, strict=True), strict=True)}


def interval(draws: np.ndarray, n_blocks: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute a confidence interval from the draws of a bootstrap.

    Percentiles alone are too narrow if there are few blocks; they are taken as much farther out as Student's
    distribution is wider than the normal one.

    Args:
        draws: (n_draws,); NaN is left out.
        n_blocks: number of blocks that were drawn from.
        level: of the interval.
    Returns:
        Lower and upper end; NaN if there are fewer than FEWEST_BLOCKS blocks or no draws.

    Source: the expanded percentile interval, Hesterberg, The American Statistician 69 (2015).
    """
    from scipy.special import ndtr, stdtrit  # needed here alone

    draws = draws[~np.isnan(draws)]
    if n_blocks < FEWEST_BLOCKS or not len(draws):
        return math.nan, math.nan
    tail = ndtr(math.sqrt(n_blocks / (n_blocks - 1)) * stdtrit(n_blocks - 1, (1 - level) / 2))
    low, high = np.quantile(draws, (tail, 1 - tail))
    return float(low), float(high)


def score_intervals(counts: np.ndarray) -> dict:
    """Compute the confidence intervals of a run's scores by `block_bootstrap`.

    Args:
        counts: of `block_counts`, (n_blocks, 3, K).
    Returns:
        "n_blocks" with test pixels, "level", "draws"; "overall_accuracy", "average_accuracy", "kappa": each lower and
        upper end; "class_recall", K such pairs. The ends are NaN where `interval` gives none.
    """
    drawn = block_bootstrap(counts)
    n_blocks = int(counts[:, 1].any(-1).sum())
    with_class = (counts[:, 1] > 0).sum(0)
    names = ("overall_accuracy", "average_accuracy", "kappa")
    return {
        "n_blocks": n_blocks,
        "level": LEVEL,
        "draws": N_DRAWS,
        **{name: interval(drawn[name], n_blocks) for name in names},
        "class_recall": [interval(drawn["recall"][:, i], int(n)) for i, n in enumerate(with_class)],
    }
