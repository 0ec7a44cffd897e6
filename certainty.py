"""How certain a classifier is: calibration of its probabilities, and sets of classes that hold the right one."""

import math

import numpy as np
from numpy.typing import ArrayLike

N_BINS = 15  # of the confidence
COVERAGES = tuple(percent / 100 for percent in range(100, 0, -5))  # from all pixels to the most certain twentieth
TEMPERATURES = (0.05, 20.0)  # lowest and highest that are tried


def calibration(right: ArrayLike, confidence: ArrayLike) -> dict:
    """Compare how certain a classifier is with how often it is right.

    Args:
        right: whether the prediction is right, (n,) bool.
        confidence: probability of the predicted class, (n,), in [0, 1].
    Returns:
        "expected_calibration_error", the mean over the pixels of the difference between confidence and accuracy, in
        N_BINS bins of equal width; "bins", those with pixels: "from" and "to", "n", mean "confidence", "accuracy".

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.
    """
    right, confidence = np.asarray(right, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    number = np.clip(np.ceil(confidence * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)  # a bin has its upper end
    bins = []
    for i in np.unique(number):
        inside = number == i
        means = {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())}
        bins.append({"from": i / N_BINS, "to": (i + 1) / N_BINS, "n": int(inside.sum()), **means})
    error = sum(each["n"] * abs(each["confidence"] - each["accuracy"]) for each in bins) / max(len(right), 1)
    return {"expected_calibration_error": error if bins else math.nan, "bins": bins}


def accuracy_by_coverage(right: ArrayLike, confidence: ArrayLike) -> list[dict]:
    """Compute the overall accuracy of the most certain pixels, if the others are left out.

    Args:
        right: whether the prediction is right, (n,) bool.
        confidence: probability of the predicted class, (n,).
    Returns:
        For each of COVERAGES, largest first: "coverage" (fraction of the pixels that are kept), "n" pixels,
        "accuracy". Of equally certain pixels any are kept: the accuracy is the mean over all choices.

    Source: El-Yaniv and Wiener, Journal of Machine Learning Research 11 (2010).
    """
    right, confidence = np.asarray(right, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    in_group = np.bincount(group.ravel(), weights=right, minlength=len(sizes))
    before, right_before = (np.concatenate([[0], np.cumsum(values)]) for values in (sizes, in_group))
    entries = []
    for coverage in COVERAGES if len(right) else ():
        n = max(1, round(coverage * len(right)))
        last = int(np.searchsorted(before, n)) - 1  # the group in which the n-th pixel is
        kept = right_before[last] + (n - before[last]) * in_group[last] / sizes[last]
        entries.append({"coverage": coverage, "n": n, "accuracy": float(kept / n)})
    return entries


def fit_temperature(probabilities: ArrayLike, target: ArrayLike) -> float:
    """Find the temperature T with which the probabilities p^(1 / T), normalised, describe the pixels best.

    Above 1 the classifier was too certain, below 1 not certain enough. The order of the classes stays, so the labels
    do too.

    Args:
        probabilities: of the classes, (n, K), rows with sum 1.
        target: right classes 0..K-1 of the same pixels, (n,), which did not train the classifier.
    Returns:
        The temperature with the highest likelihood, from the lowest to the highest of TEMPERATURES.
    Raises:
        ValueError: no pixels.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equation 9.
    """
    from scipy.optimize import minimize_scalar  # needed here alone
    from scipy.special import log_softmax

    p, target = np.asarray(probabilities, dtype=np.float64), np.asarray(target, dtype=np.int64)
    if not len(target):
        raise ValueError("a temperature cannot be fitted without pixels")
    logarithms = np.log(np.maximum(p, np.finfo(np.float32).tiny))

    def loss(log_temperature: float) -> float:
        tempered = log_softmax(logarithms / math.exp(log_temperature), axis=1)
        return -float(tempered[np.arange(len(target)), target].mean())

    found = minimize_scalar(loss, bounds=[math.log(each) for each in TEMPERATURES], method="bounded")
    return math.exp(found.x)


def conformal_threshold(p_right: ArrayLike, risk: float) -> float:
    """Find the smallest probability with which a class joins a pixel's prediction set, by split conformal prediction.

    If the pixels here and those that are predicted are drawn alike (exchangeable), the set of a pixel lacks the right
    class with a probability of at most `risk`.

    Args:
        p_right: probabilities of the right class, (n,), of pixels that did not train the classifier.
        risk: wanted fraction of sets without the right class, above 0 and below 1.
    Returns:
        The probability; 0, so that each set holds all classes, if n is too small for the risk, below 1 / risk - 1.
    Raises:
        ValueError: a risk outside 0..1.

    Source: Vovk et al., Algorithmic learning in a random world (2005), chapter 4; Sadinle et al., Journal of the
        American Statistical Association 114 (2019).
    """
    if not 0 < risk < 1:
        raise ValueError(f"the risk of a prediction set lies above 0 and below 1, not {risk:g}")
    falling = np.sort(np.asarray(p_right, dtype=np.float64))[::-1]
    rank = math.ceil(round((len(falling) + 1) * (1 - risk), 9))  # 0.9 x 10 is 9, whatever the last digit
    return float(falling[rank - 1]) if rank <= len(falling) else 0.0


def too_few_for_sets(n: int, risk: float) -> str:
    """Say that the prediction sets of n validation pixels hold all classes."""
    least = math.ceil(round(1 / risk - 1, 9))
    return f"a risk of {risk:g} needs {least} validation pixels, there are {n}: each prediction set holds all classes"


def prediction_sets(probabilities: ArrayLike, threshold: float) -> np.ndarray:
    """Give the classes of each pixel's prediction set, (n, K) bool.

    A set holds the classes with at least the probability of the threshold, and always the most probable one, which is
    the label on the map.

    Args:
        probabilities: of the classes, (n, K).
        threshold: of `conformal_threshold`.
    """
    probabilities = np.asarray(probabilities)
    sets = probabilities >= threshold
    sets[np.arange(len(sets)), probabilities.argmax(1)] = True
    return sets


def set_scores(sets: np.ndarray, target: ArrayLike) -> dict:
    """Measure prediction sets on pixels whose class is known.

    Args:
        sets: of `prediction_sets`, (n, K).
        target: right classes 0..K-1, (n,).
    Returns:
        "coverage", the fraction of the sets that hold the right class; "class_coverage", the same for the pixels of
        each class; "mean_size", and "sizes", the number of sets with 1, 2, ..., K classes. NaN without pixels.
    """
    target = np.asarray(target, dtype=np.int64)
    n_classes = sets.shape[1]
    held = sets[np.arange(len(target)), target]
    pixels = np.bincount(target, minlength=n_classes)
    per_class = np.bincount(target, weights=held, minlength=n_classes) / np.where(pixels > 0, pixels, np.nan)
    sizes = sets.sum(1)
    return {
        "coverage": float(held.mean()) if len(held) else math.nan,
        "class_coverage": per_class,
        "mean_size": float(sizes.mean()) if len(held) else math.nan,
        "sizes": np.bincount(sizes, minlength=n_classes + 1)[1:],
    }
