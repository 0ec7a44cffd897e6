"""Blocks with a buffer: no window of a test pixel touches one of a training pixel, and the folds make up the scene."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datasets import load_scene
from splits.regions import find_regions
from splits.spatial_cv import SIDES, assign_blocks, choose_block_size, split_fields, split_spatial
from splits.split import check_classes
from utils import InputError

NAMES = {"class_names": ("Corn", "Woods", "Water", "Roof"), "palette": ("#111111", "#222222", "#333333", "#444444")}
seeds = st.integers(0, 2**32)


@st.composite
def ground_truths(draw):
    """Label maps, (8..30, 8..30), of fields with unlabelled pixels among them; a class may be a pixel or absent."""
    rng = np.random.default_rng(draw(seeds))
    side, shape = draw(st.integers(1, 9)), (draw(st.integers(8, 30)), draw(st.integers(8, 30)))
    fields = (
        rng.integers(0, 5, (30 // side + 1, 30 // side + 1)).repeat(side, 0).repeat(side, 1)[: shape[0], : shape[1]]
    )
    gt = np.where(rng.random(shape) < draw(st.sampled_from([0, 0.3, 0.9])), 0, fields)
    gt[0, 0] = 4
    return gt


def windows(mask, half):
    """All pixels in the windows of a mask's pixels, by painting one window after the other."""
    painted = np.zeros(mask.shape, dtype=bool)
    for row, column in np.argwhere(mask > 0):
        painted[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1] = True
    return painted


def split(gt, fold=0, seed=0, **options):
    keywords: dict[str, Any] = {"patch_size": 3, "n_folds": 3} | options | NAMES
    return split_spatial(gt, np.random.default_rng(seed), fold=fold, **keywords)


def splits_of(gt, n_folds, **options):
    """The splits of all folds, an InputError in place of one that cannot be."""
    made = []
    for fold in range(n_folds):
        try:
            made.append(split(gt, fold, n_folds=n_folds, **options))
        except InputError as error:
            made.append(error)
    return made


block_sizes = st.one_of(st.none(), st.integers(2, 12))
options = {"n_folds": st.integers(2, 4), "patch_size": st.sampled_from([1, 3, 5]), "block_size": block_sizes}


