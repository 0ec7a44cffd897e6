"""The classes' spectra: means, spreads and random pixels."""

import statistics

import numpy as np
import pytest

from reporting.spectra import class_spectra, random_spectra


@pytest.fixture
def scene():
    """A cube (6, 7, 4) float32 and labels 0..3, of which class 2 has no pixel."""
    rng = np.random.default_rng(3)
    return rng.normal(1000, 50, (6, 7, 4)).astype(np.float32), rng.choice([0, 1, 3], (6, 7)).astype(np.uint8)


def spectra_of(cube, labels, label):
    return [cube[i, j].tolist() for i in range(6) for j in range(7) if labels[i, j] == label]


def test_mean_and_spread_are_those_of_the_classs_pixels_band_by_band(scene):
    cube, labels = scene
    mean, std = class_spectra(cube, labels, 3)
    assert mean.shape == std.shape == (3, 4)
    for label in (1, 3):
        bands = list(zip(*spectra_of(cube, labels, label), strict=True))
        np.testing.assert_allclose(mean[label - 1], [statistics.fmean(band) for band in bands], rtol=1e-12)
        np.testing.assert_allclose(std[label - 1], [statistics.pstdev(band) for band in bands], rtol=1e-9)


def test_a_class_without_pixels_has_no_spectrum(scene):
    mean, std = class_spectra(*scene, n_classes=3)
    assert np.isnan(mean[1]).all()
    assert np.isnan(std[1]).all()
    assert random_spectra(*scene, n_classes=3, n_each=5, rng=np.random.default_rng(0))[1].shape == (0, 4)


def test_random_spectra_are_different_pixels_of_their_class(scene):
    cube, labels = scene
    drawn = random_spectra(cube, labels, 3, 4, np.random.default_rng(0))
    assert [len(spectra) for spectra in drawn] == [4, 0, 4]
    for label in (1, 3):
        found = {tuple(spectrum) for spectrum in drawn[label - 1].tolist()}
        assert len(found) == 4
        assert found <= {tuple(spectrum) for spectrum in spectra_of(cube, labels, label)}
    everything = random_spectra(cube, labels, 3, 1000, np.random.default_rng(0))
    assert sorted(everything[0].tolist()) == sorted(spectra_of(cube, labels, 1))


def test_random_spectra_are_the_same_for_the_same_seed_alone(scene):
    first, again, other = (
        random_spectra(*scene, n_classes=3, n_each=4, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first[2], again[2])
    assert (first[2] != other[2]).any()


def test_labels_that_do_not_fit_the_cube_are_refused(scene):
    cube, labels = scene
    with pytest.raises(ValueError, match=r"the labels are \(7, 6\), but the cube has \(6, 7\) pixels"):
        class_spectra(cube, labels.T, 3)
    with pytest.raises(ValueError, match="label 3 is above the 2 classes"):
        random_spectra(cube, labels, 2, 1, np.random.default_rng(0))
