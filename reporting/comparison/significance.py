"""Test whether two results differ by more than chance: McNemar between two runs, Wilcoxon with Holm between methods."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from reporting.run_folder import Run
from utils import InputError

LEVEL = 0.05
FEW_DISCORDANT = 25  # fewer are tested by the exact binomial, others by chi-square


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two maps on the same pixels.

    Attributes:
        only_first, only_second: pixels that only the first, or only the second, has right.
        statistic: chi-square with continuity correction, one degree of freedom; None if the test is exact.
        p: two-sided.
    """

    only_first: int
    only_second: int
    statistic: float | None
    p: float


@dataclass(frozen=True)
class Wilcoxon:
    """Wilcoxon's signed-rank test.

    Attributes:
        n: pairs that differ.
        statistic: the smaller of the two sums of ranks.
        p: two-sided, exact.
    """

    n: int
    statistic: float
    p: float


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Compare which of the same pixels two maps have right.

    Args:
        first_right, second_right: (n,) bool.
    Source: McNemar, Psychometrika 12 (1947); the correction is Edwards' (1948).
    """
    from scipy import stats  # slow to import, and needed for the tests alone

    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    discordant = only_first + only_second
    if discordant < FEW_DISCORDANT:
        p = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
        return McNemar(only_first, only_second, None, float(p))
    statistic = max(abs(only_first - only_second) - 1, 0) ** 2 / discordant
    return McNemar(only_first, only_second, statistic, float(stats.chi2.sf(statistic, 1)))


def common_test_pixels(first: Run, second: Run) -> np.ndarray:
    """Give the test pixels of two runs as a label map; InputError if they differ, or maps are missing or damaged."""
    test, other = (run.maps["test"] for run in (first, second))
    if first.class_names != second.class_names or not np.array_equal(test, other):
        raise InputError(f"{first.folder} and {second.folder} have different test pixels")
    for run in (first, second):
        if run.prediction.shape != test.shape:
            raise InputError(f"{run.folder}: prediction.npy does not fit maps.npz; train the run again")
    return test


def mcnemar_of_runs(first: Run, second: Run) -> McNemar:
    """Compare two runs on their test pixels.

    Raises:
        InputError: the test pixels differ, or maps are missing or damaged.
    """
    test = common_test_pixels(first, second)
    tested = test > 0
    return mcnemar(*(run.prediction[tested] == test[tested] for run in (first, second)))


def wilcoxon(differences: ArrayLike) -> Wilcoxon:
    """Test whether paired differences are symmetric about zero; pairs without a difference are left out.

    The distribution over all signs is built up rank by rank, so that p is exact with ties too. SciPy approximates it
    from some number of pairs on, which depends on its version.

    Args:
        differences: (n,).

    Source: Wilcoxon, Biometrics Bulletin 1 (1945).
    """
    from scipy import stats

    values = np.round(np.asarray(differences, dtype=np.float64), 12)  # k/n - j/n ties as k - j does
    values = values[values != 0]
    twice = np.round(2 * stats.rankdata(np.abs(values))).astype(np.int64)  # ranks of ties end in one half
    below, above = twice[values < 0].sum(), twice[values > 0].sum()
    chance = np.zeros(int(twice.sum()) + 1)  # of each sum of the ranks with a positive sign
    chance[0] = 1
    for rank in twice:
        shifted = np.zeros_like(chance)
        shifted[rank:] = chance[: len(chance) - rank]
        chance = (chance + shifted) / 2
    smaller = int(min(below, above))
    return Wilcoxon(len(values), smaller / 2, min(1.0, 2 * float(chance[: smaller + 1].sum())))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjust p values for multiple tests, so that the chance of any false finding stays below the level.

    Args:
        p_values: (n,).
    Returns:
        Adjusted p values, (n,).

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def smallest_p(n_pairs: int) -> float:
    """Return the smallest two-sided p of Wilcoxon's test: all pairs differ in the same direction."""
    return min(1.0, 2 / 2**n_pairs)


def pairs_needed(n_tests: int) -> int:
    """Return how many pairs one of `n_tests` needs to be significant at LEVEL after Holm's correction."""
    return math.ceil(math.log2(2 * n_tests / LEVEL))
