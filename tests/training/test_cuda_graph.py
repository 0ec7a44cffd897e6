"""Training steps as CUDA graphs: those of `engine.Steps`, and on a GPU the same bits whether captured or not."""

import io
from itertools import count, pairwise

import pytest
import torch
from networks import N_BANDS, N_CLASSES, small

import engine
from patches import Augmentation, PatchLoader
from reporting.live.monitor import Monitor
from training import cuda_graph
from training.cuda_graph import GraphSteps

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]
WEIGHTS = (1.0, 2.0, 0.5, 0.7)


def make_loader(device="cpu", seed=1, *, flip=True):
    """50 pixels in batches of 17, 17 and 16."""
    drawn = torch.Generator().manual_seed(0)
    image, targets = torch.randn(N_BANDS, 9, 8, generator=drawn), torch.arange(50) % N_CLASSES
    pixels = torch.ones(9, 8).nonzero()[:50]
    image[:, pixels[:, 0], pixels[:, 1]] += targets
    sizes = {"patch_size": 5, "batch_size": 17, "generator": torch.Generator().manual_seed(seed)}
    return PatchLoader(image.to(device), pixels, targets, **sizes, augment=Augmentation(flip=flip))


def fit(name, config, make_steps, device="cpu", *, dropout=0.2, flip=True, **more):
    """The records, and the weights."""
    model, loader = small(name, dropout=dropout).to(device), make_loader(device, flip=flip)
    torch.manual_seed(5)
    steps = make_steps(model, loader, config)
    history = engine.train(model, loader, None, config, Monitor(), steps=steps, **more)
    return history.records, {key: value.cpu().clone() for key, value in model.state_dict().items()}


def one_by_one(model, loader, config):
    return GraphSteps(model, loader, config, capture=False)


def close(found, expected, device):
    """Equal up to rounding; between devices only the losses, as differences in rounding grow with every step."""
    for one, two in zip(found[0], expected[0], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5 if device == "cpu" else 1e-2)
        assert one["lr"] == two["lr"]
        if device == "cpu":
            assert one["scale_losses"] == pytest.approx(two["scale_losses"], rel=1e-5)
            assert one["train_accuracy"] == two["train_accuracy"]
    for name, value in found[1].items():
        if device == "cpu":
            # AdamW's steps have the size of the rate, 1e-3, however small a gradient: rounding has made 9e-6 of it
            torch.testing.assert_close(value, expected[1][name], rtol=1e-4, atol=3e-5)


def same_bits(found, expected):
    assert [r["loss"] for r in found[0]] == [r["loss"] for r in expected[0]]
    assert all(torch.equal(value, expected[1][name]) for name, value in found[1].items())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MiM-v1", {}),
        ("MiM-v2", {"label_smoothing": 0.0}),
        ("MiM-v3", {"max_norm": 1e-2}),
        ("CNN", {"class_weights": WEIGHTS, "lr": 1e-2, "weight_decay": 0.1}),
    ],
)
def test_the_steps_are_those_of_the_engine(name, options, device):
    config = engine.TrainConfig(4, **options)
    expected = fit(name, config, engine.Steps, dropout=0.0)
    close(fit(name, config, one_by_one, device, dropout=0.0), expected, device)


def test_they_are_so_without_flips_too():
    config = engine.TrainConfig(2)
    expected = fit("CNN", config, engine.Steps, dropout=0.0, flip=False)
    close(fit("CNN", config, one_by_one, dropout=0.0, flip=False), expected, "cpu")


def through_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True, map_location="cpu")


