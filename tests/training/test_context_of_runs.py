"""Which pixels count in the context of a run, what a run says of it, and what it is for components and places."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_cdt

from context import fit_context
from datasets import load_scene
from training.config import RunConfig
from training.prepare import prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return load_scene("Simulated", tmp_path_factory.mktemp("data"), need_gt=True)


def job_of(scene, **settings):
    settings = {"dataset": "Simulated", "model": "CNN", "patch_size": 3, "context": "gaussian", **settings}
    return prepare(RunConfig(**settings), scene, CPU)


def test_on_folds_the_land_near_training_pixels_does_not_count(scene):
    job = job_of(scene, sampling_mode="spatial", buffer=5, training_sample=20.0, val_fraction=0.2)
    assert job.surroundings is not None and job.surroundings.valid is not None
    assert job.split.validation is not None
    learned = (job.split.train > 0) | (job.split.validation > 0)
    near = np.asarray(distance_transform_cdt(~learned, "chessboard")) < 5
    assert np.array_equal(job.surroundings.valid.numpy(), ~near)
    assert job.surroundings.valid.numpy()[job.split.test > 0].all()
    assert any("nearer than 5 to a training pixel do not count" in note for note in job.protocol["notes"])
    assert (job.config.window, job.protocol["context"]["size"]) == (3, 15)


def test_otherwise_all_count_whose_patch_may_be_predicted_and_the_audit_has_the_whole_window(scene):
    job = job_of(scene, sampling_mode="random", context_size=7)
    assert job.surroundings is not None and job.surroundings.valid is not None
    assert job.surroundings.valid.all()
    assert job.protocol["audit"]["patch_size"] == job.config.window == 9
    assert not any("do not count" in note for note in job.protocol["notes"])
    skipped = job_of(scene, sampling_mode="random", border="skip", patch_size=5)
    assert skipped.surroundings is not None and skipped.surroundings.valid is not None
    inside = np.zeros((128, 128), dtype=bool)
    inside[2:-2, 2:-2] = True
    assert np.array_equal(skipped.surroundings.valid.numpy(), inside)
    assert job_of(scene, context="none").surroundings is None
    assert job_of(scene, context="none").protocol["context"] is None


def test_a_context_is_fitted_on_the_pixels_that_fit_on_names(scene):
    job = job_of(scene, sampling_mode="random", fit_on="train")
    assert job.surroundings is not None
    expected = fit_context(15, job.cube, torch.from_numpy(job.split.train > 0))
    torch.testing.assert_close(job.surroundings.context.components, expected.components)
    of_all = fit_context(15, job.cube)
    assert (of_all.components - expected.components).abs().max() > 1e-3


def test_the_context_of_components_and_of_coordinates_is_that_of_the_spectra(scene):
    job = job_of(scene, sampling_mode="random", spectral="snv")
    reduced = job_of(scene, sampling_mode="random", spectral="snv", pca=12)
    places = job_of(scene, sampling_mode="random", spectral="snv", model="Location", patch_size=1)
    assert job.surroundings is not None and reduced.surroundings is not None and places.surroundings is not None
    expected = job.surroundings.features
    signs = (reduced.surroundings.features * expected).sum((0, 1)).sign()
    torch.testing.assert_close(reduced.surroundings.features * signs, expected, atol=2e-2, rtol=1e-2)
    assert places.surroundings.features.equal(expected)
