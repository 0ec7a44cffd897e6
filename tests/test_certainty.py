"""Calibration and prediction sets: by hand, by simulation, and from the command line."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import small
from scipy.special import softmax
from tiny import large, write_described

import main
from certainty import (
    COVERAGES,
    N_BINS,
    TEMPERATURES,
    accuracy_by_coverage,
    calibration,
    conformal_threshold,
    fit_temperature,
    prediction_sets,
    set_scores,
)
from datasets import load_scene
from models.base import combine_scales
from scenes.rasters import open_raster
from training.checkpoint import Checkpoint

sizes = settings(max_examples=60, deadline=None)


def test_the_calibration_error_of_bins_worked_by_hand():
    found = calibration([1, 1, 0, 1, 0, 0], [0.95, 1.0, 0.95, 0.5, 0.5, 0.0])
    assert [each["n"] for each in found["bins"]] == [1, 2, 3]
    assert [each["accuracy"] for each in found["bins"]] == pytest.approx([0, 1 / 2, 2 / 3])
    assert [each["confidence"] for each in found["bins"]] == pytest.approx([0, 0.5, 2.9 / 3])
    assert found["expected_calibration_error"] == pytest.approx((0 + 0 + 0.9) / 6)
    assert np.isnan(calibration([], [])["expected_calibration_error"])


def test_the_bins_hold_their_upper_ends():
    edges = np.arange(1, N_BINS + 1) / N_BINS
    found = calibration(np.ones(N_BINS), edges)
    assert [each["n"] for each in found["bins"]] == [1] * N_BINS
    assert [each["to"] for each in found["bins"]] == pytest.approx(list(edges))


@sizes
@given(n=st.integers(1, 60), levels=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_the_accuracy_by_coverage_is_the_mean_over_all_orders_of_equally_certain_pixels(n, levels, seed):
    rng = np.random.default_rng(seed)
    right, confidence = rng.random(n) < 0.6, rng.integers(0, levels, n) / 4
    entries = accuracy_by_coverage(right, confidence)
    assert [e["coverage"] for e in entries] == list(COVERAGES) and entries[0]["accuracy"] == pytest.approx(right.mean())
    orders = [np.lexsort((rng.random(n), -confidence)) for _ in range(400)]
    for entry in entries:
        kept = [right[order[: entry["n"]]].mean() for order in orders]
        spread = np.std(kept)
        assert abs(np.mean(kept) - entry["accuracy"]) <= 5 * spread / np.sqrt(len(orders)) + 1e-9
        assert entry["n"] == max(1, round(entry["coverage"] * n))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_a_classifier_that_is_too_certain_by_a_known_factor_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(40_000, 5))
    target = (softmax(logits, 1).cumsum(1) < rng.random((len(logits), 1))).sum(1).clip(max=4)
    assert fit_temperature(softmax(temperature * logits, 1), target) == pytest.approx(temperature, rel=0.03)


def test_the_temperature_stays_within_its_bounds_and_needs_pixels():
    right, wrong = np.array([[0.6, 0.4]] * 20), np.array([[1.0, 0.0]] * 20)
    assert fit_temperature(right, np.zeros(20)) == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert fit_temperature(wrong, np.ones(20)) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    with pytest.raises(ValueError, match="without pixels"):
        fit_temperature(np.ones((0, 3)), [])


@pytest.mark.parametrize("name", ["CNN", "MiM-v1"])
def test_a_temperature_raises_the_probabilities_to_a_power_and_keeps_the_labels(name):
    model = small(name).eval()
    with torch.no_grad():
        logits = 3 * torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0))
        before = model.class_probabilities(logits).double()
        model.temperature = 2.5
        after = model.class_probabilities(logits)
        powers = before ** (1 / 2.5)
        torch.testing.assert_close(after.double(), powers / powers.sum(-1, keepdim=True), rtol=1e-5, atol=1e-7)
        assert torch.equal(after.argmax(-1), before.argmax(-1))
        patch = torch.randn(5, 6, 5, 5, generator=torch.Generator().manual_seed(1))
        scales = model.forward_scales(patch)
        torch.testing.assert_close(model(patch).exp(), model.class_probabilities(scales), rtol=1e-5, atol=1e-7)
        assert not torch.allclose(model(patch), combine_scales(scales), atol=1e-3)


@pytest.mark.parametrize(
    ("n", "risk", "rank"),  # the rank among the probabilities, falling, from 1
    [(9, 0.1, 9), (10, 0.1, 10), (19, 0.1, 18), (20, 0.1, 19), (99, 0.05, 95), (4, 0.5, 3), (9, 0.3, 7)],
)
def test_the_threshold_has_the_rank_of_split_conformal_prediction(n, risk, rank):
    p_right = np.random.default_rng(0).permutation(np.linspace(0.9, 0.1, n))
    assert conformal_threshold(p_right, risk) == sorted(p_right, reverse=True)[rank - 1]


def test_too_few_pixels_for_the_risk_give_sets_of_all_classes():
    assert conformal_threshold(np.full(8, 0.9), 0.1) == 0 < conformal_threshold(np.full(9, 0.9), 0.1)
    assert prediction_sets(np.array([[1.0, 0.0, 0.0]]), 0.0).all()
    assert prediction_sets(np.array([[0.3, 0.4, 0.3]]), 0.9).tolist() == [[False, True, False]]  # the label alone
    for risk in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            conformal_threshold([0.5], risk)


def test_sets_hold_the_right_class_as_often_as_wanted_on_pixels_drawn_alike():
    """The theorem: between 1 - risk and 1 - risk + 1 / (n + 1), averaged over the draws of both sides."""
    rng, risk, n, n_draws, n_new = np.random.default_rng(0), 0.2, 30, 1500, 40
    held = []
    for _ in range(n_draws):
        logits = rng.normal(size=(n + n_new, 12))  # the classes are hard to tell, so the label alone is too little
        target = (softmax(logits, 1).cumsum(1) < rng.random((len(logits), 1))).sum(1).clip(max=11)
        p = softmax(1.5 * logits, 1)  # not calibrated, which sets do not need
        threshold = conformal_threshold(p[np.arange(n), target[:n]], risk)
        sets = prediction_sets(p[n:], threshold)
        assert sets[np.arange(n_new), p[n:].argmax(1)].all()
        held.append(set_scores(sets, target[n:])["coverage"])
    error = np.std(held) / math.sqrt(n_draws)
    assert 1 - risk - 4 * error < np.mean(held) < 1 - risk + 1 / (n + 1) + 4 * error


def test_the_scores_of_sets_worked_by_hand():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 1]], dtype=bool)
    found = set_scores(sets, [0, 1, 0, 1])
    assert (found["coverage"], found["mean_size"]) == (0.75, 1.75)
    np.testing.assert_array_equal(found["class_coverage"], [0.5, 1, np.nan])
    assert found["sizes"].tolist() == [2, 1, 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with temperature and prediction sets, and its scene's folder."""
    home = tmp_path_factory.mktemp("certain")
    fields = large()
    fields.cube, fields.gt = np.tile(fields.cube, (3, 3, 1)), np.tile(fields.gt, (3, 3))  # enough for several blocks
    fields.cube = fields.cube + np.random.default_rng(1).integers(0, 600, fields.cube.shape).astype(np.uint16)
    write_described(home / "Fields", fields, masks=False)
    command = ["--dataset", "Fields", "--folder", home, "--model", "CNN", "--dim", 8, "--epoch", 3, "--patch_size", 3]
    command += ["--training_sample", 0.5, "--val_fraction", 0.4, "--calibrate", "--conformal", 0.2, "--cuda", -1]
    assert main.main([*map(str, command), "--visdom", "off", "--output", str(home / "runs")]) == 0
    (folder,) = (home / "runs" / "CNN").glob("*/*")
    return folder, home


