"""The four orders of the Mamba-Cross-Scan, by hand for P = 3 and by their properties for larger grids."""

from itertools import pairwise

import pytest
import torch

from models.scan_order import cross_scan_orders, inverse_orders

odd_sizes = pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11])


def corner(size, row, column):
    """Raster index of a corner, each coordinate 0 (first) or -1 (last)."""
    return row % size * size + column % size


def test_the_orders_of_a_three_by_three_grid_are_the_four_snakes():
    assert cross_scan_orders(3).tolist() == [
        [0, 1, 2, 5, 4, 3, 6, 7, 8],  # rows, from the top left
        [0, 3, 6, 7, 4, 1, 2, 5, 8],  # columns, from the top left
        [2, 1, 0, 3, 4, 5, 8, 7, 6],  # rows, from the top right
        [6, 3, 0, 1, 4, 7, 8, 5, 2],  # columns, from the bottom left
    ]


@odd_sizes
def test_every_order_visits_every_pixel_once(size):
    orders = cross_scan_orders(size)
    assert orders.shape == (4, size * size)
    assert orders.dtype == torch.int64
    assert all(sorted(order) == list(range(size * size)) for order in orders.tolist())


@odd_sizes
def test_neighbours_in_a_sequence_are_neighbours_in_the_grid(size):
    for order in cross_scan_orders(size).tolist():
        places = [divmod(index, size) for index in order]
        steps = [abs(r - s) + abs(c - d) for (r, c), (s, d) in pairwise(places)]
        assert set(steps) <= {1}


@odd_sizes
def test_the_centre_pixel_is_in_the_middle_and_ends_both_halves(size):
    middle = (size * size - 1) // 2
    centre = size // 2 * size + size // 2
    for order in cross_scan_orders(size).tolist():
        assert order[middle] == centre
        assert order[: middle + 1][-1] == order[::-1][: middle + 1][-1] == centre


@odd_sizes
def test_each_order_starts_at_its_corner_and_ends_at_the_opposite_one(size):
    orders = cross_scan_orders(size).tolist()
    starts = [corner(size, 0, 0), corner(size, 0, 0), corner(size, 0, -1), corner(size, -1, 0)]
    ends = [corner(size, -1, -1), corner(size, -1, -1), corner(size, -1, 0), corner(size, 0, -1)]
    assert [order[0] for order in orders] == starts
    assert [order[-1] for order in orders] == ends


@pytest.mark.parametrize("size", [3, 5, 7, 9, 11])
def test_types_one_and_three_run_along_rows_and_two_and_four_along_columns(size):
    steps = [abs(order[1] - order[0]) for order in cross_scan_orders(size).tolist()]
    assert steps == [1, size, 1, size]


@odd_sizes
def test_the_inverse_orders_take_a_sequence_back_to_raster_order(size):
    orders = cross_scan_orders(size)
    inverse = inverse_orders(orders)
    raster = torch.arange(size * size) * 10
    for order, back in zip(orders, inverse, strict=True):
        assert torch.equal(raster[order][back], raster)
        assert torch.equal(raster[back][order], raster)


@pytest.mark.parametrize("size", [-1, 0, 2, 4, 10])
def test_a_grid_without_a_centre_pixel_is_refused(size):
    with pytest.raises(ValueError, match=f"odd side of at least 1, not {size}"):
        cross_scan_orders(size)
