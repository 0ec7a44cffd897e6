"""The networks against loops written from their description, their sizes, gradients, shapes and refusals."""

import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import MIM, N_BANDS, N_CLASSES, SMALL, every_mim, naive_pool, naive_weights, patches, shaken, small
from test_tokens import naive_attention

from models import MODELS, check_options, create_model
from models.dropout import Dropout
from models.options import SCAN_BACKENDS, MiMOptions
from models.ssm import S6, CausalConv
from models.t_mamba import TMamba
from selective_scan import BACKENDS

N_PARAMETERS = {  # 200 bands, 16 classes, patch 7
    "MiM": 83_101,
    "MiM-v1": 115_863,
    "MiM-v2": 488_004,
    "MiM-v3": 71_320,
    "CNN": 87_952,
}
COMMON = {
    "stem": "depthwise",
    "fusion": "weighted",
    "scale_loss": "all",
    "scan_types": (1, 2, 3, 4),
    "separate_types": False,
}
CHOICES = {option.name: option.metadata["choices"] for option in fields(MiMOptions) if "choices" in option.metadata}
SWITCHES = [
    {},
    *({name: choice} for name, choices in CHOICES.items() if name != "scan_backend" for choice in choices),
    *({"scan_types": types} for types in ((1,), (4,), (4, 2), (1, 2, 3))),
    *({"separate_types": True, "fusion": fusion} for fusion in CHOICES["fusion"]),
    {"separate_types": True, "scan_types": (3,)},
    *({"depth": 2, "tokens": tokens, "scales": (3, 1)} for tokens in CHOICES["tokens"]),
    *({"scales": scales} for scales in ((1,), (3,), (5, 3), (3, 3, 1))),
    {"scales": (3, 1), "scale_loss": "last", "tokens": "pooled", "scan": "halves", "stem": "full"},
]
every_model = pytest.mark.parametrize("name", [*MIM, "CNN"])
every_switch = pytest.mark.parametrize(
    "switches",
    SWITCHES,
    ids=lambda switches: "-".join(f"{key}={value}" for key, value in switches.items()) or "default",
)


# The networks again, one patch at a time, from the description: arrays named as in the state dict, loops over tokens.


def part(weights, prefix):
    return {name.removeprefix(f"{prefix}."): a for name, a in weights.items() if name.startswith(f"{prefix}.")}


def silu(x):
    return x / (1 + np.exp(-x))


def linear(x, weights):
    return x @ weights["weight"].T + weights.get("bias", 0)


def batch_norm(x, weights):
    scaled = (x - weights["running_mean"]) / np.sqrt(weights["running_var"] + 1e-5)
    return scaled * weights["weight"] + weights["bias"]


def layer_norm(x, weights):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights["weight"] + weights["bias"]


def naive_stem(weights, patch, kind):
    """(n_bands, P, P) to tokens in raster order (P * P, dim)."""
    embed, side = weights["embedding.0.weight"][:, :, 0, 0], patch.shape[-1]
    pixels = {
        (r, c): silu(batch_norm(embed @ patch[:, r, c], part(weights, "embedding.1")))
        for r in range(side)
        for c in range(side)
    }
    tokens = []
    for (r, c), pixel in pixels.items():
        around = [(i, j, pixels.get((r + i - 1, c + j - 1), 0 * pixel)) for i in range(3) for j in range(3)]
        if kind == "full":
            mixed = sum(weights["stem.mix.0.weight"][:, :, i, j] @ x for i, j, x in around)
            tokens.append(pixel + silu(batch_norm(mixed, part(weights, "stem.mix.1"))))
        else:
            local = sum(weights["stem.local.weight"][:, 0, i, j] * x for i, j, x in around) + weights["stem.local.bias"]
            mixed = weights["stem.mix.0.weight"][:, :, 0, 0] @ local + weights["stem.mix.0.bias"]
            tokens.append(local + silu(mixed))
    return np.array(tokens) + weights["stem.position"]


def naive_order(side, scan_type):
    forth, back = range(side), range(side - 1, -1, -1)
    if scan_type in (1, 3):
        starts = (forth, back) if scan_type == 1 else (back, forth)
        return [r * side + c for r in forth for c in starts[r % 2]]
    starts = (forth, back) if scan_type == 2 else (back, forth)
    return [r * side + c for c in forth for r in starts[c % 2]]