def test_a_run_keeps_temperature_and_sets_and_measures_them(run):
    folder, _ = run
    metrics, checkpoint = json.loads((folder / "metrics.json").read_text()), Checkpoint.load(folder / "last.pt")
    assert metrics["temperature"] == checkpoint.temperature != 1
    assert checkpoint.p_right is not None
    conformal = metrics["conformal"]
    assert conformal["n_validation"] == len(checkpoint.p_right) == metrics["protocol"]["n_validation"]
    assert conformal["threshold"] == conformal_threshold(checkpoint.p_right, 0.2)
    with np.load(folder / "maps.npz") as maps:
        sets, test, confidence, validation = (maps[k] for k in ("sets", "test", "confidence", "validation"))
    tested = test > 0
    assert conformal["coverage"] == pytest.approx(set_scores(sets[tested], test[tested] - 1)["coverage"])
    low, high = conformal["coverage_interval"]
    assert low <= conformal["coverage"] <= high
    assert (sets.sum(-1) >= 1).all() and sets.sum(-1).max() > 1
    labels = np.load(folder / "prediction.npy")
    assert np.take_along_axis(sets, labels[..., None].astype(int) - 1, 2).all()
    right = confidence[(labels == validation) & (validation > 0)]  # of the map's own probabilities
    assert set(right) <= set(np.array(checkpoint.p_right, dtype=np.float16)) and len(right)


