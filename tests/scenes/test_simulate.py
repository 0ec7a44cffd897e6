import os
import re
import subprocess
import sys
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from torch import nn

from scenes.simulate import simulate

SEEDS = (0, 1, 2)
WATER, MEADOW, WHEAT, MAIZE, RAPESEED, WOODLAND, SOIL, ASPHALT, ROOF, GREENHOUSE = range(1, 11)
PLANTS = (MEADOW, WHEAT, MAIZE, RAPESEED, WOODLAND)


@lru_cache
def scene(seed):
    cube, gt = simulate(seed)
    return cube.astype(np.float64), gt


def interior(gt, k):
    """Return the pixels of class k whose eight neighbours are of class k too."""
    return np.asarray(ndimage.minimum_filter(gt == k, 3), bool)


def near(micrometres):
    return abs(np.linspace(0.4, 2.5, 64) - micrometres).argmin()


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_scene():
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    first, again, other = (simulate(seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.mean(first[1] != other[1]) > 0.5
    assert np.mean(first[0] != other[0]) > 0.9
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    np.testing.assert_equal(after, state, "the global generator was used")


def test_another_process_with_another_number_of_threads_makes_the_same_scene():
    code = (
        "from hashlib import sha256; from scenes.simulate import simulate;"
        "print(*(sha256(a.tobytes()).hexdigest() for a in simulate(5, shape=(90, 120, 24), n_classes=12)))"
    )
    here = " ".join(sha256(a.tobytes()).hexdigest() for a in simulate(5, shape=(90, 120, 24), n_classes=12))
    for threads in "13":
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = os.environ | dict.fromkeys(names, threads) | {"PYTHONHASHSEED": threads}
        run = [sys.executable, "-c", code]
        there = subprocess.run(run, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True, check=True)
        assert there.stdout.strip() == here


@pytest.mark.parametrize("seed", SEEDS)
def test_every_class_has_pixels_and_the_rare_ones_are_rare(seed):
    counts = np.bincount(scene(seed)[1].ravel(), minlength=11)[1:]
    assert len(counts) == 10
    assert counts.min() >= 20
    share = counts / counts.sum()
    assert max(share[ROOF - 1], share[GREENHOUSE - 1]) < 0.025
    assert share[MEADOW - 1 : SOIL].min() > 0.04


@pytest.mark.parametrize("seed", SEEDS)
def test_some_pixels_are_unlabelled_but_not_too_many(seed):
    _, gt = scene(seed)
    assert 0.08 < np.mean(gt == 0) < 0.35
    labelled = ndimage.maximum_filter(gt, 3) > 0
    assert np.mean(~labelled) > 0.02, "whole parcels are left out, not border pixels alone"


@pytest.mark.parametrize("seed", SEEDS)
def test_counts_are_positive_unsaturated_and_vary_in_every_band(seed):
    cube, gt = simulate(seed)
    assert (cube.dtype, cube.shape, gt.dtype, gt.shape) == (np.uint16, (128, 128, 64), np.uint8, (128, 128))
    assert cube.min() >= 1
    assert cube.max() < 65535
    assert cube.reshape(-1, 64).std(axis=0).min() > 5
    assert len(np.unique(cube)) > 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_class_spectra_look_like_what_they_are_called(seed):
    cube, gt = scene(seed)
    blue, green, red, infrared, window, wet = (near(at) for at in (0.48, 0.56, 0.67, 0.86, 1.65, 1.94))
    counts = {k: cube[gt == k].mean(axis=0) - 100 for k in range(1, 11)}  # 100: what the sensor gives in the dark
    mean = {k: spectrum / counts[ASPHALT] for k, spectrum in counts.items()}  # asphalt is nearly grey
    for k in PLANTS:
        assert mean[k][infrared] > 1.5 * mean[k][red]
        assert mean[k][wet] < 0.8 * mean[k][window]
    assert mean[WATER][infrared] < 0.4 * mean[WATER][blue]
    assert mean[RAPESEED][green] > 1.2 * mean[MAIZE][green]
    assert mean[ROOF][red] > 1.3 * mean[ROOF][green]
    assert mean[WOODLAND][infrared] < mean[MEADOW][infrared]
    assert mean[GREENHOUSE][blue] > 1.4 * mean[SOIL][blue]


@pytest.mark.parametrize("seed", SEEDS)
def test_border_pixels_are_mixtures_of_the_two_sides(seed):
    cube, gt = scene(seed)
    pure = interior(gt, WATER), np.logical_or.reduce([interior(gt, k) for k in PLANTS])
    water, plants = (cube[pixels].mean(axis=0) for pixels in pure)
    share = (cube - water) @ (plants - water) / ((plants - water) ** 2).sum()  # 0 = water, 1 = plants

    def beside(classes):
        return np.asarray(ndimage.binary_dilation(np.isin(gt, classes), np.ones((3, 3))), bool)

    by_plants = beside(PLANTS) & ~beside((SOIL, ASPHALT, ROOF, GREENHOUSE))
    shore, between = by_plants & (gt == WATER), by_plants & beside([WATER]) & (gt == 0)
    assert shore.sum() > 10
    assert between.sum() > 10
    assert 0.05 < share[shore].mean() < 0.4
    assert 0.3 < share[between].mean() < 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_variation_within_a_class_is_smooth_over_the_land_and_noisy_from_pixel_to_pixel(seed):
    cube, gt = scene(seed)
    infrared = cube[..., near(0.86)]
    for k in (MEADOW, WHEAT, MAIZE):
        inside = interior(gt, k)
        residual = np.where(inside, infrared - infrared[inside].mean(), np.nan)
        assert np.nanstd(residual) > 0.05 * infrared[inside].mean()
        pairs = np.stack([residual[:, :-2], residual[:, 2:]])
        pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
        assert 0.1 < np.corrcoef(pairs)[0, 1] < 0.6


def test_the_light_changes_across_the_scene():
    slopes = []
    for seed in SEEDS:
        cube, gt = scene(seed)
        y, x = (axis / 64 - 1 for axis in np.nonzero(gt))
        columns = np.column_stack([np.eye(11)[gt[gt > 0]][:, 1:], y, x])  # each class its own level, one common slope
        fit = np.linalg.lstsq(columns, np.log(cube.sum(axis=2)[gt > 0]), rcond=None)[0]
        slopes.append(np.hypot(*fit[-2:]))
    assert 0.05 < np.mean(slopes) < 0.2


@pytest.mark.parametrize(
    ("shape", "n_classes"),
    [
        ((16, 16, 8), 2),
        ((16, 16, 8), 20),
        ((16, 300, 8), 3),
        ((301, 17, 9), 10),
        ((33, 47, 130), 5),
        ((64, 50, 12), 16),
    ],
)
def test_other_shapes_and_numbers_of_classes_work(shape, n_classes):
    for seed in SEEDS:
        cube, gt = simulate(seed, shape=shape, n_classes=n_classes)
        assert cube.shape == shape
        assert gt.shape == shape[:2]
        assert gt.max() == n_classes
        assert np.bincount(gt.ravel())[1:].min() >= 2, "one to train on and one to test on"
        assert cube.min() >= 1
        assert cube.reshape(-1, shape[2]).std(axis=0).min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be a whole number >= 0, not -1"),
        ({"seed": None}, "seed must be a whole number >= 0, not None"),
        ({"shape": (15, 16, 8)}, "H, W >= 16 and n_bands >= 8, not (15, 16, 8)"),
        ({"shape": (16, 15, 8)}, "H, W >= 16 and n_bands >= 8, not (16, 15, 8)"),
        ({"shape": (16, 16, 7)}, "H, W >= 16 and n_bands >= 8, not (16, 16, 7)"),
        ({"shape": (16, 16)}, "shape must be (H, W, n_bands)"),
        ({"shape": 128}, "shape must be (H, W, n_bands)"),
        ({"shape": (16, 16.5, 8)}, "shape must be (H, W, n_bands)"),
        ({"n_classes": 1}, "n_classes must be a whole number from 2 to 20, not 1"),
        ({"n_classes": 21}, "n_classes must be a whole number from 2 to 20, not 21"),
        ({"n_classes": 4.5}, "n_classes must be a whole number from 2 to 20, not 4.5"),
        ({"n_classes": "ten"}, "n_classes must be a whole number from 2 to 20, not 'ten'"),
    ],
)
def test_an_invalid_argument_is_named_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        simulate(**arguments)
    assert "\n" not in str(error.value)


