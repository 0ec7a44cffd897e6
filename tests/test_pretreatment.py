"""Spectral pre-treatments against loops over spectra and against what they must not change."""

import io

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from preprocessing import Preprocessing, fit_preprocessing
from pretreatment import STEPS, Pretreatment, fit_pretreatment, nearest_mean_recall, parse_steps
from utils import InputError

N_BANDS = 30
every_step = pytest.mark.parametrize("step", [step for step in STEPS if step != "none"])


@pytest.fixture
def spectra():
    """Smooth positive spectra with noise, (50, 30) float32."""
    rng = np.random.default_rng(0)
    bands = np.linspace(0, 3, N_BANDS)
    shapes = 5 + np.sin(bands * rng.uniform(0.5, 3, (50, 1))) + rng.uniform(0, 2, (50, 1)) * bands
    return (1000 * shapes + rng.normal(size=(50, N_BANDS))).astype(np.float32)


def treat(spec, spectra, **options):
    fitted = fit_pretreatment(spec, spectra, **options)
    assert fitted is not None
    return fitted(spectra)


def test_none_is_no_pretreatment(spectra):
    assert fit_pretreatment("none", spectra) is None


def test_snv_gives_each_spectrum_mean_0_and_standard_deviation_1(spectra):
    expected = [(row - row.mean()) / row.std() for row in spectra.astype(np.float64)]
    np.testing.assert_allclose(treat("snv", spectra), expected, atol=1e-6)


def test_msc_takes_away_the_line_that_numpy_fits_against_the_mean_spectrum(spectra):
    mean = spectra.mean(0, dtype=np.float64)
    expected = []
    for row in spectra.astype(np.float64):
        slope, level = np.polyfit(mean, row, 1)
        expected.append((row - level) / slope)
    np.testing.assert_allclose(treat("msc", spectra), expected, rtol=1e-4)


def test_detrend_takes_away_the_parabola_that_numpy_fits_over_the_wavelengths(spectra):
    bands, wavelengths = np.arange(N_BANDS), np.linspace(20, 45, N_BANDS) ** 2
    for axis, options in ((bands, {}), (wavelengths, {"wavelengths": tuple(wavelengths)})):
        expected = [row - np.polyval(np.polyfit(axis, row, 2), axis) for row in spectra.astype(np.float64)]
        np.testing.assert_allclose(treat("detrend", spectra, **options), expected, atol=1e-2)
    straight = np.outer(np.arange(1, 4), 7 + 3 * bands - 0.1 * bands**2).astype(np.float32)
    assert np.abs(treat("detrend", straight)).max() < 1e-3
    assert np.array_equal(treat("detrend-snv", np.full((2, N_BANDS), 0.3, np.float32)), np.zeros((2, N_BANDS)))


@pytest.mark.parametrize(("step", "order"), [("derivative", 1), ("second", 2)])
def test_derivatives_are_those_of_a_parabola_through_nine_bands(spectra, step, order):
    result = treat(step, spectra)
    offsets = np.arange(-4, 5)
    for row, found in zip(spectra[:5].astype(np.float64), result, strict=False):
        for band in range(4, N_BANDS - 4):
            square, slope, _ = np.polyfit(offsets, row[band - 4 : band + 5], 2)
            assert found[band] == pytest.approx(slope if order == 1 else 2 * square, rel=1e-3, abs=1e-3)


def test_a_derivative_does_not_reach_across_a_gap_in_the_wavelengths(spectra):
    wavelengths = (*np.arange(400, 550, 10.0), *np.arange(580, 730, 10.0))  # a step of 40
    changed = spectra.copy()
    changed[:, 15:] += 5000
    apart, together = (treat("derivative", x, wavelengths=wavelengths) for x in (spectra, changed))
    np.testing.assert_allclose(apart, together, atol=1e-2)
    assert np.abs(treat("derivative", spectra) - treat("derivative", changed)).max() > 100
    backwards = (*np.arange(400, 550, 10.0), *np.arange(500, 650, 10.0))  # two detectors
    np.testing.assert_array_equal(treat("derivative", spectra, wavelengths=backwards), apart)