def interrupted(name, config, make_steps, device, **more):
    """What the second epoch saves."""
    saved = []
    fit(name, config, make_steps, device, save=lambda _, state: saved.append(through_file(state)), **more)
    return saved[1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("first", [engine.Steps, one_by_one])
@pytest.mark.parametrize("second", [engine.Steps, one_by_one])
def test_either_resumes_what_the_other_has_begun(first, second, device):
    config = engine.TrainConfig(4)
    expected = fit("MiM-v1", config, engine.Steps, dropout=0.0)
    state = interrupted("MiM-v1", config, first, "cpu", dropout=0.0)
    close(fit("MiM-v1", config, second, device, dropout=0.0, state=state), expected, device)


@pytest.mark.parametrize("device", DEVICES)
def test_a_resumed_training_has_the_same_bits(device):
    make_steps, config = one_by_one if device == "cpu" else GraphSteps, engine.TrainConfig(4)
    whole = fit("MiM-v1", config, make_steps, device)
    state = interrupted("MiM-v1", config, make_steps, device)
    same_bits(fit("MiM-v1", config, make_steps, device, state=state), whole)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_steps", [4, 5, 6, 7])
def test_a_training_stopped_within_an_epoch_resumes_to_the_same_bits(device, n_steps):
    make_steps, config, saved = one_by_one if device == "cpu" else GraphSteps, engine.TrainConfig(4), []
    whole, calls = fit("MiM-v1", config, make_steps, device), count(1)
    options = {"save": lambda _, state: saved.append(through_file(state)), "stop": lambda: next(calls) == n_steps}
    with pytest.raises(KeyboardInterrupt):
        fit("MiM-v1", config, make_steps, device, **options)
    assert saved[-1]["unfinished"]["n_done"] == (n_steps - 1) % 3 + 1
    resumed = fit("MiM-v1", config, make_steps, device, state=saved[-1])
    same_bits(resumed, whole)
    plain = [[{name: value for name, value in r.items() if name != "seconds"} for r in f[0]] for f in (resumed, whole)]
    assert plain[0] == plain[1]


def test_a_plan_holds_the_batches_of_an_iteration():
    loader, planned = make_loader(), make_loader()
    for _ in range(2):
        batches, plan = list(loader), planned.plan()
        assert plan.sizes == [17, 17, 16]
        for number, (patches, targets) in enumerate(batches):
            first, image, goals = (rows[number, : len(targets)] for rows in plan[1:])
            assert torch.equal(goals, targets)
            assert torch.equal(planned.cut(first, image), patches)


def test_the_last_epoch_is_saved_however_short_the_epochs_are():
    saved = []
    config = engine.TrainConfig(3)
    fit(
        "CNN", config, one_by_one, save=lambda _, state: saved.append(len(state["history"]["records"])), save_seconds=99
    )
    assert saved == [3]


@gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["MiM-v1", "MiM-v2", "MiM-v3", "CNN"])
def test_captured_steps_have_the_same_bits(name, precision):
    config = engine.TrainConfig(3, precision=precision, class_weights=WEIGHTS)
    plain = fit(name, config, one_by_one, "cuda")
    captured = fit(name, config, GraphSteps, "cuda")
    same_bits(captured, plain)
    assert captured[0][0]["loss"] != captured[0][1]["loss"]


@gpu
def test_every_size_of_a_batch_is_captured_and_no_step_falls_back(caplog):
    kept = []

    def keep(model, loader, config):
        kept.append(GraphSteps(model, loader, config))
        return kept[0]

    fit("MiM-v1", engine.TrainConfig(2), keep, "cuda")
    assert {size: type(graph) for size, graph in kept[0]._graphs.items()} == {
        17: torch.cuda.CUDAGraph,
        16: torch.cuda.CUDAGraph,
    }
    assert "cannot be captured" not in caplog.text


@gpu
def test_a_step_that_cannot_be_captured_is_taken_without_and_has_the_same_bits(monkeypatch, caplog):
    config = engine.TrainConfig(2)
    expected = fit("CNN", config, one_by_one, "cuda")

    def refuse(*_, **__):
        raise RuntimeError("no capture")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    same_bits(fit("CNN", config, GraphSteps, "cuda"), expected)
    assert "cannot be captured" in caplog.text


@gpu
def test_networks_trained_side_by_side_get_what_each_gets_alone():
    config, names = engine.TrainConfig(3), ("MiM-v1", "MiM-v3", "MiM-v1")
    alone = [fit(name, config, GraphSteps, "cuda") for name in names]
    works = []
    for name in names:
        model, loader = small(name, dropout=0.2).cuda(), make_loader("cuda")
        torch.manual_seed(5)
        steps, stream = GraphSteps(model, loader, config), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        work = engine.training(model, loader, None, config, Monitor(), steps=steps)
        works.append((work, stream, model))
    found, active = {}, dict(enumerate(works))
    while active:
        for number, (work, stream, model) in list(active.items()):
            with torch.cuda.stream(stream):
                try:
                    next(work)
                except StopIteration as end:
                    stream.synchronize()
                    weights = {key: value.cpu().clone() for key, value in model.state_dict().items()}
                    found[number] = end.value.records, weights
                    del active[number]
    for number, expected in enumerate(alone):
        same_bits(found[number], expected)
    for one, two in pairwise(range(2)):
        assert found[one][0] != found[two][0]


def test_the_schedule_is_the_engines():
    config = engine.TrainConfig(5, lr=0.01, weight_decay=0.1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([parameter], lr=config.lr, weight_decay=config.weight_decay)
    schedule = engine.make_schedule(optimiser, config, 15)
    rates, table = cuda_graph._schedule(config, 15)
    for step in range(15):
        group = optimiser.param_groups[0]
        assert rates[step] == (group["lr"], group["betas"][0])
        assert table[step, 0].item() == pytest.approx(1 - group["lr"] * 0.1)
        optimiser.step()
        schedule.step()
    assert len(rates) == 16
