"""Scores against scikit-learn and by hand."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.ndimage import gaussian_filter
from sklearn import metrics as sklearn_metrics

from metrics import (
    accuracy_by_distance,
    block_bootstrap,
    block_counts,
    confusion_matrix,
    interval,
    score_intervals,
    scores,
    square_blocks,
)

sizes = settings(max_examples=60, deadline=None)


@st.composite
def cases(draw):
    """Target, prediction and K; classes may lack pixels or predictions, and the prediction may be good or poor."""
    n_classes, n = draw(st.integers(2, 7)), draw(st.integers(1, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    target, prediction = rng.integers(0, draw(st.integers(1, n_classes)), n), rng.integers(0, n_classes, n)
    right = rng.random(n) < draw(st.floats(0, 1))
    return target, np.where(right, target, prediction), n_classes


@sizes
@given(case=cases())
def test_all_scores_equal_scikit_learns(case):
    target, prediction, n_classes = case
    labels = range(n_classes)
    confusion = confusion_matrix(target, prediction, n_classes)
    result = scores(confusion)
    present = result.support > 0
    none: Any = None  # the scores of each class; the annotations of scikit-learn lack it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, on classes without pixels
        expected = {
            "recall": sklearn_metrics.recall_score(target, prediction, labels=labels, average=none),
            "f1": sklearn_metrics.f1_score(target, prediction, labels=labels, average=none),
            "overall": sklearn_metrics.accuracy_score(target, prediction),
            "average": sklearn_metrics.balanced_accuracy_score(target, prediction),
            "kappa": sklearn_metrics.cohen_kappa_score(target, prediction),
        }
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(target, prediction, labels=labels))
    np.testing.assert_array_equal(result.support, np.bincount(target, minlength=n_classes))
    np.testing.assert_allclose(result.recall[present], expected["recall"][present])
    np.testing.assert_allclose(result.f1[present], expected["f1"][present])
    assert result.overall_accuracy == pytest.approx(expected["overall"])
    assert result.average_accuracy == pytest.approx(expected["average"])
    if len({*target, *prediction}) > 1:
        assert result.kappa == pytest.approx(expected["kappa"], abs=1e-12)
    assert np.isnan(result.recall[~present]).all()
    assert np.isnan(result.f1[~present]).all()


def test_rows_are_the_ground_truth_and_columns_the_prediction():
    np.testing.assert_array_equal(confusion_matrix([0, 0, 1, 2], [0, 1, 1, 0], 3), [[1, 1, 0], [0, 1, 0], [1, 0, 0]])


def test_a_matrix_worked_by_hand():
    result = scores([[8, 2], [1, 9]])
    assert result.overall_accuracy == pytest.approx(0.85)
    assert result.kappa == pytest.approx((0.85 - 0.5) / 0.5)
    np.testing.assert_allclose(result.recall, [0.8, 0.9])
    np.testing.assert_allclose(result.f1, [16 / 19, 18 / 21])
    np.testing.assert_array_equal(result.support, [10, 10])


def test_a_perfect_prediction_scores_1_everywhere():
    result = scores(np.diag([5, 1, 40]))
    assert (result.overall_accuracy, result.average_accuracy, result.kappa) == (1, 1, 1)
    np.testing.assert_array_equal(result.recall, 1)
    np.testing.assert_array_equal(result.f1, 1)


def test_a_class_without_pixels_is_left_out_of_the_average_but_its_predictions_count():
    result = scores([[3, 0, 1], [0, 4, 0], [0, 0, 0]])
    np.testing.assert_array_equal(result.recall, [0.75, 1, np.nan])
    np.testing.assert_allclose(result.f1, [6 / 7, 1, np.nan])
    assert result.average_accuracy == pytest.approx(0.875)
    assert result.overall_accuracy == pytest.approx(7 / 8)


def test_what_is_not_defined_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = scores(np.zeros((3, 3)))
        one_class = scores([[5, 0], [0, 0]])
    assert np.isnan([nothing.overall_accuracy, nothing.average_accuracy, nothing.kappa]).all()
    assert np.isnan(nothing.recall).all()
    assert one_class.overall_accuracy == 1
    assert np.isnan(one_class.kappa)


def test_small_types_and_large_counts_do_not_overflow():
    classes = np.full(3, 200, dtype=np.uint8)
    assert confusion_matrix(classes, classes, 256)[200, 200] == 3
    billions = np.full((2, 2), 3 * 10**9)
    assert scores(billions).kappa == pytest.approx(0)
    assert scores(billions).overall_accuracy == pytest.approx(0.5)


def test_maps_are_compared_pixel_by_pixel():
    target, prediction = np.array([[0, 1], [1, 0]]), np.array([[0, 1], [0, 0]])
    np.testing.assert_array_equal(confusion_matrix(target, prediction, 2), [[2, 0], [1, 1]])
    np.testing.assert_array_equal(confusion_matrix([], [], 2), np.zeros((2, 2)))


def test_input_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"differ in shape: \(3,\) and \(2,\)"):
        confusion_matrix([0, 1, 1], [0, 1], 2)
    for target, prediction, name in (([0, 2], [0, 1], "target"), ([0, 1], [0, 2], "prediction"), ([-1], [0], "target")):
        with pytest.raises(ValueError, match=rf"{name} holds classes outside 0\.\.1"):
            confusion_matrix(target, prediction, 2)
    for confusion in (np.zeros((2, 3)), np.zeros(4)):
        with pytest.raises(ValueError, match="a confusion matrix is square"):
            scores(confusion)


STEPS = {1: "1", 2: "2", 3: "3", 4: "4-5", 5: "4-5", 6: "6-8", 7: "6-8", 8: "6-8"}
STEPS |= dict.fromkeys(range(9, 13), "9-12") | dict.fromkeys(range(13, 21), "13-20")


@sizes
@given(pixels=st.lists(st.tuples(st.integers(1, 40), st.booleans())))
def test_the_accuracy_by_distance_counts_every_pixel_in_its_step(pixels):
    expected = {}
    for distance, correct in sorted(pixels):
        expected.setdefault(STEPS.get(distance, "21-None"), []).append(correct)
    entries = accuracy_by_distance([correct for _, correct in pixels], [distance for distance, _ in pixels])
    names = [f"{e['from']}-{e['to']}" if e["from"] != e["to"] else str(e["from"]) for e in entries]
    assert names == list(expected)
    assert [e["n"] for e in entries] == [len(each) for each in expected.values()]
    assert [e["accuracy"] for e in entries] == pytest.approx([np.mean(each) for each in expected.values()])


def test_distances_that_no_test_pixel_can_have_are_refused():
    with pytest.raises(ValueError, match="1 or more away"):
        accuracy_by_distance([True, False], [0, 1])
    with pytest.raises(ValueError, match=r"differ in shape: \(2,\) and \(1,\)"):
        accuracy_by_distance([True, False], [1])


# Intervals


@sizes
@given(case=cases(), n_blocks=st.integers(1, 6))
def test_the_counts_of_the_blocks_add_up_to_the_confusion_matrix(case, n_blocks):
    target, prediction, n_classes = case
    blocks = np.random.default_rng(0).integers(0, n_blocks, len(target))
    counts = block_counts(target, prediction, blocks, n_blocks, n_classes)
    confusion = confusion_matrix(target, prediction, n_classes)
    np.testing.assert_array_equal(counts.sum(0), [confusion.diagonal(), confusion.sum(1), confusion.sum(0)])
    for block in range(n_blocks):
        inside = confusion_matrix(target[blocks == block], prediction[blocks == block], n_classes)
        np.testing.assert_array_equal(counts[block], [inside.diagonal(), inside.sum(1), inside.sum(0)])


def test_each_draw_has_the_scores_of_the_scene_that_is_put_together_from_its_blocks():
    rng = np.random.default_rng(3)
    target, prediction, blocks = rng.integers(0, 4, 200), rng.integers(0, 4, 200), rng.integers(0, 9, 200)
    prediction = np.where(rng.random(200) < 0.5, target, prediction)
    blocks[blocks == 4] = 5  # a block without pixels is not drawn
    drawn = block_bootstrap(block_counts(target, prediction, blocks, 9, 4), n_draws=20, seed=7)
    times = np.random.default_rng(7).multinomial(8, np.full(8, 1 / 8), size=20)
    for i, of_draw in enumerate(times):
        scene = np.concatenate(
            [np.flatnonzero(blocks == b) for b, n in zip(np.unique(blocks), of_draw, strict=True) for _ in range(n)]
        )
        expected = scores(confusion_matrix(target[scene], prediction[scene], 4))
        for name in ("overall_accuracy", "average_accuracy", "kappa", "recall"):
            np.testing.assert_allclose(drawn[name][i], getattr(expected, name), err_msg=name)


def test_runs_that_are_resampled_together_share_their_draws_however_many_are_made_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    target, blocks = rng.integers(0, 3, 300), rng.integers(0, 12, 300)
    both = np.stack([block_counts(target, rng.integers(0, 3, 300), blocks, 12, 3) for _ in range(2)])
    together = block_bootstrap(both, n_draws=50, seed=5)
    for i in range(2):
        alone = block_bootstrap(both[i], n_draws=50, seed=5)
        np.testing.assert_array_equal(together["kappa"][:, i], alone["kappa"])
    monkeypatch.setattr("metrics.DRAWN_AT_ONCE", 100)
    np.testing.assert_allclose(block_bootstrap(both, n_draws=50, seed=5)["recall"], together["recall"])


def test_the_interval_of_a_mean_is_that_of_student_if_the_draws_are_normal():
    n, draws = 12, np.random.default_rng(0).normal(size=200_000)
    low, high = interval(draws, n)  # the standard deviation of a bootstrap's mean is sqrt((n - 1) / n) of Student's
    expected = stats.t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1))
    assert (low, high) == (pytest.approx(-expected, rel=0.02), pytest.approx(expected, rel=0.02))


def test_few_blocks_have_no_interval():
    assert np.isnan(interval(np.arange(100.0), 4)).all() and np.isfinite(interval(np.arange(100.0), 5)).all()
    assert np.isnan(interval(np.full(9, np.nan), 8)).all()
    target, blocks = np.array([0] * 30 + [1] * 3), np.arange(33) % 10
    found = score_intervals(block_counts(target, target, blocks, 12, 3))
    assert found["n_blocks"] == 10 and found["overall_accuracy"] == (1, 1)
    assert found["class_recall"][0] == (1, 1)
    assert np.isnan(found["class_recall"][1:]).all()  # in three blocks, and in none


def correlated_errors(rng, shape, length, accuracy):
    """Whether each pixel is right, with a given chance, and errors in patches of about `length` pixels."""
    field = gaussian_filter(rng.normal(size=shape), length, mode="wrap")
    return field / field.std() < stats.norm.ppf(accuracy)


def coverage_of(side, n_scenes=200, paired=False):
    """How often the interval of the accuracy, or of a difference, holds what is true of all scenes of the kind."""
    rng, shape, held = np.random.default_rng(0), (60, 60), 0
    blocks = square_blocks(shape, side)
    for _ in range(n_scenes):
        rights = [correlated_errors(rng, shape, 2, accuracy) for accuracy in ((0.8, 0.9) if paired else (0.85,))]
        tested = rng.random(shape) < 0.5
        counts = [
            block_counts(np.zeros(tested.sum()), ~right[tested], blocks[tested], blocks.max() + 1, 2)
            for right in rights
        ]
        drawn = block_bootstrap(np.stack(counts), n_draws=300)["overall_accuracy"]
        drawn, true = (drawn[:, 1] - drawn[:, 0], 0.1) if paired else (drawn[:, 0], 0.85)
        low, high = interval(drawn, len(np.unique(blocks[tested])))
        held += low <= true <= high
    return held / n_scenes


@pytest.mark.parametrize("paired", [False, True])
def test_the_intervals_hold_where_errors_lie_together_and_those_of_single_pixels_do_not(paired):
    assert coverage_of(12, paired=paired) > 0.87
    assert coverage_of(1, n_scenes=60, paired=paired) < 0.6