def test_a_continuum_is_the_upper_convex_hull(spectra):
    wavelengths = tuple(np.linspace(400, 900, N_BANDS) ** 1.1)
    result = treat("continuum", spectra, wavelengths=wavelengths)
    for row, found in zip(spectra[:10].astype(np.float64), result, strict=False):
        points = np.column_stack([wavelengths, row])
        below = [[wavelengths[0], -1e6], [wavelengths[-1], -1e6]]
        corners = [i for i in sorted(ConvexHull(np.vstack([points, below])).vertices) if i < N_BANDS]
        hull = np.interp(wavelengths, points[corners, 0], points[corners, 1])
        np.testing.assert_allclose(found, row / hull, rtol=1e-5)


def test_unit_gives_length_1(spectra):
    result = treat("unit", spectra)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(result * np.linalg.norm(spectra, axis=1, keepdims=True), spectra, rtol=1e-5)


@pytest.mark.parametrize("step", ["snv", "msc", "continuum", "unit", "derivative-snv", "detrend-snv"])
def test_brightness_does_not_change_the_result(spectra, step):
    fitted = fit_pretreatment(step, spectra)
    assert fitted is not None
    gain = np.linspace(0.3, 3, len(spectra))[:, None]
    np.testing.assert_allclose(fitted(spectra * gain), fitted(spectra), rtol=2e-3, atol=2e-3)
    if step in ("snv", "msc", "derivative-snv"):
        np.testing.assert_allclose(fitted(spectra * gain + 100), fitted(spectra), rtol=2e-3, atol=2e-3)


def test_steps_follow_each_other_and_treatments_are_stacked(spectra):
    stacked = treat("none,derivative-snv,snv-msc", spectra)
    assert stacked.shape == (50, 3 * N_BANDS)
    np.testing.assert_array_equal(stacked[:, :N_BANDS], spectra)
    np.testing.assert_allclose(stacked[:, N_BANDS:-N_BANDS], treat("snv", treat("derivative", spectra)), atol=1e-4)
    np.testing.assert_allclose(stacked[:, -N_BANDS:], treat("msc", treat("snv", spectra)), atol=1e-4)
    assert parse_steps(" SNV , Derivative-snv") == (("snv",), ("derivative", "snv"))


def test_brightness_is_what_snv_takes_away(spectra):
    stacked = treat("snv,brightness", spectra)
    assert stacked.shape == (50, N_BANDS + 2)
    back = stacked[:, :N_BANDS] * stacked[:, N_BANDS + 1 :] + stacked[:, N_BANDS : N_BANDS + 1]
    np.testing.assert_allclose(back, spectra, rtol=1e-5)


@every_step
def test_the_result_of_a_spectrum_does_not_depend_on_the_others(spectra, step, monkeypatch):
    fitted = fit_pretreatment(step, spectra)
    assert fitted is not None
    whole = fitted(spectra.reshape(5, 10, N_BANDS))
    monkeypatch.setattr("pretreatment.AT_ONCE", 3 * N_BANDS)
    np.testing.assert_array_equal(fitted(spectra), whole.reshape(50, -1))
    np.testing.assert_array_equal(fitted(spectra[7]), whole.reshape(50, -1)[7])


@every_step
def test_a_spectrum_without_variation_gives_finite_values_and_one_that_is_not_finite_none(spectra, step):
    fitted = fit_pretreatment(step, spectra)
    assert fitted is not None
    odd = np.stack([np.zeros(N_BANDS), np.full(N_BANDS, 1234.567), np.full(N_BANDS, -3.1)]).astype(np.float32)
    assert np.isfinite(fitted(odd)).all()
    if step in ("snv", "msc"):
        assert not fitted(odd).any()
    broken = spectra[:2].copy()
    broken[0, 3] = np.nan
    assert np.isfinite(fitted(broken)[1]).all()
    assert np.isnan(fitted(broken)[0]).all()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("snw", "snw is not a spectral pre-treatment; choose from none, snv"),
        ("snv,", "nothing is not a spectral"),
        ("snv--snv", "nothing is not"),
        ("snv-snv", "same step twice"),
        ("brightness-snv", "brightness leaves no spectrum, so no step can follow it"),
        ("snv,snv", "stacked twice"),
    ],
)
def test_a_wrong_specification_is_refused(spectra, spec, words):
    with pytest.raises(InputError, match=words):
        fit_pretreatment(spec, spectra)


def test_too_few_bands_and_a_scene_without_positive_values_are_refused(spectra):
    with pytest.raises(InputError, match="snv needs at least 2 bands, and there are 1; use --spectral none"):
        fit_pretreatment("snv", spectra[:, :1])
    with pytest.raises(InputError, match="needs at least 3 bands"):
        fit_pretreatment("derivative", spectra[:, :2])
    with pytest.raises(InputError, match="no value is above 0"):
        fit_pretreatment("continuum", -spectra)
    for n_bands in range(3, 12):  # the window of a derivative shrinks
        assert treat("derivative", spectra[:, :n_bands]).shape == (50, n_bands)


