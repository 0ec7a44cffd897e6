"""Which bands of a cube are used."""

from pathlib import Path

import numpy as np
import pytest

from scenes.bands import choose_bands, named, parse_bands
from scenes.raster import Raster
from scenes.survey import survey
from utils import InputError

RNG = np.random.default_rng(0)


def values_of(cube, nodata=None):
    from dataclasses import replace

    return survey(replace(Raster.of(cube, Path("cube")), nodata=nodata), noise=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["3"], (3,)), (["104-108", "150"], (104, 105, 106, 107, 108, 150)), ([2, "0-1"], (0, 1, 2)), ([" 4 "], (4,))],
)
def test_bands_are_numbers_and_ranges(words, expected):
    assert parse_bands(words, "flag") == expected


@pytest.mark.parametrize("word", ["", "-1", "5-3", "1-", "a", "1.5", "1-2-3", "9999999"])
def test_what_is_no_band_is_refused(word):
    with pytest.raises(InputError, match="flag: "):
        parse_bands([word], "flag")


def test_bands_without_information_are_left_out_with_the_reason():
    cube = RNG.normal(size=(6, 7, 9)).astype(np.float32)
    cube[..., 1], cube[..., 2], cube[..., 3] = np.nan, -9999, 5
    used, said = choose_bands(values_of(cube, -9999), None, bad=(4,), drop=(8, 1), where="cube")
    assert used.tolist() == [0, 5, 6, 7]
    assert said == [
        "cube: 2 bands (from 0) 1, 8 left out, as drop_bands says",
        "cube: band (from 0) 4 left out, which the file marks as bad",
        "cube: band (from 0) 2 left out, without data",
        "cube: band (from 0) 3 left out, with one value everywhere",
    ]


def test_bands_are_put_in_the_order_of_their_wavelengths():
    cube = RNG.normal(size=(6, 7, 4))
    used, said = choose_bands(values_of(cube), (500.0, 400, 700, 600), where="cube")
    assert used.tolist() == [1, 0, 3, 2]
    assert said == ["cube: the bands were put in the order of their wavelengths"]


def test_nothing_is_said_if_nothing_is_left_out():
    cube = RNG.normal(size=(6, 7, 4))
    used, said = choose_bands(values_of(cube), (400.0, 500, 600, 700), where="cube")
    assert (used.tolist(), said) == ([0, 1, 2, 3], [])


def test_a_cube_of_which_nothing_is_left_and_a_band_that_is_none_are_refused():
    with pytest.raises(InputError, match="no band is left"):
        choose_bands(values_of(np.ones((3, 3, 2))), None, where="cube")
    with pytest.raises(InputError, match="the cube has 2 bands; 2 is none"):
        choose_bands(values_of(RNG.normal(size=(3, 3, 2))), None, drop=(2,), where="cube")


def test_bands_are_named_with_their_wavelengths():
    assert named([0, 1, 2, 5], (400.0, 410, 420, 430, 440, 450)) == "4 bands (from 0) 0-2 (400-420 nm), 5 (450 nm)"
    assert named([7]) == "band (from 0) 7"


def test_a_band_of_noise_is_noticed_and_smooth_ones_are_not():
    smooth = np.cumsum(RNG.normal(size=(40, 50, 12)), axis=1) * 10 + RNG.normal(size=(40, 50, 12))
    assert values_of(smooth).noisy() == []
    assert values_of(RNG.normal(size=(40, 50, 12))).noisy() == []  # no band more than its neighbours
    smooth[..., 6] = RNG.normal(size=(40, 50)) * 1e4
    assert values_of(smooth).noisy() == [6]
    assert values_of(smooth).noise[6] == pytest.approx(1, abs=0.05)
