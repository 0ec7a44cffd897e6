"""Regions and location alone against plain loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from splits.regions import find_regions, in_trained_region, location_accuracy, nearest_label

seeds = st.integers(0, 2**32)


def label_map(seed, shape=(9, 11), n_classes=3, empty=0.4):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < empty, 0, rng.integers(1, n_classes + 1, shape))


def flooded(labels):
    """The regions as sets of pixels, found by walking from pixel to pixel."""
    left, found = set(map(tuple, np.argwhere(labels > 0))), []
    while left:
        region, open_pixels = set(), [left.pop()]
        while open_pixels:
            row, column = open_pixels.pop()
            region.add((row, column))
            around = {(r, c) for r in range(row - 1, row + 2) for c in range(column - 1, column + 2)} & left
            reached = {pixel for pixel in around if labels[pixel] == labels[row, column]}
            left -= reached
            open_pixels += reached
        found.append(region)
    return found


@settings(max_examples=100, deadline=None)
@given(seed=seeds, empty=st.sampled_from([0, 0.4, 0.8, 1]))
def test_a_region_is_what_a_walk_over_edges_and_corners_reaches(seed, empty):
    labels = label_map(seed, empty=empty)
    regions = find_regions(labels)
    numbered = {
        frozenset(map(tuple, np.argwhere(regions == number).tolist())) for number in range(1, regions.max() + 1)
    }
    assert numbered == {frozenset((int(r), int(c)) for r, c in region) for region in flooded(labels)}
    assert np.array_equal(regions > 0, labels > 0)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_the_nearest_label_is_that_of_one_of_the_nearest_training_pixels(seed):
    train = label_map(seed, empty=0.9)
    train[4, 4] = 2
    pixels = np.argwhere(np.ones_like(train))
    places = np.argwhere(train > 0)
    for pixel, label in zip(pixels, nearest_label(train, pixels), strict=True):
        squared = ((places - pixel) ** 2).sum(1)
        assert label in train[tuple(places[squared == squared.min()].T)]


def test_location_alone_on_a_hand_made_split():
    train, test = np.zeros((2, 2, 10), dtype=np.int64)
    train[0, 0], train[0, 9] = 1, 2
    test[1, :5], test[1, 5:] = 1, 1  # the five pixels at the right are nearer to class 2
    assert location_accuracy(train, test) == 0.5


def test_test_pixels_in_trained_regions_on_a_hand_made_split():
    labelled = np.array([[1, 1, 0, 1, 1], [0, 0, 1, 0, 0], [2, 2, 0, 0, 1]])  # class 1 is one region, by its corners
    role = np.array([[1, 2, 0, 2, 2], [0, 0, 2, 0, 0], [2, 2, 0, 0, 0]])
    train, test = np.where(role == 1, labelled, 0), np.where(role == 2, labelled, 0)
    assert in_trained_region(labelled, train, test) == (4 / 6, 2, 1)


@settings(max_examples=50, deadline=None)
@given(seed=seeds)
def test_the_fraction_in_trained_regions_is_counted_region_by_region(seed):
    labelled = label_map(seed)
    labelled[0, 0] = labelled[8, 10] = 1
    role = np.random.default_rng(seed).choice(3, labelled.shape, p=(0.7, 0.2, 0.1))  # test, train, neither
    role[0, 0], role[8, 10] = 0, 1
    train, test = (np.where(role == part, labelled, 0) for part in (1, 0))
    inside = n_tested = n_both = 0
    for region in flooded(labelled):
        n_test, n_train = (sum(mask[pixel] > 0 for pixel in region) for mask in (test, train))
        n_tested += n_test > 0
        n_both += n_test > 0 and n_train > 0
        inside += n_test * (n_train > 0)
    assert in_trained_region(labelled, train, test) == (inside / (test > 0).sum(), n_tested, n_both)