def naive_branch(weights, x):
    """Causal convolution of kernel 3, SiLU, S6: (L, d_inner) in and out."""
    kernel, A, n_states = weights["conv.weight"], -np.exp(weights["s6.A_log"]), weights["s6.A_log"].shape[1]
    state, outputs = np.zeros_like(A), []
    for t in range(len(x)):
        seen = [kernel[j] * x[t - 2 + j] for j in range(3) if t - 2 + j >= 0]
        u = silu(sum(seen) + weights["conv.bias"])
        dt, B, C = np.split(weights["s6.x_proj.weight"] @ u, [-2 * n_states, -n_states])
        delta = np.log1p(np.exp(weights["s6.dt_proj.weight"] @ dt + weights["s6.dt_proj.bias"]))
        state = np.exp(delta[:, None] * A) * state + np.outer(delta * u, B)
        outputs.append(state @ C + weights["s6.D"] * u)
    return np.array(outputs)


def naive_t_mamba(weights, x, side, side_out, scan_type, *, scan, decay, tokens, **_):
    """Tokens in raster order (L, dim) to (S, dim)."""

    def decayed(y, centre):
        return y * np.array(naive_weights(y, centre, decay))[:, None]

    normed, order, middle = layer_norm(x, part(weights, "norm")), naive_order(side, scan_type), len(x) // 2
    sequence = linear(normed, part(weights, "in_proj"))[order]
    ahead, behind = part(weights, "forward_branch"), part(weights, "backward_branch")
    if scan == "halves":
        y_f = decayed(naive_branch(ahead, sequence[: middle + 1]), middle)
        y_b = decayed(naive_branch(behind, sequence[::-1][: middle + 1]), middle)
        y = np.array([*y_f[:-1], (y_f[-1] + y_b[-1]) / 2, *y_b[-2::-1]])
    else:
        y = decayed(naive_branch(ahead, sequence), middle)
        y = (y + decayed(naive_branch(behind, sequence[::-1])[::-1], middle)) / 2
    y = layer_norm(y, part(weights, "merge_norm"))
    z = naive_pool(silu(linear(normed, part(weights, "z_proj"))), side, side_out)
    if tokens == "learned":
        y = naive_attention(y, part(weights, "learner.attention"))
        share = np.exp(y @ weights["learner.score.weight"].T)
        u = (share / share.sum(0)).T @ (y @ weights["learner.value.weight"].T)
        gate = 1 / (1 + np.exp(-linear(z, part(weights, "fuser.gate"))))
        mixed = weights["fuser.mix.weight"] @ u + weights["fuser.mix.bias"][:, None]
        fused = gate @ mixed + naive_attention(z, part(weights, "fuser.attention"))
    else:
        raster = np.empty_like(y)
        for t, place in enumerate(order):
            raster[place] = y[t]
        fused = naive_pool(raster, side, side_out) * z
    return linear(fused, part(weights, "out_proj")) + linear(naive_pool(x, side, side_out), part(weights, "res_proj"))


def naive_block(weights, x, side, side_out, settings):
    types = settings["scan_types"]
    outs = []
    for i, scan_type in enumerate(types):
        mixer = part(weights, f"mixers.{i if settings['separate_types'] else 0}")
        outs.append(np.maximum(naive_t_mamba(mixer, x, side, side_out, scan_type, **settings), 0))
    k = weights["fusion.k"] if settings["fusion"] == "weighted" and len(types) > 1 else np.zeros(len(types))
    return sum(np.exp(k[i]) / np.exp(k).sum() * out for i, out in enumerate(outs))