def convolutional_network(n_bands, n_classes):
    def block(n_in, n_out, size):
        return nn.Conv2d(n_in, n_out, size, padding=size // 2), nn.BatchNorm2d(n_out), nn.ReLU()

    layers = *block(n_bands, 64, 1), *block(64, 64, 3), *block(64, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(64, n_classes))


def accuracy_of_small_cnn(cube, gt, train, test, epochs):
    """Train on 7 x 7 mirror-padded patches round the pixels `train` (flat indices); return the accuracy on `test`."""
    torch.manual_seed(0)
    padded = torch.from_numpy(np.pad(cube, ((3, 3), (3, 3), (0, 0)), mode="reflect")).permute(2, 0, 1)
    windows = padded.unfold(1, 7, 1).unfold(2, 7, 1)  # (n_bands, H, W, 7, 7)
    columns = gt.shape[1]
    seen, unseen = (windows[:, i // columns, i % columns].transpose(0, 1) for i in map(torch.from_numpy, (train, test)))
    targets = torch.from_numpy(gt.astype(np.int64)).ravel() - 1
    model = convolutional_network(cube.shape[2], int(gt.max()))
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=5e-3)
    steps = epochs * -(-len(train) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for _ in range(epochs):
        for batch in torch.randperm(len(train)).split(64):
            flips = [axis for axis in (2, 3) if torch.rand(()) < 0.5]
            optimiser.zero_grad()
            loss_of(model(seen[batch].flip(flips)), targets[train][batch]).backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        return (model(unseen).argmax(dim=1) == targets[test]).double().mean().item()


def test_single_spectra_fall_ten_points_short_of_a_small_cnn_which_is_not_perfect_either():
    cube, gt = scene(0)
    cube = ((cube - cube.mean(axis=(0, 1))) / cube.std(axis=(0, 1))).astype(np.float32)
    rng = np.random.default_rng(0)
    order = [rng.permutation(np.flatnonzero(gt == k)) for k in range(1, 11)]
    train = np.concatenate([pixels[: round(0.1 * len(pixels))] for pixels in order])
    test = rng.permutation(np.concatenate([pixels[round(0.1 * len(pixels)) :] for pixels in order]))[:3000]
    spectra, targets = cube.reshape(-1, 64), gt.ravel()
    regressions = (LogisticRegression(C=c, max_iter=2000).fit(spectra[train], targets[train]) for c in (0.1, 1, 10))
    spectral = max(regression.score(spectra[test], targets[test]) for regression in regressions)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spatial = accuracy_of_small_cnn(cube, gt, train, test, epochs=12)
    finally:
        torch.set_num_threads(threads)
    assert spectral > 0.65, "hard, yet not hopeless"
    assert spatial - spectral >= 0.10
    assert spatial < 0.99
