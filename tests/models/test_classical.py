"""The classifiers that are fitted at once: against scikit-learn, through a checkpoint, and location alone."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from models import MODELS, create_model
from splits.regions import nearest_label

FITTED = [name for name, entry in MODELS.items() if not entry.trained]
SPECTRAL = [name for name in FITTED if MODELS[name].looks_at == "pixel"]
N_BANDS, N_CLASSES = 5, 4
make: Any = create_model


def spectra(n=90, seed=0):
    """Spectra of three of four classes, which overlap, and their classes 0, 1 and 3."""
    rng = np.random.default_rng(seed)
    labels = np.array([0, 1, 3])[rng.integers(0, 3, n)]
    x = rng.normal(size=(n, N_BANDS)) + np.eye(N_CLASSES, N_BANDS)[labels] * 1.5
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def fitted(name, seed=0, n=90):
    model = make(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=1)
    model.fit(*spectra(n), seed)
    return model


def probabilities(model, x):
    return model.class_probabilities(model.encode(x[:, :, None, None])).numpy()


@pytest.mark.parametrize("name", SPECTRAL)
def test_probabilities_sum_to_1_and_a_class_without_training_pixels_is_never_predicted(name):
    p = probabilities(fitted(name), spectra(200, seed=1)[0])
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert set(p.argmax(1)) == {0, 1, 3}
    assert (p.argmax(1) == spectra(200, seed=1)[1].numpy()).mean() > 0.6


@pytest.mark.parametrize("name", FITTED)
def test_a_checkpoint_holds_what_was_fitted_and_gives_the_same_bits(name):
    model, x = fitted(name, seed=3), spectra(50, seed=2)[0]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert set(state) == {"spectra", "labels", "seed", *(["chosen"] if name in ("SVM", "kNN", "LR") else [])}
    again = make(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=1)
    again.load_state_dict(state)
    assert np.array_equal(probabilities(model, x), probabilities(again, x))
    assert int(again.seed) == 3


@pytest.mark.parametrize("name", ["SVM", "kNN", "LR"])
def test_what_was_chosen_is_kept_so_that_loading_fits_once_and_an_older_checkpoint_searches_again(name, monkeypatch):
    model, x = fitted(name, seed=3), spectra(50, seed=2)[0]
    expected, state = probabilities(model, x), model.state_dict()
    older = make(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=1)
    older.load_state_dict({part: value for part, value in state.items() if part != "chosen"})
    assert older.fitted.best_params_ == model.fitted.best_params_
    monkeypatch.setattr(GridSearchCV, "fit", None)  # no search
    again = make(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=1)
    again.load_state_dict(state)
    assert int(again.state_dict()["chosen"]) == int(state["chosen"]) == model.fitted.best_index_
    for each in (older, again):
        assert np.array_equal(probabilities(each, x), expected)


@pytest.mark.parametrize("labels", [[0, 0], [0, 1]])  # one class; no two folds
def test_settings_that_could_not_be_chosen_are_not_chosen_afterwards(labels):
    model = make("SVM", n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=1)
    model.fit(spectra(2)[0], torch.tensor(labels), 0)
    again = make("SVM", n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=1)
    again.load_state_dict(model.state_dict())
    assert int(again.state_dict()["chosen"]) == -1
    assert np.array_equal(probabilities(model, spectra(9)[0]), probabilities(again, spectra(9)[0]))


@pytest.mark.parametrize("name", ["RF", "SGD"])
def test_the_seed_matters_where_something_is_drawn(name):
    x = spectra(300, seed=2)[0]
    one, same, other = (probabilities(fitted(name, seed=seed), x) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_the_support_vector_machine_is_the_best_of_the_grid():
    x, y = (each.numpy() for each in spectra())
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    grid = {"C": [1, 10, 100, 1000], "gamma": [0.001, 0.01, 0.1, "scale"]}
    search = GridSearchCV(SVC(break_ties=True), grid, cv=folds).fit(x.astype(float), y)
    model, new = fitted("SVM"), spectra(200, seed=1)[0]
    assert model.fitted.best_params_ == search.best_params_
    assert np.array_equal(probabilities(model, new).argmax(1), search.predict(new.numpy().astype(float)))


def test_neighbours_are_weighted_by_distance_and_their_number_is_chosen():
    x, y = (each.numpy() for each in spectra())
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    best = GridSearchCV(KNeighborsClassifier(weights="distance"), {"n_neighbors": [1, 3, 5, 10, 20]}, cv=folds).fit(
        x, y
    )
    model, new = fitted("kNN"), spectra(200, seed=1)[0]
    assert model.fitted.best_params_ == best.best_params_ != {"n_neighbors": 1}
    expected = best.predict_proba(new.numpy())
    np.testing.assert_allclose(probabilities(model, new)[:, [0, 1, 3]], expected, atol=1e-6)


def test_linear_models_have_a_weight_per_band_and_class():
    assert fitted("LR").n_parameters == fitted("SGD").n_parameters == 3 * N_BANDS + 3
    assert fitted("SVM").n_parameters is None
    x, y = (each.numpy() for each in spectra())
    best = fitted("LR").fitted.best_params_["C"]
    expected = LogisticRegression(C=best, max_iter=1000).fit(x.astype(float), y).predict_proba(x)
    np.testing.assert_allclose(probabilities(fitted("LR"), spectra()[0])[:, [0, 1, 3]], expected, atol=1e-4)
    machine = SGDClassifier(class_weight="balanced", average=True, random_state=0).fit(x.astype(float), y)
    assert np.array_equal(probabilities(fitted("SGD"), spectra()[0]).argmax(1), machine.predict(x))


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 1, 1], [0, 0, 0, 0, 0, 0, 2]])
def test_few_training_pixels_are_enough(name, labels):
    model, x = make(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=1), spectra(10)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(x[: len(labels)], torch.tensor(labels), 0)
    assert set(probabilities(model, x).argmax(1)) <= set(labels)


def test_location_alone_is_the_label_of_the_nearest_training_pixel():
    rng = np.random.default_rng(0)
    train = np.where(rng.random((12, 15)) < 0.2, rng.integers(1, N_CLASSES + 1, (12, 15)), 0)
    pixels, everywhere = np.argwhere(train > 0), np.argwhere(np.ones_like(train))
    model = make("Location", n_bands=2, n_classes=N_CLASSES, patch_size=1)
    model.fit(torch.from_numpy(pixels).float(), torch.from_numpy(train[train > 0] - 1), 0)
    found = probabilities(model, torch.from_numpy(everywhere).float())
    assert np.array_equal(found.argmax(1) + 1, nearest_label(train, everywhere))
    assert found.max(1).min() > 0.999
