"""A file's bands and values against those that a network was trained on."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from inference.bands import Bands, check_values, match_bands, turned
from preprocessing import fit_preprocessing
from scenes.raster import Raster
from utils import InputError

RNG = np.random.default_rng(0)
WAVES = (400.0, 500.0, 600.0, 700.0)
CUBE = RNG.uniform(0, 1, (30, 20, 4)).astype(np.float32)


def raster(cube, wavelengths=None, **facts):
    return replace(Raster.of(cube, Path("file")), wavelengths=wavelengths, **facts)


def taken(wavelengths, n_bands=4, ours: tuple = WAVES, **options: Any):
    cube = np.tile(np.arange(len(wavelengths), dtype=np.float32), (2, 2, 1))
    facts = {"bad_bands": options.pop("bad_bands", ())}
    bands = match_bands(
        raster(cube, wavelengths, **facts), n_bands, ours, **cast("dict[str, Any]", {"resample": False} | options)
    )
    return bands(cube)[0, 0].tolist()


def test_the_bands_that_the_network_took_of_its_own_file_are_taken_of_another_one():
    waves = (400.0, 450.0, 500.0, 600.0, 700.0)
    assert taken(waves, used=(0, 2, 3, 4), n_in_file=5) == [0, 2, 3, 4]
    cube = np.zeros((2, 2, 5), np.float32)
    assert match_bands(raster(cube), 4, None, resample=False, used=(4, 2, 1, 0), n_in_file=5)(
        np.arange(5.0)
    ).tolist() == [4, 2, 1, 0]


def test_a_file_with_more_bands_gives_those_at_the_networks_wavelengths(caplog):
    caplog.set_level(logging.INFO)
    assert taken((300.0, 405.0, 498.0, 550.0, 600.0, 703.0)) == [1, 2, 4, 5]
    assert "4 of the 6 bands of file are used" in caplog.text
    with pytest.raises(InputError, match=r"another number of bands, 5, .* `--resample` interpolates"):
        taken((300.0, 340.0, 500.0, 600.0, 700.0))


def test_a_band_that_the_file_marks_as_bad_is_refused_or_interpolated():
    with pytest.raises(InputError, match=r"marks as bad .*: band .from 0. 1 .500 nm.; `--resample` interpolates"):
        taken(WAVES, bad_bands=(1,))
    assert taken(WAVES, bad_bands=(1,), resample=True) == [0, 1, 2, 3]  # between 0 and 2
    assert taken(WAVES, bad_bands=(0, 1), n_bands=2, ours=WAVES[2:], used=(2, 3), n_in_file=4) == [2, 3]
    with pytest.raises(InputError, match="marks all its bands as bad"):
        taken(WAVES, bad_bands=(0, 1, 2, 3), resample=True)


def test_bands_of_two_detectors_are_resampled():
    theirs = (400.0, 600.0, 800.0, 700.0, 900.0)  # the second detector begins at 700
    assert taken(theirs, n_bands=4, ours=(500.0, 650.0, 750.0, 850.0), resample=True) == [0.5, 2, 2.5, 3]


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 30, 20)), (1, (30, 4, 20))])
def test_an_array_is_turned_if_its_bands_are_on_one_axis_only(axis, shape):
    array = np.moveaxis(CUBE, 2, axis)
    assert array.shape == shape
    assert np.array_equal(turned(raster(array), {4}, None).rows(0, 30), CUBE)
    assert turned(raster(CUBE), {4}, None).shape == CUBE.shape


def test_an_array_that_fits_both_ways_is_asked_for():
    array = raster(np.zeros((4, 7, 4)))
    with pytest.raises(InputError, match="`--bands_axis first` or `--bands_axis last`"):
        turned(array, {4}, None)
    assert turned(array, {4}, "first").shape == (7, 4, 4)
    assert turned(raster(np.zeros((4, 7, 9))), {4, 9}, "last").shape == (4, 7, 9)


@pytest.fixture(params=["none", "snv"])
def preprocessing(request):
    train = np.ones(CUBE.shape[:2], int)
    return fit_preprocessing(CUBE, train, spectral=request.param)


def test_usual_values_pass_in_silence(preprocessing, caplog):
    caplog.set_level(logging.INFO)
    check_values(raster(CUBE + 0.1), Bands(), preprocessing)
    assert caplog.text == ""


@pytest.mark.parametrize("factor", [1e4, 1e-4, 100])
def test_values_in_another_unit_are_refused_unless_the_pretreatment_removes_it(preprocessing, factor):
    file = raster((factor * CUBE).astype(np.float32))
    if preprocessing.pretreatment is not None:
        check_values(file, Bands(), preprocessing)
    else:
        with pytest.raises(InputError, match="are they in another unit"):
            check_values(file, Bands(), preprocessing)


def test_a_part_that_is_far_off_is_said(preprocessing, caplog):
    caplog.set_level(logging.INFO)
    cube = CUBE.copy()
    cube[:5] += 10
    check_values(raster(cube), Bands(), preprocessing)
    said = "note: file: 17 % of its values are far outside" in caplog.text
    assert said == (preprocessing.pretreatment is None)  # SNV removes the brightness


def test_a_band_with_one_value_is_refused(preprocessing):
    cube = CUBE.copy()
    cube[..., 2] = 0
    with pytest.raises(InputError, match=r"the network needs band .from 0. 2 .600 nm., which has one value in all 600"):
        check_values(raster(cube, WAVES), Bands(), preprocessing)
    with pytest.raises(InputError, match=r"the network needs band .from 0. 2 .600 nm."):
        check_values(raster(cube, WAVES), Bands(np.array([3, 2, 1, 0])), preprocessing)


@pytest.mark.parametrize("size", [1, 3, 30])
def test_a_few_pixels_in_another_unit_are_refused(size):
    known = fit_preprocessing(10 + CUBE, np.ones(CUBE.shape[:2], int))
    for factor in (1e4, 1e-2):
        with pytest.raises(InputError, match="are they in another unit"):
            check_values(raster(factor * (10 + CUBE[:size, :1])), Bands(), known)


def test_values_that_are_some_times_smaller_are_named(caplog):
    caplog.set_level(logging.INFO)
    known = fit_preprocessing(1 + CUBE, np.ones(CUBE.shape[:2], int))
    check_values(raster((1 + CUBE) / 2), Bands(), known)
    assert not caplog.text
    check_values(raster((1 + CUBE) / 10), Bands(), known)
    assert "its values are about 10 times smaller than those that the network was trained on" in caplog.text


def test_pixels_without_data_and_a_handful_of_pixels_tell_nothing(preprocessing):
    cube = np.full_like(CUBE, -9999)
    check_values(raster(cube, nodata=-9999.0), Bands(), preprocessing)
    check_values(raster(np.ones_like(CUBE[:2, :3])), Bands(), preprocessing)  # one value in six pixels
    old = replace(preprocessing, usual=None)
    check_values(raster(1e4 * CUBE), Bands(), old)


def test_bands_in_another_order_are_taken_by_their_wavelengths(caplog):
    caplog.set_level(logging.INFO)
    assert taken((600.0, 400.0, 700.0, 500.0)) == [1, 3, 0, 2]
    assert "at the network's wavelengths, in its order" in caplog.text
    assert taken(WAVES) == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"its band 0 .from 0. lies at 460 nm, where the network has 400 nm"):
        taken((460.0, 560.0, 660.0, 760.0))


def test_that_wavelengths_could_not_be_compared_is_said(caplog):
    caplog.set_level(logging.INFO)
    match_bands(raster(CUBE), 4, WAVES, resample=False)
    assert "does not say its wavelengths; its bands are taken for those of the network unchecked" in caplog.text
