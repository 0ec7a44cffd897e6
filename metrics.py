"""Compute the scores of a classification from one confusion matrix; fractions, never per cent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

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
    total = confusion.sum()
    hits = confusion.diagonal()
    support, predicted = confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / np.where(support > 0, support, np.nan)
        f1 = 2 * hits / np.where(support > 0, support + predicted, np.nan)
        overall = hits.sum() / np.float64(total)
        chance = (support.astype(np.float64) * predicted).sum() / np.float64(total) ** 2
        kappa = (overall - chance) / (1 - chance)
    average = recall[support > 0].mean() if total else np.nan
    return Scores(float(overall), float(average), float(kappa), recall, f1, support)


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
