"""The tests between runs and methods, against enumeration and figures worked out by hand."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from made_runs import SIDE, make_run

from reporting.comparison.runs import find_runs
from reporting.comparison.significance import holm, mcnemar, mcnemar_of_runs, pairs_needed, smallest_p, wilcoxon
from utils import InputError


def right(both, only_first, only_second, neither):
    """Which pixels two maps have right, given how many pixels are of each kind."""
    counts = (both, only_first, only_second, neither)
    return (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )


# McNemar


@pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 3), (2, 9), (10, 1), (0, 24), (12, 12)])
def test_few_discordant_pixels_are_tested_by_the_binomial_itself(b, c):
    test = mcnemar(*right(100, b, c, 7))
    n = b + c
    chance = [math.comb(n, k) / 2**n for k in range(n + 1)]
    assert (test.only_first, test.only_second, test.statistic) == (b, c, None)
    assert test.p == pytest.approx(sum(p for p in chance if p <= chance[b] * (1 + 1e-9)), rel=1e-12)


@pytest.mark.parametrize(("b", "c"), [(0, 25), (13, 12), (40, 60), (300, 211)])
def test_many_discordant_pixels_are_tested_by_chi_square_with_continuity_correction(b, c):
    test = mcnemar(*right(5, b, c, 0))
    statistic = max(0, abs(b - c) - 1) ** 2 / (b + c)
    assert test.statistic == pytest.approx(statistic, rel=1e-12)
    assert test.p == pytest.approx(math.erfc(math.sqrt(statistic / 2)), rel=1e-9)  # chi-square of one degree


def test_two_maps_that_are_right_on_the_same_pixels_do_not_differ():
    test = mcnemar(*right(10, 0, 0, 5))
    assert (test.only_first, test.only_second, test.p) == (0, 0, 1.0)


def test_the_runs_are_compared_on_their_test_pixels_alone(tmp_path):
    test = np.zeros((SIDE, SIDE), dtype=np.int64)
    test[5, :12] = 2
    first, second = (read(path) for path in make_pair(tmp_path, test))
    found = mcnemar_of_runs(first, second)
    a, b = (run.prediction[5, :12] == 2 for run in (first, second))
    assert found.only_first == sum(x and not y for x, y in zip(a, b, strict=True))
    assert found.only_second == sum(y and not x for x, y in zip(a, b, strict=True))
    assert found.only_first + found.only_second > 0


def make_pair(tmp_path, test, other=None):
    return (
        make_run(tmp_path, "CNN", accuracy=0.5, test=test),
        make_run(tmp_path, "MiM-v1", accuracy=0.6, test=test if other is None else other),
    )


def read(path):
    return find_runs([path])[0]


def test_other_test_pixels_are_refused(tmp_path):
    test = np.zeros((SIDE, SIDE), dtype=np.int64)
    test[5, :12] = 2
    first, second = map(read, make_pair(tmp_path, test, np.roll(test, 1, axis=1)))
    with pytest.raises(InputError, match=f"{first.folder} and {second.folder} have different test pixels"):
        mcnemar_of_runs(first, second)


@pytest.mark.parametrize("damage", ["no maps", "no prediction", "cut maps", "other size"])
def test_maps_that_are_missing_or_damaged_are_one_sentence(tmp_path, damage):
    first, second = map(read, make_pair(tmp_path, None))
    maps, prediction = second.folder / "maps.npz", second.folder / "prediction.npy"
    if damage == "no maps":
        maps.unlink()
    elif damage == "no prediction":
        prediction.unlink()
    elif damage == "cut maps":
        maps.write_bytes(maps.read_bytes()[:200])
    else:
        np.save(prediction, np.ones((3, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="train the run again"):
        mcnemar_of_runs(first, second)


# Wilcoxon and Holm


def by_enumeration(differences):
    """Statistic and two-sided p over all signs of the ranks; the ranks counted out."""
    size = [abs(d) for d in differences if d]
    ranks = [sum(s < own for s in size) + (sum(s == own for s in size) + 1) / 2 for own in size]
    signs = [d > 0 for d in differences if d]
    total = sum(ranks)

    def smaller(pattern):
        above = sum(rank for rank, sign in zip(ranks, pattern, strict=True) if sign)
        return min(above, total - above)

    own = smaller(signs)
    patterns = list(product((False, True), repeat=len(ranks)))
    return own, sum(smaller(pattern) <= own for pattern in patterns) / len(patterns)


def test_wilcoxons_p_is_that_of_all_signs_with_ties_and_without():
    rng = np.random.default_rng(0)
    for trial in range(60):
        n = int(rng.integers(1, 10))
        differences = rng.integers(-4, 5, n) if trial % 2 else rng.normal(0.5, 1, n)
        if not differences.any():
            continue
        statistic, p = by_enumeration(differences.tolist())
        found = wilcoxon(differences)
        assert found.n == (differences != 0).sum()
        assert found.statistic == statistic
        assert found.p == pytest.approx(p, abs=1e-12)


def test_wilcoxons_p_agrees_with_scipy_where_scipy_is_exact():
    rng = np.random.default_rng(1)
    for n in (8, 20, 40):
        differences = rng.normal(0.3, 1, n)
        theirs = scipy.stats.wilcoxon(differences, method="exact")
        statistic, p = tuple(theirs)[:2]
        assert wilcoxon(differences).statistic == statistic
        assert wilcoxon(differences).p == pytest.approx(p, rel=1e-9)


def test_differences_of_as_many_pixels_are_ties_though_their_floats_differ():
    tenths = np.array([0.3 - 0.2, 0.2 - 0.1, -(0.9 - 0.8), 0.5 - 0.1])  # three times a tenth, not to the bit
    assert len(set(np.abs(tenths))) > 2
    statistic, p = by_enumeration([1, 1, -1, 4])
    assert (wilcoxon(tenths).statistic, wilcoxon(tenths).p) == (statistic, pytest.approx(p))


def test_pairs_without_a_difference_say_nothing():
    assert wilcoxon([0.0, 0.0]).p == 1.0
    assert wilcoxon([0.0, 0.1, 0.2, 0.0]) == wilcoxon([0.1, 0.2])


def test_holm_as_worked_out_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9, 0.02]), [1.0, 1.0, 0.06])
    np.testing.assert_allclose(holm([0.04]), [0.04])
    np.testing.assert_allclose(holm([0.02, 0.02]), [0.04, 0.04])
    assert len(holm([])) == 0


@pytest.mark.parametrize("n_pairs", range(1, 12))
def test_the_smallest_p_is_that_of_differences_in_one_direction(n_pairs):
    assert wilcoxon(np.arange(1, n_pairs + 1)).p == pytest.approx(smallest_p(n_pairs), rel=1e-12)


@pytest.mark.parametrize("n_tests", [1, 3, 10, 105])
def test_from_the_number_needed_on_a_p_can_be_significant_and_not_before(n_tests):
    needed = pairs_needed(n_tests)
    assert n_tests * smallest_p(needed) <= 0.05 < n_tests * smallest_p(needed - 1)
    if n_tests == 1:
        assert needed == 6
