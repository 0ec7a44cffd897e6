"""Normalisation and band reduction against scikit-learn, fitted on the pixels that were named and no others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from preprocessing import NORMALIZATIONS, Preprocessing, fit_preprocessing
from scenes.matfiles import read_arrays
from utils import InputError

N_BANDS = 6
SCALERS = {"zscore": StandardScaler(), "minmax": MinMaxScaler(), "none": None}
every_normalisation = pytest.mark.parametrize("normalize", NORMALIZATIONS)
every_fit = pytest.mark.parametrize("fit_on", ["scene", "train"])


@pytest.fixture
def cube():
    """Correlated counts of an offset that is large against their spread, as sensors give them, (11, 13, 6)."""
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(11, 13, N_BANDS)) * [200, 60, 30, 10, 5, 3] @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    return (spread + 3000 + 100 * np.arange(N_BANDS)).astype(np.float32)


@pytest.fixture
def train():
    """40 training pixels of three classes, (11, 13)."""
    rng = np.random.default_rng(1)
    labels = np.zeros(11 * 13, dtype=np.int64)
    labels[rng.permutation(labels.size)[:40]] = rng.integers(1, 4, 40)
    return labels.reshape(11, 13)


def spectra_of(cube, train, fit_on):
    return (cube.reshape(-1, N_BANDS) if fit_on == "scene" else cube[train > 0]).astype(np.float64)


@every_fit
@every_normalisation
def test_normalisation_equals_scikit_learns(cube, train, normalize, fit_on):
    fitted = fit_preprocessing(cube, train, normalize=normalize, fit_on=fit_on)
    result = fitted(cube)
    every = cube.reshape(-1, N_BANDS).astype(np.float64)
    scaler = SCALERS[normalize]
    expected = every if scaler is None else scaler.fit(spectra_of(cube, train, fit_on)).transform(every)
    np.testing.assert_allclose(result.reshape(-1, N_BANDS), expected, rtol=1e-5, atol=2e-4)
    assert result.shape == cube.shape
    assert result.dtype == np.float32
    assert (fitted.n_bands_in, fitted.n_bands_out) == (N_BANDS, N_BANDS)


@every_fit
@every_normalisation
@pytest.mark.parametrize("n_components", [1, 3, N_BANDS])
def test_components_equal_scikit_learns_whitened_ones_up_to_sign(cube, train, normalize, fit_on, n_components):
    fitted = fit_preprocessing(cube, train, normalize=normalize, fit_on=fit_on, n_components=n_components)
    result = fitted(cube).reshape(-1, n_components)
    spectra, every = spectra_of(cube, train, fit_on), cube.reshape(-1, N_BANDS).astype(np.float64)
    if SCALERS[normalize] is not None:
        scaler = SCALERS[normalize].fit(spectra)
        spectra, every = scaler.transform(spectra), scaler.transform(every)
    expected = PCA(n_components, whiten=True, svd_solver="full").fit(spectra).transform(every)
    signs = np.sign((result * expected).sum(0))
    np.testing.assert_allclose(result * signs, expected, atol=5e-3)
    assert result.dtype == np.float32
    assert (fitted.n_bands_in, fitted.n_bands_out) == (N_BANDS, n_components)


def test_the_components_of_a_real_scene_are_uncorrelated_and_of_variance_1(real_data):
    path = real_data / "IndianPines" / "Indian_pines_corrected.mat"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    cube = read_arrays(path)["indian_pines_corrected"].astype(np.float32)
    for normalize in ("zscore", "none"):
        fitted = fit_preprocessing(cube, np.ones(cube.shape[:2]), normalize=normalize, n_components=30)
        covariance = np.cov(fitted(cube).reshape(-1, 30).astype(np.float64), rowvar=False)
        np.testing.assert_allclose(covariance, np.eye(30), atol=0.01, err_msg=normalize)


@every_normalisation
def test_fitted_on_training_pixels_no_other_pixel_matters(cube, train, normalize):
    keywords = {"normalize": normalize, "fit_on": "train", "n_components": 2}
    before = fit_preprocessing(cube, train, **keywords)
    changed = cube.copy()
    changed[train == 0] *= 7
    after = fit_preprocessing(changed, train, **keywords)
    np.testing.assert_array_equal(before(cube), after(cube))
    changed[tuple(np.argwhere(train > 0)[0])] += 500
    assert (fit_preprocessing(changed, train, **keywords)(cube) != before(cube)).any()


def test_fitted_on_the_scene_the_labels_do_not_matter_and_every_pixel_does(cube, train):
    before = fit_preprocessing(cube, train, fit_on="scene")
    np.testing.assert_array_equal(fit_preprocessing(cube, 0 * train, fit_on="scene")(cube), before(cube))
    changed = cube.copy()
    changed[tuple(np.argwhere(train == 0)[0])] *= 7
    assert (fit_preprocessing(changed, train, fit_on="scene")(cube) != before(cube)).any()


def test_the_fit_leaves_the_cube_alone(cube, train):
    before = cube.copy()
    fit_preprocessing(cube, train, n_components=2)(cube)
    np.testing.assert_array_equal(cube, before)


@pytest.mark.parametrize("normalize", ["zscore", "minmax"])
def test_a_constant_band_is_named(cube, train, normalize):
    cube[..., [1, 4]] = 7
    with pytest.raises(InputError, match=r"2 of the 6 bands are constant over the whole scene .*0: 1, 4\)"):
        fit_preprocessing(cube, train, normalize=normalize)
    fit_preprocessing(cube, train, normalize="none")


def test_a_band_that_is_constant_over_the_training_pixels_alone_matters_only_to_a_fit_on_them(cube, train):
    cube[train > 0, 2] = 7
    with pytest.raises(InputError, match=r"1 of the 6 bands .* constant over the training pixels .*0: 2\)"):
        fit_preprocessing(cube, train, fit_on="train")
    fit_preprocessing(cube, train, fit_on="scene")


@pytest.mark.parametrize("n_components", [-1, N_BANDS + 1, 100])
def test_more_components_than_bands_are_refused(cube, train, n_components):
    with pytest.raises(InputError, match=f"pca {n_components}"):
        fit_preprocessing(cube, train, n_components=n_components)


@pytest.mark.parametrize("n_pixels", [1, 4])
def test_components_without_variance_are_refused_where_training_pixels_are_few(cube, train, n_pixels):
    few = np.zeros_like(train)
    few[0, :n_pixels] = 1
    with pytest.raises(InputError, match=f"pca {n_pixels}"):
        fit_preprocessing(cube, few, normalize="none", fit_on="train", n_components=n_pixels)


@every_normalisation
def test_components_without_variance_are_refused_where_bands_depend_on_each_other(cube, train, normalize):
    cube[..., 5] = 2 * cube[..., 4]
    with pytest.raises(InputError, match="pca 6"):
        fit_preprocessing(cube, train, normalize=normalize, n_components=6)
    assert np.abs(fit_preprocessing(cube, train, normalize=normalize, n_components=5)(cube)).max() < 10


@every_fit
@pytest.mark.parametrize("n_components", [0, 3])
def test_the_state_survives_a_checkpoint(cube, train, tmp_path, fit_on, n_components):
    fitted = fit_preprocessing(cube, train, fit_on=fit_on, n_components=n_components)
    torch.save(fitted.state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor | str | None) for value in state.values())
    again = Preprocessing.from_state(state)
    assert (again.normalize, again.fit_on) == ("zscore", fit_on)
    np.testing.assert_array_equal(again(cube), fitted(cube))
    replaced = replace(again, offset=again.offset + 1)
    assert (replaced(cube) != fitted(cube)).any()


@pytest.mark.parametrize("n_components", [0, 2])
def test_pixels_without_data_become_0_and_no_other_changes(cube, train, n_components):
    fitted = fit_preprocessing(cube, train, n_components=n_components)
    valid = np.random.default_rng(2).random(train.shape) < 0.7
    result = fitted(cube, valid)
    assert (result[~valid] == 0).all()
    np.testing.assert_array_equal(result[valid], fitted(cube)[valid])


def test_whole_numbers_and_single_pixels_are_taken_too(cube, train):
    counts = cube.astype(np.uint16)
    fitted = fit_preprocessing(counts.astype(np.float32), train, n_components=2)
    np.testing.assert_array_equal(fitted(counts), fitted(counts.astype(np.float32)))
    np.testing.assert_allclose(fitted(counts[3, 4]), fitted(counts)[3, 4], atol=1e-5)