def naive_forward_scales(name, weights, patch, settings):
    """One patch (n_bands, P, P) to the logits (rows, K)."""
    x, side, features = naive_stem(weights, patch, settings["stem"]), patch.shape[-1], []
    for i, side_out in enumerate(settings["scales"]):
        stage = part(weights, f"stages.{i}")
        for j in range(settings["depth"]):
            last = j == settings["depth"] - 1
            x = naive_block(part(stage, f"blocks.{j}"), x, side, side_out if last else side, settings)
        x, side = layer_norm(x, part(stage, "norm")), side_out
        features.append(x.mean(0))
    fused = [linear(sum(features), part(weights, "fused_head"))] if name == "MiM-v2" else []
    if settings["scale_loss"] == "last":
        return np.array(fused or [linear(features[-1], part(weights, "heads.0"))])
    return np.array([linear(x, part(weights, f"heads.{i}")) for i, x in enumerate(features)] + fused)


@pytest.mark.parametrize(("side", "side_out"), [(5, 3), (3, 1), (3, 3)])
@pytest.mark.parametrize(
    "switches", [{"scan": "halves", "tokens": "learned"}, {"scan": "whole", "tokens": "pooled", "decay": "index"}]
)
def test_a_t_mamba_is_its_formula_in_every_scan_type(side, side_out, switches):
    torch.manual_seed(0)
    module = shaken(TMamba(side, side_out, (1, 2, 3, 4), MiMOptions(**SMALL, **switches)))
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    x = torch.randn(2, side * side, SMALL["dim"], dtype=torch.float64)
    found = module(x).detach().numpy()
    assert found.shape == (2, 4, side_out * side_out, SMALL["dim"])
    for b in range(2):
        for i in range(4):
            expected = naive_t_mamba(weights, x[b].numpy(), side, side_out, i + 1, **{"decay": "both"} | switches)
            np.testing.assert_allclose(found[b, i], expected, rtol=0, atol=1e-9)


@every_mim
@every_switch
def test_a_network_is_its_description(name, switches):
    model = shaken(small(name, **switches))
    weights = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    patch = patches(1, seed=1)
    expected = naive_forward_scales(name, weights, patch[0].numpy(), COMMON | MIM[name] | switches)
    with torch.no_grad():
        np.testing.assert_allclose(model.forward_scales(patch)[:, 0].numpy(), expected, rtol=0, atol=1e-9)


@every_model
def test_the_number_of_parameters_is_known(name):
    model = create_model(name, n_bands=200, n_classes=16, patch_size=7)
    assert sum(parameter.numel() for parameter in model.parameters()) == N_PARAMETERS[name]


def test_the_mim_networks_are_those_that_are_registered():
    assert set(MIM) == {name for name in MODELS if name.startswith("MiM")}


def assert_every_parameter_learns(model, rows):
    target = torch.arange(rows.shape[1]) % N_CLASSES
    torch.stack([F.cross_entropy(row, target) for row in rows]).mean().backward()
    slopes = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert not [key for key, slope in slopes.items() if slope is None or not slope.isfinite().all()]
    assert not [key for key, slope in slopes.items() if slope.abs().max() < 1e-12]  # noise is near 1e-18


@every_mim
@every_switch
def test_every_parameter_gets_a_gradient(name, switches):
    model = small(name, **switches).double()
    assert_every_parameter_learns(model, model.forward_scales(patches(3)))


@every_model
@pytest.mark.parametrize(("patch_size", "n"), [(3, 1), (3, 2), (5, 1), (5, 2), (5, 3), (7, 1), (9, 2), (11, 1)])
def test_odd_patches_train_in_small_batches_and_do_not_see_each_other(name, patch_size, n):
    model = small(name, patch_size=patch_size).double()
    batch = patches(n, patch_size)
    assert_every_parameter_learns(model, model.forward_scales(batch))
    model.eval()
    with torch.no_grad():
        alone = torch.cat([model.forward_scales(batch[i : i + 1]) for i in range(n)], dim=1)
        torch.testing.assert_close(model.forward_scales(batch), alone, rtol=1e-12, atol=1e-12)


