"""Splits share no pixel and lose none, repeat with the seed, and keep what they promise about each class."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splits.split import Split, check_classes, hold_out, skip_border, split_disjoint, split_per_class, split_random
from utils import InputError

NAMES = {"class_names": ("Corn", "Woods", "Water", "Roof"), "palette": ("#111111", "#222222", "#333333", "#444444")}
SPLITTERS = {
    "random": lambda gt, seed: split_random(gt, 0.3, np.random.default_rng(seed), **NAMES),
    "per class": lambda gt, seed: split_per_class(gt, 5, np.random.default_rng(seed), **NAMES),
    "disjoint": lambda gt, seed: split_disjoint(gt, 0.3, np.random.default_rng(seed), **NAMES),
}
every_splitter = pytest.mark.parametrize("splitter", SPLITTERS.values(), ids=SPLITTERS)
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32)


@st.composite
def ground_truths(draw):
    """Label maps, (2..12, 2..12), in which every class that occurs has two pixels or more."""
    height, width, n_classes = draw(st.integers(2, 12)), draw(st.integers(2, 12)), draw(st.integers(1, 4))
    gt = np.random.default_rng(draw(seeds)).integers(0, n_classes + 1, (height, width))
    gt[np.isin(gt, np.flatnonzero(np.bincount(gt.ravel()) < 2))] = 0
    if not gt.any():
        gt[0, :2] = 1
    return gt


def fields(seed=0):
    """A larger map, (40, 50): four fields with unlabelled pixels among them."""
    gt = np.zeros((40, 50), dtype=np.int64)
    gt[2:19, 3:24], gt[2:19, 26:48], gt[21:38, 3:24], gt[21:38, 26:48] = 1, 2, 3, 4
    gt[np.random.default_rng(seed).random(gt.shape) < 0.1] = 0
    return gt


def make_split(train, test, **more):
    return Split(np.asarray(train), np.asarray(test), method="by hand", **NAMES, **more)


def counts(labels):
    return np.bincount(labels.ravel(), minlength=5)[1:]


def assert_whole(split, gt):
    """No pixel in both, none lost, none renamed, and every class on both sides."""
    assert not ((split.train > 0) & (split.test > 0)).any()
    np.testing.assert_array_equal(split.train + split.test, gt)
    np.testing.assert_array_equal(split.labelled, gt)
    assert split.train.dtype == np.int64
    present = set(np.unique(gt)) - {0}
    assert set(np.unique(split.train)) - {0} == set(np.unique(split.test)) - {0} == present
    check_classes(split)


@settings(max_examples=60, deadline=None)
@given(gt=ground_truths(), fraction=fractions, seed=seeds)
def test_a_random_split_is_whole_and_meets_the_fraction_in_every_class(gt, fraction, seed):
    split = split_random(gt, fraction, np.random.default_rng(seed), **NAMES)
    assert_whole(split, gt)
    for n_train, n in zip(counts(split.train), counts(gt), strict=True):
        if n:
            assert abs(n_train - fraction * n) <= 0.5 or n_train in (1, n - 1)


@settings(max_examples=60, deadline=None)
@given(gt=ground_truths(), count=st.integers(1, 30), seed=seeds)
def test_a_split_per_class_is_whole_and_takes_the_count_or_half_of_a_small_class(gt, count, seed):
    split = split_per_class(gt, count, np.random.default_rng(seed), **NAMES)
    assert_whole(split, gt)
    np.testing.assert_array_equal(counts(split.train), np.minimum(count, counts(gt) // 2))


@settings(max_examples=60, deadline=None)
@given(gt=ground_truths(), fraction=fractions, seed=seeds)
def test_a_disjoint_split_is_whole_and_a_line_separates_every_class_as_near_to_the_fraction_as_can_be(
    gt, fraction, seed
):
    split = split_disjoint(gt, fraction, np.random.default_rng(seed), **NAMES)
    assert_whole(split, gt)
    for label in set(np.unique(gt)) - {0}:
        errors = []  # of each line and side that explain the split: how far from the nearest share it is
        for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
            train, test = (sign * np.nonzero(mask == label)[axis] for mask in (split.train, split.test))
            if train.max() < test.min():
                position = np.concatenate([train, test])
                shares = [(position < line).mean() for line in set(position) if line > position.min()]
                errors.append(abs(len(train) / len(position) - fraction) - min(abs(s - fraction) for s in shares))
        assert errors
        assert min(errors) < 1e-12


def test_the_cuts_of_a_disjoint_split_come_from_all_four_sides():
    sides = set()
    for seed in range(30):
        rows, columns = np.nonzero(SPLITTERS["disjoint"](fields(), seed).train == 1)
        sides |= {(rows.min() == 2, rows.max() == 18, columns.min() == 3, columns.max() == 23)}
    assert sides == {tuple(side != cut for side in range(4)) for cut in range(4)}


@every_splitter
def test_the_seed_decides_the_split_to_the_bit(splitter):
    gt = fields()
    first, again, other = splitter(gt, 3), splitter(gt, 3), splitter(gt, 4)
    np.testing.assert_array_equal(first.train, again.train)
    assert first.fingerprint == again.fingerprint
    assert (first.train != other.train).any()
    assert first.fingerprint != other.fingerprint


@every_splitter
def test_a_split_leaves_the_ground_truth_and_the_global_generator_alone(splitter):
    gt = fields()
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    splitter(gt, 0)
    assert np.random.random() == expected  # noqa: NPY002
    np.testing.assert_array_equal(gt, fields())


@pytest.mark.parametrize("name", ["random", "per class"])
def test_every_pixel_has_the_same_chance_to_train(name):
    gt = np.ones((4, 5), dtype=np.int64)
    chance = np.mean([SPLITTERS[name](gt, seed).train for seed in range(800)], axis=0)
    expected = {"random": 6 / 20, "per class": 5 / 20}[name]
    assert np.abs(chance - expected).max() < 0.07  # four standard deviations


PARTS: tuple[Literal["train", "test", "validation"], ...] = ("train", "test", "validation")


def test_the_numbers_of_pixels_are_those_of_the_label_maps():
    split = SPLITTERS["random"](fields(), 0)
    assert split.n_validation == 0
    assert split.class_counts("validation").tolist() == [0, 0, 0, 0]
    split = hold_out(split, 0.2, np.random.default_rng(0))
    for part, n in zip(PARTS, (split.n_train, split.n_test, split.n_validation), strict=True):
        by_hand = [sum(label == k for row in getattr(split, part).tolist() for label in row) for k in range(1, 5)]
        assert split.class_counts(part).tolist() == by_hand
        assert n == sum(by_hand) > 0
    few = make_split([[1, 1, 0]], [[0, 0, 2]])
    assert few.class_counts("train").tolist() == [2, 0, 0, 0]


def test_the_method_is_told_in_words():
    gt = fields()
    assert SPLITTERS["random"](gt, 0).method == "random, 30 % of each class train"
    assert SPLITTERS["per class"](gt, 0).method == "random, 5 pixels of each class train"
    assert SPLITTERS["disjoint"](gt, 0).method == "disjoint, about 30 % of each class train"


def test_classes_too_small_for_the_count_are_noted():
    gt = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 0, 0, 0]])
    split = split_per_class(gt, 3, np.random.default_rng(0), **NAMES)
    assert len(split.notes) == 1
    assert "Woods (2" in split.notes[0]
    assert "Corn" not in split.notes[0]
    assert split_per_class(gt, 2, np.random.default_rng(0), **NAMES).notes == ()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 50, float("nan"), float("inf")])
def test_a_fraction_outside_0_and_1_is_refused(fraction):
    for splitter in (split_random, split_disjoint):
        with pytest.raises(InputError, match=r"training_sample .* between 0 and 1 .*, not (0|1|-0.1|50|nan|inf)$"):
            splitter(fields(), fraction, np.random.default_rng(0), **NAMES)
    split = SPLITTERS["random"](fields(), 0)
    with pytest.raises(InputError, match=r"val_fraction must lie between 0 and 1, not (0|1|-0.1|50|nan|inf)$"):
        hold_out(split, fraction, np.random.default_rng(0))


@pytest.mark.parametrize("count", [0, -3, 0.1, 2.5, float("nan"), float("inf")])
def test_a_count_that_is_no_number_of_pixels_is_refused(count):
    with pytest.raises(InputError, match=r"training_sample .* it is a number of pixels per class, such as 50"):
        split_per_class(fields(), count, np.random.default_rng(0), **NAMES)


@every_splitter
def test_a_ground_truth_without_labels_and_a_class_of_one_pixel_are_refused(splitter):
    with pytest.raises(InputError, match="the ground truth has no labelled pixel"):
        splitter(np.zeros((4, 4), dtype=np.int64), 0)
    gt = fields()
    gt[gt == 3] = 0
    gt[20, 20] = 3
    with pytest.raises(InputError, match=r"class 3 \(Water\) has one labelled pixel, which cannot both"):
        splitter(gt, 0)


@settings(max_examples=60, deadline=None)
@given(gt=ground_truths(), fraction=fractions, seed=seeds)
def test_validation_is_a_share_of_each_class_of_the_training_pixels_alone(gt, fraction, seed):
    before = split_random(gt, 0.5, np.random.default_rng(seed), **NAMES)
    if counts(before.train).max() < 2:
        with pytest.raises(InputError, match="no class has two training pixels, so none can be held out"):
            hold_out(before, fraction, np.random.default_rng(seed))
        return
    after = hold_out(before, fraction, np.random.default_rng(seed))
    np.testing.assert_array_equal(after.test, before.test)
    assert after.validation is not None
    assert not ((after.train > 0) & (after.validation > 0)).any()
    np.testing.assert_array_equal(after.train + after.validation, before.train)
    np.testing.assert_array_equal(after.labelled, gt)
    for n_held, n in zip(counts(after.validation), counts(before.train), strict=True):
        if n < 2:
            assert n_held == 0
        else:
            assert 1 <= n_held < n
            assert abs(n_held - fraction * n) <= 0.5 or n_held in (1, n - 1)


def test_validation_pixels_repeat_with_the_seed_and_change_the_fingerprint():
    split = SPLITTERS["random"](fields(), 0)
    first, again, other = (hold_out(split, 0.2, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.validation, again.validation)
    assert (first.validation != other.validation).any()
    assert len({split.fingerprint, first.fingerprint, other.fingerprint}) == 3
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize("margin", [0, 1, 3])
def test_skipping_the_border_keeps_exactly_the_pixels_whose_window_fits(margin):
    rng = np.random.default_rng(0)
    gt = rng.integers(1, 3, (11, 20))
    before = hold_out(split_random(gt, 0.6, rng, **NAMES), 0.3, rng)
    after = skip_border(before, margin)
    for name in ("train", "test", "validation"):
        expected = getattr(before, name).copy()
        for row, column in np.ndindex(*gt.shape):
            if row < margin or row + margin > 10 or column < margin or column + margin > 19:
                expected[row, column] = 0
        np.testing.assert_array_equal(getattr(after, name), expected)
    lost = {name: (getattr(before, name) > 0).sum() - (getattr(after, name) > 0).sum() for name in ("train", "test")}
    assert after.border_skipped == lost["test"]
    assert f"leaves out {lost['train']} training and {lost['test']} test pixels" in after.notes[-1]


def test_skipping_a_border_that_takes_too_much_is_refused():
    gt = np.ones((6, 6), dtype=np.int64)
    split = split_random(gt, 0.5, np.random.default_rng(0), **NAMES)
    for margin in (3, 4, 7):
        with pytest.raises(InputError, match="border skip leaves no test pixel; use --border mirror or a smaller"):
            skip_border(split, margin)
    train, test = np.zeros((2, 6, 6), dtype=np.int64)
    train[0, 0], train[2, 2], test[3, 3] = 2, 1, 2
    with pytest.raises(InputError, match=r"border skip.*class 2 \(Woods\) has test pixels but no training.*mirror"):
        skip_border(make_split(train, test), 1)
    validation = np.zeros_like(train)
    validation[0, 5], test[3, 3] = 1, 1
    with pytest.raises(InputError, match="no validation pixel"):
        skip_border(make_split(train, test, validation=validation), 1)


def test_a_class_that_is_tested_must_be_trained():
    train, test = np.array([[1, 0, 3, 0]]), np.array([[0, 1, 0, 3]])
    check_classes(make_split(train, test))
    check_classes(make_split(train, [[0, 1, 0, 0]]))  # trained and not tested: nothing wrong
    with pytest.raises(InputError, match=r"^class 2 \(Woods\) has test pixels but no training pixel; add some"):
        check_classes(make_split(train, [[0, 1, 0, 2]]))
    with pytest.raises(InputError, match=r"^classes 2 \(Woods\), 4 \(Roof\) have test pixels"):
        check_classes(make_split(train, [[0, 2, 0, 4]]))
    with pytest.raises(InputError, match="no labelled training pixel"):
        check_classes(make_split(0 * train, test))
    with pytest.raises(InputError, match="no labelled test pixel"):
        check_classes(make_split(train, 0 * test))


def test_the_fingerprint_tells_training_from_test():
    split = SPLITTERS["random"](fields(), 0)
    assert replace(split, train=split.test, test=split.train).fingerprint != split.fingerprint
    assert replace(split, notes=("a note",)).fingerprint == split.fingerprint