def test_preprocessing_fits_on_the_named_pixels_and_is_restored_from_its_state(spectra):
    cube = spectra.reshape(5, 10, N_BANDS)
    train = np.zeros((5, 10), dtype=np.int64)
    train[:2] = 1
    for fit_on, fitted_on in (("scene", spectra), ("train", spectra[:20])):
        fitted = fit_preprocessing(cube, train, spectral="msc,snv", fit_on=fit_on)
        assert fitted.pretreatment is not None
        np.testing.assert_allclose(fitted.pretreatment.references[0], fitted_on.mean(0), rtol=1e-5)
        assert (fitted.n_bands_in, fitted.n_bands_out) == (N_BANDS, 2 * N_BANDS)
        result = fitted(cube)
        of_those = result.reshape(50, -1)[: len(fitted_on)]
        np.testing.assert_allclose(of_those.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(of_those.std(0), 1, atol=1e-3)
        buffer = io.BytesIO()
        torch.save(fitted.state(), buffer)
        buffer.seek(0)
        restored = Preprocessing.from_state(torch.load(buffer, weights_only=True))
        np.testing.assert_array_equal(restored(cube), result)
        assert isinstance(restored.pretreatment, Pretreatment)
    reduced = fit_preprocessing(cube, train, spectral="snv,derivative", n_components=4)
    assert (reduced.n_bands_in, reduced.n_bands_out) == (N_BANDS, 4)
    assert np.cov(reduced(cube).reshape(50, 4), rowvar=False) == pytest.approx(np.eye(4) * 50 / 49, abs=0.05)


def test_pixels_without_data_become_0_and_do_not_count(spectra):
    cube = spectra.reshape(5, 10, N_BANDS).copy()
    cube[0, :3] = -9999
    valid = np.ones((5, 10), dtype=bool)
    valid[0, :3] = False
    fitted = fit_preprocessing(cube, valid, spectral="snv", valid=valid)
    assert not fitted(cube, valid)[0, :3].any()
    np.testing.assert_allclose(fitted(cube, valid)[valid].mean(0), 0, atol=1e-4)


@pytest.mark.parametrize("normalize", ["zscore", "minmax", "none"])
@every_step
def test_every_pretreatment_can_be_normalised(spectra, step, normalize):
    cube = spectra.reshape(5, 10, N_BANDS)
    result = fit_preprocessing(cube, np.ones((5, 10)), spectral=step, normalize=normalize)(cube)
    assert np.isfinite(result).all()
    varies = np.ptp(result, axis=(0, 1)) > 0
    assert varies.sum() >= min(len(varies), N_BANDS) - 2  # the ends of a continuum are 1
    if normalize == "zscore":
        np.testing.assert_allclose(result[:, :, ~varies], 0, atol=1e-5)
        np.testing.assert_allclose(result[:, :, varies].std((0, 1)), 1, atol=1e-3)


def test_a_scene_that_the_pretreatment_makes_constant_is_refused(spectra):
    cube = spectra.reshape(5, 10, N_BANDS)[:, :, :2]  # the SNV of two values is 1 and -1
    with pytest.raises(InputError, match="2 of the 2 values are constant over the whole scene after the pre-treatment"):
        fit_preprocessing(cube * [1, 2], np.ones((5, 10)), spectral="snv")


def test_the_recall_by_mean_spectra_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.choice([1, 3, 4], 90, p=[0.6, 0.3, 0.1])
    spectra = (rng.normal(size=(90, 5)) + 0.7 * labels[:, None]).astype(np.float32) * [1, 10, 100, 1, 0]
    values = np.divide(spectra - spectra.mean(0), spectra.std(0), out=np.zeros_like(spectra), where=spectra.std(0) > 0)
    means = {each: values[labels == each].mean(0) for each in (1, 3, 4)}
    found = [min(means, key=lambda each: ((row - means[each]) ** 2).sum()) for row in values]
    expected = np.mean([np.mean(np.array(found)[labels == each] == each) for each in (1, 3, 4)])
    assert 0.4 < expected < 1
    assert nearest_mean_recall(spectra, labels) == pytest.approx(expected)