@settings(max_examples=120, deadline=None)
@given(gt=ground_truths(), count=st.sampled_from([None, 1, 7]), **options)
def test_no_training_window_shares_a_pixel_with_a_test_window(gt, n_folds, patch_size, block_size, count):
    made = splits_of(gt, n_folds, patch_size=patch_size, block_size=block_size, count=count)
    assume(not all(isinstance(each, InputError) for each in made))
    for each in made:
        if isinstance(each, InputError):
            continue
        trained, tested = (windows(mask, patch_size // 2) for mask in (each.train, each.test))
        assert not (trained & tested).any()
        for mask in (each.train, each.test):
            assert mask.any() and (mask[mask > 0] == gt[mask > 0]).all()
        check_classes(each)
        np.testing.assert_array_equal(each.labelled > 0, (each.train > 0) | (each.test > 0))


@settings(max_examples=120, deadline=None)
@given(gt=ground_truths(), **options)
def test_the_tests_of_all_folds_are_the_labelled_pixels_but_those_that_are_counted_as_dropped(
    gt, n_folds, patch_size, block_size
):
    made = splits_of(gt, n_folds, patch_size=patch_size, block_size=block_size)
    assume(not any(isinstance(each, InputError) for each in made))
    times = np.sum([each.test > 0 for each in made], axis=0)
    assert times.max() == 1 and not times[gt == 0].any()
    assert (times[gt > 0] == 0).sum() == sum(each.unlearned_dropped for each in made)
    for each in made:
        used = (each.train > 0).sum() + (each.test > 0).sum()
        assert used + each.buffer_dropped + each.unlearned_dropped == (gt > 0).sum()
        # The buffer takes no more than it must: what is left out lies nearer than P to a block's pixel of this fold.
        untaken = np.argwhere((gt > 0) & (each.labelled == 0))
        folds = assign_blocks(gt, n_folds, int(each.method.split("blocks of ")[1].split()[0]))
        tested = np.argwhere((gt > 0) & (folds == folds[tuple(np.argwhere(each.test)[0])]))
        for pixel in untaken:
            assert np.abs(tested - pixel).max(1).min() < patch_size


@settings(max_examples=60, deadline=None)
@given(gt=ground_truths(), seed=seeds, **options)
def test_nothing_is_drawn_without_a_count_and_the_seed_decides_with_one(gt, seed, n_folds, patch_size, block_size):
    settings_ = {"n_folds": n_folds, "patch_size": patch_size, "block_size": block_size}
    try:
        first = split(gt, 0, 0, **settings_)
    except InputError:
        assume(False)
    np.random.seed(1)  # noqa: NPY002
    assert split(gt.copy(), 0, seed, **settings_).fingerprint == first.fingerprint
    thin, again = (split(gt, 0, seed, count=3, **settings_) for _ in range(2))
    assert thin.fingerprint == again.fingerprint
    np.testing.assert_array_equal(thin.test, first.test)
    assert (first.train[thin.train > 0] == thin.train[thin.train > 0]).all()
    for label in range(1, 5):
        assert (thin.train == label).sum() == min(3, (first.train == label).sum())


def test_another_seed_draws_other_pixels():
    gt = np.ones((20, 20), dtype=np.int64)
    trains = [split(gt, 0, seed, count=5).train for seed in (0, 0, 1)]
    np.testing.assert_array_equal(trains[0], trains[1])
    assert (trains[0] != trains[2]).any()


# Dealing out the blocks


@settings(max_examples=80, deadline=None)
@given(gt=ground_truths(), n_folds=st.integers(2, 5), side=st.integers(1, 12))
def test_a_block_is_of_one_fold_and_goes_where_the_sum_of_squared_shares_grows_least(gt, n_folds, side):
    folds = assign_blocks(gt, n_folds, side)
    totals = {label: int((gt == label).sum()) for label in range(1, 5) if (gt == label).any()}
    blocks = {}
    for row in range(0, gt.shape[0], side):
        for column in range(0, gt.shape[1], side):
            inside = slice(row, row + side), slice(column, column + side)
            assert len(set(folds[inside].ravel())) == 1
            if gt[inside].any():
                shares = [Fraction(int((gt[inside] == label).sum()), total) for label, total in totals.items()]
                shares.append(Fraction(int((gt[inside] > 0).sum()), sum(totals.values())))
                blocks[row, column] = shares, int(folds[row, column])
            else:
                assert folds[row, column] == -1
    held = [[Fraction(0)] * (len(totals) + 1) for _ in range(n_folds)]
    for _, (shares, fold) in sorted(blocks.items(), key=lambda item: (-max(item[1][0]), item[0])):
        grown = [sum((h + s) ** 2 - h**2 for h, s in zip(each, shares, strict=True)) for each in held]
        assert grown[fold] - min(grown) < Fraction(1, 10**6)  # shares are rounded up to a 2**26th
        held[fold] = [h + s for h, s in zip(held[fold], shares, strict=True)]


def test_every_fold_gets_a_block_of_every_class_where_that_can_be():
    gt = np.zeros((20, 50), dtype=np.int64)
    gt[:10] = 1
    gt[10:] = 2
    folds = assign_blocks(gt, 5, 10)
    assert sorted(folds[0, ::10]) == sorted(folds[10, ::10]) == [0, 1, 2, 3, 4]


@settings(max_examples=30, deadline=None)
@given(gt=ground_truths(), n_folds=st.integers(2, 4), patch_size=st.sampled_from([1, 3]))
def test_the_side_that_is_chosen_trains_and_tests_the_most_classes(gt, n_folds, patch_size):
    reached = {}
    for side in (multiple * patch_size for multiple in SIDES):
        made = splits_of(gt, n_folds, patch_size=patch_size, block_size=side)
        sets = [each for each in made if not isinstance(each, InputError)]
        pairs = sum(len(set(each.train[each.train > 0]) & set(each.test[each.test > 0])) for each in sets)
        if not any(isinstance(each, InputError) and "as many blocks" in str(each) for each in made):
            reached[side] = pairs
    expected = max((pairs, side) for side, pairs in reached.items())[1] if reached else SIDES[0] * patch_size
    assert choose_block_size(gt, n_folds, patch_size) == expected


def test_on_a_real_scene_every_fold_trains_and_tests_every_class(real_data):
    if not (real_data / "PaviaU" / "PaviaU_gt.mat").is_file():
        pytest.skip(f"{real_data / 'PaviaU' / 'PaviaU_gt.mat'} is absent")
    scene = load_scene("PaviaU", real_data, need_cube=False)
    names = (scene.spec.class_names, scene.spec.palette)
    assert scene.gt is not None
    total = np.bincount(scene.gt.ravel())[1:]
    for fold in range(5):
        made = split_spatial(
            scene.gt, np.random.default_rng(0), fold=fold, patch_size=7, class_names=names[0], palette=names[1]
        )
        share = np.bincount(made.test.ravel(), minlength=10)[1:] / total
        assert share.min() > 0.1 and share.max() < 0.4
        assert (np.bincount(made.train.ravel(), minlength=10)[1:] > 0.35 * total).all()
        assert made.unlearned_dropped == 0


# What is told, and what is refused


def test_classes_that_cannot_be_on_both_sides_are_told_with_their_pixels():
    gt = np.ones((12, 24), dtype=np.int64)
    gt[0:2, 0:3] = 3  # in one block alone
    made = [split(gt, fold, n_folds=2, block_size=6) for fold in range(2)]
    tests = next(each for each in made if each.unlearned_dropped)
    other = next(each for each in made if not each.unlearned_dropped)
    assert tests.unlearned_dropped == 6 and not (tests.test == 3).any()
    assert tests.notes[1].endswith("whose test pixels are dropped: Water (6)")
    assert other.notes[1] == "this fold has no test pixel of some classes: Water"
    assert tests.notes[0].startswith(f"{tests.buffer_dropped:,} labelled pixels nearer than 3 to a test pixel")
    assert tests.class_names == NAMES["class_names"]
    assert tests.method.startswith("spatial cross-validation, fold ")
    assert " of 2 (from 0), blocks of 6 x 6, 3 pixels" in tests.method


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_folds": 1}, "folds must be at least 2"),
        ({"fold": 3}, r"fold must lie between 0 and 2 \(--folds 3\), not 3"),
        ({"fold": -1}, "fold must lie between"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"block_size": 20}, "blocks of 20 x 20 give only 1"),
        ({"count": 0.5}, "it is a number of pixels per class"),
        ({"count": float("inf")}, "it is a number of pixels per class"),
        ({"patch_size": 19, "block_size": 4}, "leaves no class with test pixels and, 19 or more"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_sentence(options, words):
    with pytest.raises(InputError, match=words) as caught:
        split(np.ones((18, 18), dtype=np.int64), **options)
    assert "\n" not in str(caught.value)


def test_a_ground_truth_without_labels_is_refused():
    with pytest.raises(InputError, match="no labelled pixel"):
        split(np.zeros((18, 18), dtype=np.int64))


# Whole fields


def fields_of(gt, fold=0, seed=0, **options):
    keywords: dict[str, Any] = {"patch_size": 3, "n_folds": 3} | options | NAMES
    return split_fields(gt, np.random.default_rng(seed), fold=fold, **keywords)


@settings(max_examples=150, deadline=None)
@given(gt=ground_truths(), n_folds=st.integers(2, 4), patch_size=st.sampled_from([1, 3, 5]))
def test_no_region_both_trains_and_tests_and_no_window_touches_another(gt, n_folds, patch_size):
    region, half = find_regions(gt), patch_size // 2
    tested = np.zeros(gt.shape, dtype=int)
    for fold in range(n_folds):
        try:
            made = fields_of(gt, fold, n_folds=n_folds, patch_size=patch_size)
        except InputError:
            continue
        assert not set(region[made.train > 0]) & set(region[made.test > 0])
        assert not (windows(made.train, half) & windows(made.test, half)).any()
        for mask in (made.train, made.test):
            assert np.array_equal(mask[mask > 0], gt[mask > 0])
        for number in set(region[made.test > 0]):
            assert (made.test[region == number] > 0).all()  # a region tests as a whole
        check_classes(made)
        dropped = made.buffer_dropped + made.unlearned_dropped + made.single_region_dropped
        assert made.n_train + made.n_test + dropped == (gt > 0).sum()
        tested += made.test > 0
    assert tested.max() <= 1


def test_classes_in_one_region_are_left_out_counted_and_named():
    gt = np.zeros((12, 40), dtype=np.int64)
    for i, label in enumerate((1, 2, 1, 2, 1, 2, 3)):
        gt[1:5, 6 * i : 6 * i + 4] = label
    gt[8:11, 0:4] = 4
    made = fields_of(gt, n_folds=2)
    assert made.single_region_dropped == 16 + 12 and set(made.labelled[made.labelled > 0]) == {1, 2}
    assert made.notes[0].startswith("2 of 4 classes lie in one region") and made.notes[0].endswith(
        "are left out: Water (16 pixels), Roof (12 pixels)"
    )
    assert made.method == "whole fields, fold 0 of 2 (from 0), 3 pixels apart" and made.block_size is None


def test_the_fields_of_the_folds_do_not_depend_on_the_seed_and_at_most_so_many_pixels_train():
    rng = np.random.default_rng(0)
    gt = rng.integers(0, 5, (6, 6)).repeat(5, 0).repeat(5, 1)
    first, second = (fields_of(gt, 1, seed, count=4) for seed in (0, 1))
    assert np.array_equal(first.test, second.test) and not np.array_equal(first.train, second.train)
    assert first.class_counts("train").max() == 4 and "at most 4 pixels of each class train" in first.method


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ("one region", {}, "every class lies in one region"),
        ("two regions", {"n_folds": 3}, "the classes with several have 2 regions"),
        ("empty", {}, "no labelled pixel"),
        ("many", {"fold": 3}, "fold must lie between 0 and 2"),
        ("many", {"count": 0.5}, "with --sampling_mode fields it is a number of pixels per class"),
        ("many", {"n_folds": 1}, "folds must be at least 2"),
        ("many", {"patch_size": 41}, "leaves no class with test pixels"),
    ],
)
def test_fields_that_cannot_be_held_out_are_refused(change, options, words):
    gt = np.zeros((20, 20), dtype=np.int64)
    if change != "empty":
        gt[:4, :4] = 1
    if change == "two regions":
        gt[8:12, 8:12] = 1
    if change == "many":
        gt = np.random.default_rng(0).integers(0, 3, (10, 10)).repeat(2, 0).repeat(2, 1)
    with pytest.raises(InputError, match=words):
        fields_of(gt, **options)


def test_the_real_indian_pines_keeps_nine_of_sixteen_classes(real_data):
    if not (real_data / "IndianPines" / "Indian_pines_gt.mat").is_file():
        pytest.skip(f"{real_data / 'IndianPines' / 'Indian_pines_gt.mat'} is absent")
    scene = load_scene("IndianPines", real_data, need_cube=False, need_gt=True)
    names: dict[str, Any] = {"class_names": scene.spec.class_names, "palette": scene.spec.palette}
    tested = set()
    for fold in range(5):
        made = split_fields(scene.gt, np.random.default_rng(0), fold=fold, patch_size=7, **names)
        assert "7 of 16 classes lie in one region" in made.notes[0]
        tested |= set(made.test[made.test > 0])
    assert len(tested) == 9