@every_model
def test_the_prediction_is_the_log_of_the_mean_softmax_of_all_rows(name):
    model = shaken(small(name))
    batch = patches(3)
    with torch.no_grad():
        found, rows = model(batch), model.forward_scales(batch)
        assert torch.equal(rows, model.encode(model.embed(batch)))
    expected = sum(row.softmax(-1) for row in rows) / len(rows)
    assert found.shape == (3, N_CLASSES)
    torch.testing.assert_close(found.double().exp(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.double().exp().sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)


@every_model
def test_a_scene_may_be_embedded_once_and_cropped(name):
    model = shaken(small(name))
    scene = torch.randn(1, N_BANDS, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    corners = [(0, 0), (4, 7), (2, 3)]
    with torch.no_grad():
        embedded = model.embed(scene)
        cropped = torch.cat([embedded[:, :, r : r + 5, c : c + 5] for r, c in corners])
        of_patches = torch.cat([scene[:, :, r : r + 5, c : c + 5] for r, c in corners])
        assert embedded.shape[2:] == (9, 12)
        torch.testing.assert_close(model.encode(cropped), model.forward_scales(of_patches), rtol=1e-10, atol=1e-12)


@every_model
@pytest.mark.parametrize("patch_size", [5, 7])
def test_a_constant_patch_has_finite_gradients(name, patch_size):
    for value in (0.0, 1.0):
        model = small(name, patch_size=patch_size)
        model.forward_scales(torch.full((2, N_BANDS, patch_size, patch_size), value)).logsumexp(-1).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_model
def test_bfloat16_autocast_stays_close_and_trains(name):
    model = small(name)
    batch = patches(3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = model.forward_scales(batch)
        model.eval()
        found = model(batch)
    rows.float().logsumexp(-1).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(found.exp(), model(batch).exp(), rtol=0, atol=0.02)


@pytest.mark.parametrize(("name", "n_rows"), [("MiM", 1), ("MiM-v1", 3), ("MiM-v2", 5), ("MiM-v3", 1), ("CNN", 1)])
def test_there_is_a_row_of_logits_for_every_scale(name, n_rows):
    batch = patches(2, 7).float()
    assert small(name, patch_size=7).forward_scales(batch).shape == (n_rows, 2, N_CLASSES)
    if name in MIM:
        assert small(name, patch_size=7, scale_loss="last").forward_scales(batch).shape == (1, 2, N_CLASSES)


def test_the_fused_head_of_v2_is_the_last_row():
    model, batch = small("MiM-v2").eval(), patches(2).float()
    with torch.no_grad():
        before = model.forward_scales(batch)
        model.fused_head.bias += 1
        torch.testing.assert_close(model.forward_scales(batch) - before, torch.eye(4)[3].view(4, 1, 1).expand(4, 2, 4))


@pytest.mark.parametrize("name", ["MiM-v1", "MiM-v3"])
def test_dropout_acts_on_the_tokens_and_before_each_decoder(monkeypatch, name):
    model, seen = small(name, dropout=0.3), []

    def record(x, p, training, *_):
        seen.append((tuple(x.shape), p, training))
        return x

    monkeypatch.setattr(F, "dropout", record)
    monkeypatch.setattr(Dropout, "forward", lambda self, x: record(x, self.p, self.training))
    model.forward_scales(patches(2).float())
    sizes = (9, 1) if name == "MiM-v1" else (25, 25)
    expected = [(2, 4, n_tokens, SMALL["d_inner"]) for n_tokens in sizes] + [(2, SMALL["dim"])] * len(model.heads)
    assert seen == [(shape, 0.3, True) for shape in expected]
    seen.clear()
    model.eval()(patches(2).float())
    assert not any(training for _, _, training in seen)


@pytest.mark.parametrize("shape", [(7,), (40, 3, 1001)])
def test_dropout_drops_its_share_and_keeps_the_expectation(shape):
    torch.manual_seed(0)
    x, layer = torch.ones(shape, requires_grad=True), Dropout(0.3)
    y = layer(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.7), rtol=1e-4, atol=0)
    if len(shape) > 1:  # many enough for the law of large numbers: five standard deviations
        assert abs(float(kept.float().mean()) - 0.7) < 5 * (0.3 * 0.7 / x.numel()) ** 0.5
        neighbours = (kept.flatten()[1:] & kept.flatten()[:-1]).float().mean()
        assert abs(float(neighbours) - 0.49) < 0.01
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    assert not torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)


@every_model
def test_a_checkpoint_holds_weights_and_running_statistics_only(name):
    model = small(name)
    extra = set(model.state_dict()) - {key for key, _ in model.named_parameters()}
    assert {key.rsplit(".", 1)[-1] for key in extra} == {"running_mean", "running_var", "num_batches_tracked"}


@every_model
def test_the_same_seed_draws_the_same_weights(name):
    first, second, other = (torch.cat([p.flatten() for p in small(name, seed=s).parameters()]) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_s6_starts_as_described():
    torch.manual_seed(0)
    s6 = S6(1024, 16, "auto")
    torch.testing.assert_close(-s6.A_log.exp(), -torch.arange(1.0, 17).expand(1024, 16))
    assert torch.equal(s6.D, torch.ones(1024))
    assert s6.dt_proj.weight.shape == (1024, 64)
    assert s6.dt_proj.weight.abs().max() <= 64**-0.5
    assert s6.dt_proj.weight.min() < -0.99 * 64**-0.5
    assert s6.dt_proj.weight.max() > 0.99 * 64**-0.5
    assert s6.x_proj.weight.shape == (64 + 2 * 16, 1024)
    delta = F.softplus(s6.dt_proj.bias.detach().double())
    assert delta.min() > 1e-3 * (1 - 1e-4)
    assert delta.max() < 1e-1 * (1 + 1e-4)
    spread = (delta.log10() + 3) / 2  # log-uniform, so even in [0, 1]
    assert (spread.sort().values - torch.linspace(0, 1, 1024)).abs().max() < 0.06


def test_the_position_and_the_fusion_weights_start_at_zero():
    for key, parameter in small("MiM-v2").named_parameters():
        if key.endswith((".position", ".k")):
            assert not parameter.any()


def test_the_convolution_sees_a_token_and_the_two_before_it():
    torch.manual_seed(0)
    conv = CausalConv(3)
    x = torch.randn(2, 8, 3)
    changed = x.clone()
    changed[:, 4] += 1
    with torch.no_grad():
        order = torch.arange(8).unsqueeze(0)
        different = (conv(x, order) != conv(changed, order)).all(-1).all(0)
        expected = F.conv1d(x.mT, conv.weight.T.unsqueeze(1), conv.bias, padding=2, groups=3).mT[:, :8]
        torch.testing.assert_close(conv(x, order), F.silu(expected))
    assert different.tolist() == [t in (4, 5, 6) for t in range(8)]


def test_s6_is_causal():
    torch.manual_seed(0)
    s6 = S6(16, 4, "auto")
    x = torch.randn(2, 8, 16)
    changed = x.clone()
    changed[:, 4] += 1
    with torch.no_grad():
        different = (s6(x) != s6(changed)).any(-1).all(0)
    assert different.tolist() == [t >= 4 for t in range(8)]


def scanned_before_and_after(place_in_order, scan_type, **switches):
    """Whether each place of the merged scan changes when the pixel at one place of the order does."""
    torch.manual_seed(0)
    module = TMamba(5, 3, (1, 2, 3, 4), MiMOptions(**SMALL, **switches)).double()
    x = torch.randn(1, 25, SMALL["d_inner"], dtype=torch.float64)
    changed = x.clone()
    changed[:, naive_order(5, scan_type)[place_in_order]] += 1
    with torch.no_grad():
        return (module.scan(x) != module.scan(changed))[0, scan_type - 1].any(-1).tolist()


@pytest.mark.parametrize("scan_type", [1, 2, 3, 4])
def test_a_half_does_not_see_the_other_half(scan_type):
    assert scanned_before_and_after(0, scan_type, scan="halves") == [True] * 13 + [False] * 12
    assert scanned_before_and_after(24, scan_type, scan="halves") == [False] * 12 + [True] * 13
    assert scanned_before_and_after(9, scan_type, scan="halves", decay="index") == [9 <= t <= 12 for t in range(25)]


@pytest.mark.parametrize("scan_type", [1, 2, 3, 4])
def test_both_halves_end_at_the_centre_pixel(scan_type):
    assert scanned_before_and_after(12, scan_type, scan="halves", decay="index") == [t == 12 for t in range(25)]


def test_a_whole_scan_sees_every_pixel_from_every_place():
    for place in (0, 12, 24):
        assert all(scanned_before_and_after(place, 1, scan="whole", decay="none"))


def make(name="MiM-v1", n_bands=N_BANDS, n_classes=N_CLASSES, patch_size=5, **options: Any):
    return create_model(name, n_bands=n_bands, n_classes=n_classes, patch_size=patch_size, **options)


def test_an_unknown_model_is_answered_with_the_choices():
    with pytest.raises(ValueError, match="unknown model 'MiM-v4'; choose from") as caught:
        make("MiM-v4")
    assert all(name in str(caught.value) for name in MODELS)


@pytest.mark.parametrize(("name", "option"), [("CNN", "d_state"), ("MiM-v1", "width")])
def test_an_option_that_a_model_lacks_is_answered_with_those_that_it_takes(name, option):
    with pytest.raises(ValueError, match=rf"{name} does not use {option}; it takes dim, .*dropout"):
        make(name, **{option: 1})


@pytest.mark.parametrize("option", CHOICES)
def test_an_unknown_choice_is_answered_with_the_choices(option):
    changed: dict[str, Any] = {option: "other"}
    with pytest.raises(ValueError, match=f"^{option} is 'other'; choose from {', '.join(CHOICES[option])}"):
        make(**changed)


@every_model
@pytest.mark.parametrize("patch_size", [-1, 0, 2, 4, 8])
def test_an_even_patch_is_refused(name, patch_size):
    with pytest.raises(ValueError, match=f"patch_size must be odd and at least [13] for {name}, not {patch_size}"):
        make(name, patch_size=patch_size)


def test_a_patch_of_one_pixel_is_refused_by_mim_and_taken_by_the_cnn():
    for name in MIM:
        with pytest.raises(ValueError, match=rf"at least 3 for {name}, not 1"):
            make(name, patch_size=1)
    assert make("CNN", patch_size=1)(patches(2, 1).float()).shape == (2, N_CLASSES)


@every_mim
@pytest.mark.parametrize("scales", [(), (7,), (3, 5), (4, 1), (3, 0), (-1,), (3, 3, 5)])
def test_scales_that_do_not_fit_are_refused(name, scales):
    with pytest.raises(ValueError, match="does not fit patch size 5: give odd sides, none larger than the one before"):
        make(name, scales=scales)


@pytest.mark.parametrize("types", [(), (1, 1), (0,), (5,), (1, 2, 3, 4, 5)])
def test_scan_types_that_do_not_exist_or_repeat_are_refused(types):
    with pytest.raises(ValueError, match=r"^scan_types must be different numbers from 1 to 4"):
        make(scan_types=types)


@every_model
@pytest.mark.parametrize("dropout", [1, 1.5, -0.1, float("nan")])
def test_a_dropout_that_leaves_nothing_is_refused(name, dropout):
    with pytest.raises(ValueError, match=r"^dropout must be at least 0 and below 1"):
        make(name, dropout=dropout)


@pytest.mark.parametrize("option", ["dim", "d_inner", "d_state", "depth"])
def test_a_size_below_one_is_refused(option):
    changed: dict[str, Any] = {option: 0}
    with pytest.raises(ValueError, match=f"^{option} must be at least 1, not 0"):
        make(**changed)


def test_the_scan_back_ends_that_can_be_chosen_are_those_that_exist():
    assert ("auto", *BACKENDS) == SCAN_BACKENDS
    with pytest.raises(ValueError, match=r"scan_backend is 'other'; choose from auto, .*reference"):
        make(scan_backend="other")


@every_model
def test_options_are_described_and_checked_without_making_the_network(name):
    options = check_options(name, 5, dim=7)
    assert asdict(options) == asdict(MODELS[name].defaults) | {"dim": 7}
    assert asdict(options) == asdict(make(name, dim=7).options)
    assert all(option.metadata["help"] for option in fields(options))


def test_a_variants_options_differ_from_the_first_ones_in_defaults_only():
    for name in MIM:
        described = [(option.name, option.type, option.metadata) for option in fields(MODELS[name].options)]
        assert described == [(option.name, option.type, option.metadata) for option in fields(MiMOptions)]


def test_listing_models_and_checking_options_does_not_import_torch():
    program = """
import sys
from models import MODELS, check_options
from models.options import MiMOptions
for name, entry in MODELS.items():
    check_options(name, entry.patch_size, **vars(entry.defaults))
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
