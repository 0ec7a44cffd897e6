"""What is drawn of a network's activations is what the network computes."""

import json
import math
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import main
from inference import interpret
from models import create_model
from models.scan_order import cross_scan_orders
from models.t_mamba import TMamba, as_modules
from reporting.figures import network

SIZES = {"dim": 8, "d_inner": 8, "d_state": 4}
P, K = 5, 3
VARIANTS = [
    ("MiM-v1", {}),
    ("MiM-v2", {}),
    ("MiM-v3", {}),
    ("MiM-v1", {"separate_types": True, "scan_types": (4, 2)}),
    ("MiM-v1", {"depth": 2, "scan": "whole", "scan_types": (3,), "scales": (5, 3)}),
    ("MiM-v2", {"scale_loss": "last", "decay": "feature", "scan": "halves"}),
    ("MiM-v1", {"scales": (1, 1), "scale_loss": "last", "decay": "index", "fusion": "mean"}),
]


def make(name, options) -> Any:
    """A network with weights drawn wide, so that nothing in it is nearly even."""
    torch.manual_seed(0)
    model = create_model(name, n_bands=6, n_classes=K, patch_size=P, **(SIZES if name != "CNN" else {}), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


@pytest.fixture
def scene():
    """A normalised cube (9, 11, 6), and pixels with their targets, of which class 2 (of 0, 1, 2) has none."""
    generator = torch.Generator().manual_seed(1)
    cube = torch.randn(9, 11, 6, generator=generator)
    pixels = np.array([[0, 0], [4, 5], [8, 10], [3, 9], [7, 1]])
    return cube, pixels, np.array([0, 1, 1, 0, 1])


def patches_of(cube, pixels):
    """Patches cut one by one from the mirrored scene."""
    reach = P // 2
    padded = np.pad(cube.numpy(), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return torch.from_numpy(np.stack([padded[i : i + P, j : j + P].transpose(2, 0, 1) for i, j in pixels]))


def mixers_of(model):
    return [module for module in model.modules() if isinstance(module, TMamba)]


def record(*arguments) -> Any:
    return interpret.record_activations(*arguments)


@contextmanager
def inputs_of(model, modules):
    """What some modules of a model are called with, call by call."""
    given = {module: [] for module in modules}
    handles = [m.register_forward_pre_hook(lambda m, inputs: given[m].append(inputs[0].clone())) for m in modules]
    with as_modules(model):
        yield given
    for handle in handles:
        handle.remove()


def test_pixels_are_drawn_evenly_over_the_classes():
    rng = np.random.default_rng(0)
    mask = rng.permutation(np.repeat([0, 1, 2, 4], [60, 3, 90, 47])).reshape(10, 20)
    for n in (10, 40, 100, 500):
        pixels, targets = interpret.draw_pixels(mask, n, np.random.default_rng(0))
        assert len(np.unique(pixels, axis=0)) == len(pixels) == len(targets) == min(n, 140)
        np.testing.assert_array_equal(mask[tuple(pixels.T)] - 1, targets)
        n_each = np.bincount(targets, minlength=4)
        unfilled = [n for n, all_of_it in zip(n_each[[0, 1, 3]], (3, 90, 47), strict=True) if n < all_of_it]
        assert not unfilled or (max(unfilled) - min(unfilled) <= 1 and max(n_each) <= max(unfilled))
    again, other = (interpret.draw_pixels(mask, 40, np.random.default_rng(seed))[0] for seed in (0, 1))
    first = interpret.draw_pixels(mask, 40, np.random.default_rng(0))[0]
    assert (first == again).all()
    assert not (first == other).all()


@pytest.mark.parametrize(("name", "options"), [*VARIANTS, ("CNN", {})], ids=str)
def test_the_features_are_the_input_of_the_last_head_and_give_the_models_logits(scene, name, options):
    model = make(name, options)
    cube, pixels, targets = scene
    seen = record(model, cube, pixels, targets)
    head = interpret.last_head(model)
    again = seen.features @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(again, seen.logits, atol=1e-5)
    with torch.no_grad():
        expected = model.eval().forward_scales(patches_of(cube, pixels))[-1]
    np.testing.assert_allclose(seen.logits, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_the_network_is_left_as_it_was_found(scene):
    model = make("MiM-v1", {}).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record(model, *scene)
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_scan_path_is_the_order_that_the_network_scans():
    model = make("MiM-v1", {"scan": "whole", "scan_types": (2, 4, 1)})
    paths = interpret.scan_paths(P, model.options.scan_types)
    assert list(paths) == [2, 4, 1]
    orders = mixers_of(model)[0].forward_order.view(3, -1)
    for (scan_type, way), order in zip(paths.items(), orders, strict=True):
        assert [P * row + column for row, column in way.tolist()] == order.tolist()
        assert order.tolist() == cross_scan_orders(P)[scan_type - 1].tolist()


@pytest.mark.parametrize("halves", [True, False])
def test_the_arrows_follow_the_scan_from_its_start_to_the_centre_or_the_end(monkeypatch, tmp_path, halves):
    figure: Any = Figure()

    @contextmanager
    def sheet(*_):
        yield figure

    monkeypatch.setattr(network, "sheet", sheet)
    paths = interpret.scan_paths(P, (1, 4))
    network.save_scan_orders(tmp_path / "x", paths, halves, "")
    for axes, way in zip(figure.axes, paths.values(), strict=True):
        arrows = [
            [tuple(place), (place[0] + u, place[1] + v)]
            for quiver in axes.collections
            if hasattr(quiver, "U")
            for place, u, v in zip(quiver.XY, quiver.U, quiver.V, strict=True)
        ]
        steps = [[tuple(a[::-1]), tuple(b[::-1])] for a, b in pairwise(way)]
        if halves:  # the second one runs from the order's end back to the centre
            steps = steps[: len(steps) // 2] + [step[::-1] for step in steps[: len(steps) // 2 - 1 : -1]]
        assert arrows == steps
        stars = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() == "*"]
        starts = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() == "o"]
        assert stars == [[P // 2, P // 2]]
        assert starts == [way[i][::-1].tolist() for i in ((0, -1) if halves else (0,))]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_the_decay_masks_are_laid_back_onto_the_grid(scene, name, options):
    model = make(name, options)
    cube, pixels, targets = scene
    seen = record(model, cube, pixels, targets)
    mixers = mixers_of(model)
    with inputs_of(model, [mixer.decay for mixer in mixers]) as given, torch.no_grad():
        model.eval().forward_scales(patches_of(cube, pixels))
    halves, rank = model.options.scan == "halves", 0
    for block, inside in zip([b for stage in model.stages for b in stage.blocks], seen.blocks, strict=True):
        if inside.name.split(", ")[1].startswith("1 x 1"):
            assert inside.decay is None
            assert inside.decay_curve is None  # a single token has no mask
            continue
        side, curves = inside.decay.shape[-1], []
        for mixer in block.mixers:
            orders = cross_scan_orders(side)[[t - 1 for t in model.options.scan_types]]
            start, curves = rank % len(orders), []
            for t in range(mixer.n_types):
                total, passes = np.zeros(side * side), np.zeros(side * side)
                order = orders[start + t].tolist()
                for direction, y in zip((order, order[::-1]), given[mixer.decay], strict=True):
                    way = direction[: (side * side + 1) // 2] if halves else direction
                    for sequence in y.view(len(pixels), mixer.n_types, len(way), -1)[:, t].double():
                        mask = reference_mask(sequence, way.index(side * side // 2), model.options.decay)
                        curves.append(mask)
                        for place, weight in zip(way, mask, strict=True):
                            total[place] += weight
                            passes[place] += 1
                np.testing.assert_allclose(
                    inside.decay[start + t].ravel(), total / passes, rtol=1e-3, atol=1e-5, err_msg=inside.name
                )
            rank += mixer.n_types
        assert inside.decay[:, side // 2, side // 2] == pytest.approx(1)
        assert inside.decay.max() <= 1 + 1e-6
        assert len(inside.decay) == len(model.options.scan_types)
        if len(block.mixers) == 1:
            np.testing.assert_allclose(
                inside.decay_curve, np.mean(curves[-2 * len(pixels) * block.mixers[0].n_types :], 0), rtol=1e-3
            )
        assert inside.index_factor[inside.centre] == 1


def reference_mask(sequence, centre, decay):
    """The Gaussian decay mask of one sequence (L, C) by the formula, token by token."""
    length = len(sequence)
    by_index = [abs(t - centre) for t in range(length)]
    by_feature = [math.dist(sequence[t].tolist(), sequence[centre].tolist()) for t in range(length)]
    mask = [1.0] * length
    for distances, used in ((by_index, decay in ("index", "both")), (by_feature, decay in ("feature", "both"))):
        scale = sum(distances) / length
        if used and scale > 0:
            mask = [m * math.exp(-0.5 * d * d / scale**2) for m, d in zip(mask, distances, strict=True)]
    return mask


@pytest.mark.parametrize("scan", ["halves", "whole"])
def test_decay_by_index_alone_is_the_same_on_both_sides_of_the_centre_and_known_beforehand(scene, scan):
    model = make("MiM-v1", {"decay": "index", "scan": scan})
    block = record(model, *scene).blocks[0]
    np.testing.assert_allclose(block.decay, block.decay[:, ::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(block.decay[1], block.decay[0].T, atol=1e-12)  # columns for rows
    np.testing.assert_allclose(block.decay_curve, block.index_factor, atol=1e-12)
    n = P * P // 2
    scale = sum(range(n + 1)) / (n + 1) if scan == "halves" else 2 * sum(range(n + 1)) / (2 * n + 1)
    assert block.decay[0, 0, 0] == pytest.approx(math.exp(-0.5 * (n / scale) ** 2), rel=1e-5)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_the_attention_of_the_tokens_is_laid_back_onto_the_grid_class_by_class(scene, name, options):
    model = make(name, options)
    cube, pixels, targets = scene
    seen = record(model, cube, pixels, targets)
    if model.options.tokens == "pooled":
        assert all(block.attention is None for block in seen.blocks)
        return
    mixers = mixers_of(model)
    with inputs_of(model, [mixer.learner for mixer in mixers]) as given, torch.no_grad():
        model.eval().forward_scales(patches_of(cube, pixels))
    for block, inside in zip([b for stage in model.stages for b in stage.blocks], seen.blocks, strict=True):
        n_tokens, side = inside.attention.shape[1:3]
        orders = cross_scan_orders(side)[[t - 1 for t in model.options.scan_types]].tolist()
        expected, start = np.zeros((len(pixels), n_tokens, side * side)), 0
        for mixer in block.mixers:
            (y,) = given[mixer.learner]
            scores = mixer.learner.score(mixer.learner.attention(y)).detach().double().exp().numpy()
            for t in range(mixer.n_types):
                share = scores[:, t] / scores[:, t].sum(1, keepdims=True)
                for place, position in enumerate(orders[start + t]):
                    expected[:, :, position] += share[:, place] / len(orders)
            start += mixer.n_types
        for k in (0, 1):
            np.testing.assert_allclose(
                inside.attention[k].reshape(n_tokens, -1), expected[targets == k].mean(0), rtol=1e-3, atol=1e-6
            )
        np.testing.assert_allclose(inside.attention[:2].sum((2, 3)), 1, atol=1e-5)
        assert np.isnan(inside.attention[2]).all()  # no patch of this class


def test_the_weights_of_the_scan_types_are_the_softmax_of_k(scene):
    model = make("MiM-v1", {"scan_types": (1, 3)})
    for stage, inside in zip(model.stages, record(model, *scene).blocks, strict=True):
        a, b = map(math.exp, stage.blocks[0].fusion.k.tolist())
        np.testing.assert_allclose(inside.scan_weights, [a / (a + b), b / (a + b)], rtol=1e-6)
    assert record(make("MiM-v1", {"fusion": "mean"}), *scene).blocks[0].scan_weights is None


def test_what_a_network_has_not_is_none(scene):
    assert record(make("CNN", {}), *scene).blocks == ()
    block = record(make("MiM-v1", {"decay": "none"}), *scene).blocks[0]
    assert block.decay is None
    assert block.index_factor is None
    assert block.attention is not None


def test_features_of_two_groups_lie_apart_and_in_the_same_places_for_the_same_seed():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(40, 5)), rng.normal(20, 1, size=(40, 5))]).astype(np.float32)
    places, perplexity = interpret.place_features(features, 3)
    assert perplexity == pytest.approx(79 / 3)
    np.testing.assert_array_equal(places, interpret.place_features(features, 3)[0])
    first, second = places[:40], places[40:]
    between = np.linalg.norm(first.mean(0) - second.mean(0))
    assert between > 2 * max(np.linalg.norm(group - group.mean(0), axis=1).max() for group in (first, second))


@pytest.mark.parametrize(
    "features", [np.ones((6, 4)), np.arange(6.0)[:, None], np.eye(4)], ids=["equal", "one", "four"]
)
def test_features_with_little_to_lay_out_are_laid_out(features):
    places, again = (interpret.place_features(features.astype(np.float32), 0)[0] for _ in range(2))
    assert np.isfinite(places).all()
    np.testing.assert_array_equal(places, again)  # where the start is random too


# The command line

PICTURES = {"features", "scan_orders", "scan_weights", "decay_masks", "token_attention", "token_attention_by_class"}


@pytest.fixture
def train(tiny_scene, tmp_path, capsys):
    """Train on the tiny scene; gives the run's folder."""

    def call(*more):
        where = ["--folder", tiny_scene.folder, "--output", tmp_path / "runs", "--visdom", "off", "--cuda", -1]
        small = ["--dataset", "tiny", "--patch_size", 3, "--epoch", 1]
        assert main.main([*map(str, (*where, *small, *more))]) == 0, capsys.readouterr().err
        capsys.readouterr()
        return max((tmp_path / "runs").glob("*/*/*"), key=lambda path: path.stat().st_ctime_ns)

    return call


NETWORKS = {
    "MiM-v1": PICTURES,
    "MiM-v2": PICTURES,
    "MiM-v3": {"features", "scan_orders", "scan_weights", "decay_masks"},
    "CNN": {"features"},
}


@pytest.mark.parametrize("model", ["MiM-v1", "MiM-v2", "MiM-v3", "CNN"])
def test_the_figures_of_a_run_are_those_that_its_network_has(train, capsys, model):
    small = () if model == "CNN" else ("--dim", 8, "--d_inner", 8, "--d_state", 4)
    run = train("--model", model, *small)
    assert main.main(["--interpret", str(run), "--cuda", "-1"]) == 0
    said = capsys.readouterr().err
    expected = {f"{name}.{kind}" for name in NETWORKS[model] for kind in ("png", "pdf")}
    assert {path.name for path in (run / "figures").iterdir()} == expected
    absent = {name for name in PICTURES - NETWORKS[model] if name != "token_attention_by_class"}
    assert {line.split(" is left out: ")[0] for line in said.splitlines() if " is left out: " in line} == absent
    before = {path.name: path.read_bytes() for path in (run / "figures").iterdir()}
    assert main.main(["--interpret", str(run), "--cuda", "-1"]) == 0
    assert before == {path.name: path.read_bytes() for path in (run / "figures").iterdir()}


def test_the_figures_of_every_part_are_drawn(train):
    run = train("--separate_types", "--depth", 2, "--scan_types", 4, 1, "--scan", "whole", "--fusion", "mean")
    assert main.main(["--interpret", str(run), "--seed", "3"]) == 0
    assert {path.stem for path in (run / "figures").iterdir()} == PICTURES - {"scan_weights"}
    run = train("--decay", "none", "--tokens", "pooled", "--scales", 1, "--scan_types", 2)
    assert main.main(["--interpret", str(run)]) == 0
    assert {path.stem for path in (run / "figures").iterdir()} == {"features", "scan_orders"}


def test_figures_of_another_scene_of_an_unfinished_run_or_of_none_are_refused(train, tiny_scene, tmp_path, capsys):
    run = train("--model", "cnn")

    def refusal(*arguments):
        assert main.main([*map(str, arguments)]) == 2
        assert not (run / "figures").exists()
        return capsys.readouterr().err

    assert "--interpret does not use --model" in refusal("--interpret", run, "--model", "cnn")
    assert "does not exist; give the folder of a run" in refusal("--interpret", tmp_path)
    tiny_scene.write("Tiny.mat", tiny=tiny_scene.cube + 1)
    assert "the scene has changed since the run" in refusal("--interpret", run)
    tiny_scene.write("Tiny.mat", tiny=tiny_scene.cube)
    (run / "last.pt").rename(run / "kept.pt")
    assert "no such checkpoint" in refusal("--interpret", run)
    (run / "metrics.json").unlink()
    assert "is not complete" in refusal("--interpret", run)


def test_the_figures_find_a_scene_that_has_moved(train, tiny_scene, tmp_path):
    run = train("--model", "cnn")
    tiny_scene.folder.rename(tmp_path / "moved")
    assert main.main(["--interpret", str(run)]) == 2
    assert main.main(["--interpret", str(run), "--folder", str(tmp_path / "moved")]) == 0


def test_exploration_draws_the_training_pixels_spectra_into_the_runs_folder(train):
    run = train("--model", "cnn", "--with_exploration")
    assert (run / "spectra.png").is_file()
    assert (run / "spectra.pdf").is_file()
    assert json.loads((run / "config.json").read_text())["config"]["with_exploration"] is True
    assert not (train("--model", "cnn") / "spectra.png").exists()