def test_mapping_with_the_checkpoint_gives_the_same_confidence_and_sets(run, tmp_path):
    folder, home = run
    assert load_scene("Fields", home).cube is not None
    command = ["--predict", "Fields", "--folder", home, "--restore", folder / "last.pt", "--conformal", 0.2]
    assert main.main([*map(str, command), "--probabilities", "--cuda", "-1", "--output", str(tmp_path)]) == 0
    (mapped,) = (tmp_path / "predict").glob("*/*")
    probabilities = open_raster(mapped / "probabilities.hdr").rows(0, 42)
    with np.load(folder / "maps.npz") as maps:
        np.testing.assert_allclose(probabilities.max(-1), maps["confidence"].astype(np.float32), atol=6e-4)
        assert np.array_equal(open_raster(mapped / "sets.hdr").rows(0, 42), maps["sets"])
        assert np.array_equal(open_raster(mapped / "set_size.hdr").rows(0, 42)[..., 0], maps["sets"].sum(-1))
    said = json.loads((mapped / "mapping.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert said["temperature"] == metrics["temperature"]
    assert said["conformal"] == {k: metrics["conformal"][k] for k in ("risk", "n_validation", "threshold")}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--calibrate", "--calibrate needs validation pixels; give --val_fraction, such as 0.1"),
        ("--conformal 0.1", "--conformal needs validation pixels; give --val_fraction, such as 0.1"),
        ("--conformal 1 --val_fraction 0.1", "--conformal must lie above 0 and below 1, not 1; 0.1 is usual"),
        ("--conformal nan --val_fraction 0.1", "--conformal must lie above 0 and below 1, not nan; 0.1 is usual"),
    ],
)
def test_what_cannot_be_is_refused(flags, message, capsys):
    assert main.main(["--dataset", "Simulated", *flags.split()]) == 2
    assert message in capsys.readouterr().err


def test_sets_of_a_checkpoint_without_validation_pixels_are_refused(run, tmp_path, capsys):
    folder, home = run
    content = torch.load(folder / "last.pt", weights_only=True)
    for name in ("p_right", "temperature"):  # as earlier versions wrote it
        del content[name]
    torch.save(content, tmp_path / "old.pt")
    assert Checkpoint.load(tmp_path / "old.pt").temperature == 1
    command = ["--predict", "Fields", "--folder", home, "--restore", tmp_path / "old.pt", "--conformal", 0.2]
    assert main.main([*map(str, command), "--output", str(tmp_path / "out")]) == 2
    assert "old.pt has no validation pixels, which --conformal needs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
