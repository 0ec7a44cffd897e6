"""The Gaussian context against loops over pixels, and what it leaves alone."""

import io
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from context import GaussianContext, Surroundings, fit_context

SHAPE = HEIGHT, WIDTH, N_CLASSES = 9, 11, 4


@pytest.fixture
def cube():
    """Correlated values, (9, 11, 14)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(HEIGHT, WIDTH, 14, generator=generator) @ torch.randn(14, 14, generator=generator) + 2


@pytest.fixture
def probabilities():
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)).softmax(-1)


def by_hand(context, probabilities, z, counts):
    """The formula of the class, pixel by pixel in float64."""
    out = np.zeros(SHAPE)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            total = 0.0
            for other in np.ndindex(HEIGHT, WIDTH):
                away = (other[0] - row, other[1] - column)
                if max(map(abs, away)) > context.size // 2 or not (counts[other] or away == (0, 0)):
                    continue
                d_feature = float(((z[other] - z[row, column]) ** 2).sum())
                weight = math.exp(-(away[0] ** 2 + away[1] ** 2) / (2 * context.spread**2))
                weight *= math.exp(-d_feature / (2 * context.similarity**2))
                out[row, column] += weight * probabilities[other].numpy()
                total += weight
            out[row, column] /= total
    return out


@pytest.mark.parametrize("size", [3, 5, 15, 25])  # the last reaches beyond both sides of the scene
def test_the_average_is_that_of_the_formula(cube, probabilities, size):
    context = fit_context(size, cube)
    z = context.features(cube)
    counts = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)) < 0.7
    result = context(probabilities, z, counts.float())
    np.testing.assert_allclose(result, by_hand(context, probabilities, z.double(), counts), atol=1e-6)
    np.testing.assert_allclose(result.sum(-1), 1, atol=1e-6)


def test_the_features_are_principal_components_over_their_common_standard_deviation(cube):
    context = fit_context(5, cube)
    spectra = cube.flatten(0, 1).double().numpy()
    expected = PCA(10).fit_transform(spectra)
    expected /= expected.std()
    z = context.features(cube).flatten(0, 1).numpy()
    signs = np.sign((z * expected).sum(0))
    np.testing.assert_allclose(z * signs, expected, atol=1e-4)
    assert (context.reach, context.spread, context.similarity) == (2, 2 * 4 / 7, 2.0)
    assert fit_context(5, cube[:, :, :3]).features(cube[:, :, :3]).shape == (HEIGHT, WIDTH, 3)


def test_whitened_components_get_their_variance_again(cube):
    spectra = cube.flatten(0, 1).double().numpy()
    pca = PCA(6, whiten=True).fit(spectra)
    whitened = torch.from_numpy(pca.transform(spectra)).float().view(HEIGHT, WIDTH, 6)
    deviations = torch.from_numpy(np.sqrt(pca.explained_variance_))
    z = fit_context(5, whitened, weight=deviations).features(whitened)
    expected = pca.transform(spectra) * np.sqrt(pca.explained_variance_)
    expected /= expected.std()
    np.testing.assert_allclose(z.flatten(0, 1).abs(), np.abs(expected), atol=1e-3)


def test_only_pixels_with_data_are_fitted_on(cube):
    valid = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    valid[0] = False
    broken = cube.clone()
    broken[0] = 1e6
    torch.testing.assert_close(fit_context(3, broken, valid).components, fit_context(3, cube[1:]).components)


def test_a_pixel_is_averaged_with_its_like_and_not_across_an_edge(probabilities):
    """Two halves of different spectra: each is averaged alone."""
    cube = torch.zeros(HEIGHT, WIDTH, 3)
    cube[:, 6:] = 50
    cube += torch.randn(cube.shape, generator=torch.Generator().manual_seed(3)) / 10
    context = GaussianContext(5, 1.5, 0.05, torch.zeros(3), torch.eye(3) / 50)
    result = context(probabilities, context.features(cube), torch.ones(HEIGHT, WIDTH))
    changed = probabilities.clone()
    changed[:, 6:] = torch.eye(N_CLASSES)[0]
    again = context(changed, context.features(cube), torch.ones(HEIGHT, WIDTH))
    torch.testing.assert_close(result[:, :6], again[:, :6])
    assert (result[:, 7:] - again[:, 7:]).abs().max() > 0.1


def test_a_pixel_without_data_does_not_count_for_others_but_for_itself(cube, probabilities):
    context = fit_context(3, cube)
    valid = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    valid[4, 4] = False
    surroundings = Surroundings(context, context.features(cube), valid)
    known = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    before = surroundings.average(probabilities, known)
    changed = probabilities.clone()
    changed[4, 4] = torch.eye(N_CLASSES)[1]
    differs = (surroundings.average(changed, known) != before).any(-1)
    assert differs.nonzero().tolist() == [[4, 4]]


def test_needed_are_the_pixels_within_the_window(cube):
    context = fit_context(5, cube)
    wanted = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    wanted[0, 0] = wanted[5, 6] = True
    expected = torch.zeros_like(wanted)
    expected[:3, :3] = expected[3:8, 4:9] = True
    assert Surroundings(context, context.features(cube)).needed(wanted).equal(expected)
    valid = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, 0] = valid[3, 4] = False
    expected[3, 4] = False  # the first is wanted itself
    assert Surroundings(context, context.features(cube), valid).needed(wanted).equal(expected)


def test_a_context_is_restored_from_its_state(cube, probabilities):
    context = fit_context(5, cube)
    buffer = io.BytesIO()
    torch.save(context.state(), buffer)
    buffer.seek(0)
    restored = GaussianContext(**torch.load(buffer, weights_only=True))
    ones = torch.ones(HEIGHT, WIDTH)
    expected = context(probabilities, context.features(cube), ones)
    assert restored(probabilities, restored.features(cube), ones).equal(expected)
