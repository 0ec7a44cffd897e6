"""Training, evaluation and prediction."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import engine
import mapping
from models import create_model
from patches import Augmentation, PatchLoader, class_weights, labelled_pixels
from reporting.live.monitor import Monitor
from utils import seed_everything

N_CLASSES, N_BANDS, PATCH = 3, 5, 5
EVERY_PIXEL = torch.cartesian_prod(torch.arange(12), torch.arange(15))


@pytest.fixture
def scene():
    """Three vertical stripes with different spectra and noise: cube (12, 15, 5) and gt."""
    rng = np.random.default_rng(0)
    gt = np.repeat(np.repeat(np.arange(1, 4), 5)[None], 12, axis=0)
    spectra = rng.normal(size=(N_CLASSES, N_BANDS))
    cube = spectra[gt - 1] + 0.3 * rng.normal(size=(12, 15, N_BANDS))
    return torch.tensor(cube, dtype=torch.float32), torch.tensor(gt)


def _loader(scene, *, every=1, train=True, seed=0, batch_size=16):
    cube, gt = scene
    pixels, targets = labelled_pixels(gt)
    return PatchLoader(
        cube.permute(2, 0, 1),
        pixels[::every],
        targets[::every],
        patch_size=PATCH,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed) if train else None,
        augment=Augmentation() if train else None,
    )


def _model(name="CNN", **options):
    torch.manual_seed(0)
    small = {"dim": 8} if name == "CNN" else {"dim": 8, "d_inner": 8, "d_state": 4}
    return create_model(name, n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=PATCH, **small, **options)


def _bits(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def _same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["CNN", "MiM-v1", "MiM-v2", "MiM-v3"])
def test_training_learns_an_easy_scene(scene, name):
    model = _model(name)
    history = engine.train(model, _loader(scene), None, engine.TrainConfig(8, lr=5e-3), Monitor())
    confusion = engine.evaluate(model, _loader(scene, train=False))
    assert confusion.sum() == 180
    assert np.trace(confusion) / confusion.sum() > 0.9
    assert history.records[-1]["loss"] < history.records[0]["loss"]


def test_the_recorded_loss_is_the_mean_over_scales_and_pixels(scene):
    model = _model("MiM-v1", dropout=0.0)
    loader = _loader(scene, batch_size=180)
    config = engine.TrainConfig(1, label_smoothing=0.1)
    model.train()
    expected = []
    patches, targets = next(iter(_loader(scene, batch_size=180)))
    with torch.no_grad():
        logits = model.forward_scales(patches)
    for rows in logits:  # cross entropy with a smoothed target, by its definition
        target = torch.full((len(targets), N_CLASSES), 0.1 / N_CLASSES)
        target[torch.arange(len(targets)), targets] += 0.9
        expected.append(float(-(target * rows.log_softmax(-1)).sum(-1).mean()))
    record = engine.train(_model("MiM-v1", dropout=0.0), loader, None, config, Monitor()).records[0]
    np.testing.assert_allclose(record["scale_losses"], expected, rtol=1e-5)
    assert record["loss"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_evaluation_and_prediction_leave_the_model_and_the_random_state_as_they_were(scene):
    model = _model("MiM-v1")
    model.train()
    model.get_submodule("stages.0").eval()  # a mixed state must come back as it was
    modes = [module.training for module in model.modules()]
    bits, random_state = _bits(model), torch.get_rng_state()
    engine.evaluate(model, _loader(scene, train=False))
    mapping.predict(model, scene[0], EVERY_PIXEL)
    assert [module.training for module in model.modules()] == modes
    assert _same(bits, _bits(model))
    assert torch.equal(random_state, torch.get_rng_state())


def test_validation_does_not_change_what_is_learned(scene):
    with_validation, without = _model(), _model()
    torch.manual_seed(1)
    engine.train(without, _loader(scene), None, engine.TrainConfig(3), Monitor())
    torch.manual_seed(1)
    engine.train(with_validation, _loader(scene), _loader(scene, train=False), engine.TrainConfig(3), Monitor())
    assert _same(_bits(without), _bits(with_validation))


def test_validation_counts_pixels_of_every_class_by_their_target(scene):
    model = _model()
    with torch.no_grad():
        model.get_parameter("head.bias")[:] = torch.tensor([-100.0, -100.0, 100.0])  # predicts class 3 everywhere
    confusion = engine.evaluate(model, _loader(scene, train=False))
    assert confusion.tolist() == [[0, 0, 60], [0, 0, 60], [0, 0, 60]]


def test_augmentation_is_not_applied_in_evaluation(scene):
    model, evaluated = _model(), []

    def note(network, inputs):
        if not network.training:
            evaluated.append(inputs[0])

    model.register_forward_pre_hook(note)
    training = _loader(scene)
    engine.train(model, training, _loader(scene, train=False), engine.TrainConfig(1), Monitor())
    padded = np.pad(scene[0].numpy(), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH), (0, 1))  # (12, 15, n_bands, P, P)
    assert torch.equal(torch.cat(evaluated), torch.from_numpy(windows.reshape(-1, N_BANDS, PATCH, PATCH).copy()))
    assert not torch.equal(torch.cat([patches for patches, _ in training]).sort(0)[0], torch.cat(evaluated).sort(0)[0])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(scene):
    def trained(seed):
        seed_everything(seed)
        model = create_model("MiM-v1", n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=PATCH, dim=8, d_inner=8)
        engine.train(model, _loader(scene, seed=seed), None, engine.TrainConfig(2), Monitor())
        return _bits(model)

    first, again, other = trained(3), trained(3), trained(4)
    assert _same(first, again)
    assert not _same(first, other)


def test_an_interrupted_training_goes_on_to_the_same_bits(scene):
    config = engine.TrainConfig(4)
    whole = _model("MiM-v1")
    torch.manual_seed(5)
    expected = engine.train(whole, _loader(scene), None, config, Monitor())

    class Interrupt(Monitor):
        def epoch(self, record, _):
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    saved = {}

    def save(name, state):
        saved[name] = torch.load(_through_file(state), weights_only=True)

    interrupted = _model("MiM-v1")
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        engine.train(interrupted, _loader(scene), None, config, Interrupt(), save=save)
    resumed = _model("MiM-v1")
    torch.manual_seed(99)
    history = engine.train(resumed, _loader(scene, seed=77), None, config, Monitor(), state=saved["last"])
    assert _same(_bits(whole), _bits(resumed))
    assert [r["loss"] for r in history.records] == [r["loss"] for r in expected.records]


def _through_file(state):
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_the_best_weights_are_those_of_the_best_validation_epoch(scene, monkeypatch):
    accuracies = iter([0.2, 0.8, 0.5])

    def confusion(*_, **__):
        hits = round(100 * next(accuracies))
        return np.array([[hits, 100 - hits], [0, 0]])

    monkeypatch.setattr(engine, "evaluate", confusion)
    saved = {}
    model = _model()
    history = engine.train(
        model,
        _loader(scene),
        _loader(scene),
        engine.TrainConfig(3),
        Monitor(),
        save=lambda n, s: saved.update({n: _copy(s)}),
    )
    assert history.best_epoch == 2
    assert len(saved["best"]["history"]["records"]) == 2
    assert not _same(saved["best"]["weights"], saved["last"]["weights"])


def _copy(state):
    return torch.load(_through_file(state), weights_only=True)


def test_the_learning_rate_follows_one_cycle_up_to_lr(scene):
    history = engine.train(_model(), _loader(scene), None, engine.TrainConfig(20, lr=0.01), Monitor())
    rates = [record["lr"] for record in history.records]
    peak = int(np.argmax(rates))
    assert 0.009 < rates[peak] <= 0.01 and 3 < peak < 10
    assert rates[0] < 0.001 and rates[-1] < 0.001


def test_a_loss_that_is_not_finite_stops_with_a_sentence(scene):
    model = _model()
    with torch.no_grad():
        model.get_parameter("head.weight")[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"epoch 1.*learning rate \(--lr\)"):
        engine.train(model, _loader(scene), None, engine.TrainConfig(2), Monitor())


def test_class_weights_are_inverse_to_frequency_and_one_on_average():
    targets = torch.tensor([0] * 6 + [1] * 3 + [3] * 1)
    weights = class_weights(targets, 4)
    assert weights == pytest.approx((10 / 18, 10 / 9, 0.0, 10 / 3))
    assert np.mean([weights[t] for t in targets.tolist()]) == pytest.approx(1)


def test_class_weights_change_the_loss(scene):
    def loss(weights):
        config = engine.TrainConfig(1, class_weights=weights)
        return engine.train(_model(), _loader(scene, every=7), None, config, Monitor()).records[0]["loss"]

    assert loss(None) == pytest.approx(loss((1.0, 1.0, 1.0)))
    assert loss(None) != pytest.approx(loss((3.0, 0.1, 0.1)), rel=1e-3)


@pytest.mark.parametrize("name", ["CNN", "MiM-v1"])
def test_every_pixel_of_the_scene_is_predicted_as_from_its_own_mirrored_patch(scene, name):
    cube, _ = scene
    model = _model(name).eval()
    found, in_sevens = (mapping.predict(model, cube, EVERY_PIXEL, batch_size=size) for size in (None, 7))
    assert found.shape == in_sevens.shape == (180, N_CLASSES)
    padded = np.pad(cube.numpy(), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    for row, column in [(0, 0), (0, 14), (11, 0), (11, 14), (5, 7), (3, 0)]:
        patch = torch.tensor(padded[row : row + PATCH, column : column + PATCH]).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = model(patch)[0].exp()
        torch.testing.assert_close(found[15 * row + column], expected, rtol=1e-4, atol=1e-5)
        assert int(in_sevens[15 * row + column].argmax()) == int(expected.argmax())


def test_chosen_pixels_are_predicted_as_in_the_whole_map(scene):
    cube, _ = scene
    model = _model()
    pixels = torch.tensor([[0, 0], [11, 14], [4, 9]])
    whole = mapping.predict(model, cube, EVERY_PIXEL)
    numbers = 15 * pixels[:, 0] + pixels[:, 1]
    assert mapping.predict(model, cube, pixels).argmax(1).tolist() == whole[numbers].argmax(1).tolist()
    assert mapping.predict(model, cube, pixels[:0]).shape == (0, N_CLASSES)


def test_probabilities_do_not_depend_on_the_batch_size(scene):
    cube, _ = scene
    model = _model("MiM-v1")
    first, second = (mapping.predict(model, cube, EVERY_PIXEL, batch_size=size) for size in (11, 180))
    torch.testing.assert_close(first, second, rtol=0, atol=5e-6)  # matrix products round by their sizes
    torch.testing.assert_close(first.sum(-1), torch.ones(180))


def test_bfloat16_trains_and_stays_near_float32(scene):
    cube, _ = scene
    model = _model("MiM-v1")
    engine.train(model, _loader(scene), None, engine.TrainConfig(2, precision="bfloat16"), Monitor())
    exact = mapping.predict(model, cube, EVERY_PIXEL)
    rough = mapping.predict(model, cube, EVERY_PIXEL, precision="bfloat16")
    assert 0 < (exact - rough).abs().max() < 0.1


def test_label_smoothing_off_is_plain_cross_entropy(scene):
    patches, targets = next(iter(_loader(scene, batch_size=180)))
    model = _model(dropout=0.0).train()
    with torch.no_grad():
        expected = float(F.nll_loss(model.forward_scales(patches)[0].log_softmax(-1), targets))
    config = engine.TrainConfig(1, label_smoothing=0.0)
    record = engine.train(_model(dropout=0.0), _loader(scene, batch_size=180), None, config, Monitor()).records[0]
    assert record["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_mapping_takes_fewer_patches_at_a_time_the_larger_they_are_and_on_the_cpu():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for device, largest in ((cpu, mapping.PREDICT_BATCH), (gpu, mapping.GPU_TOKENS)):
        sizes = [mapping.predict_batch(patch_size, device) for patch_size in (*range(1, 101, 2), 1001)]
        assert sizes == sorted(sizes, reverse=True)
        assert (sizes[0], sizes[-1]) == (largest, 1)
    for patch_size in range(5, 63, 2):
        assert mapping.predict_batch(patch_size, cpu) * patch_size**2 <= mapping.CPU_TOKENS
        assert mapping.predict_batch(patch_size, cpu) <= mapping.predict_batch(patch_size, gpu)
