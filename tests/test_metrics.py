"""Scores against scikit-learn and by hand."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from metrics import accuracy_by_distance, confusion_matrix, scores

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
