"""The rivals: sizes as published, shapes of the layers as in their papers, gradients, and own parts by hand."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import ALIASES, MODELS, create_model
from models.a2s2k import ChannelWeights
from models.attention import SelfAttention
from models.dbda import ChannelAttention, PositionAttention
from models.mamba import Mamba
from models.morphformer import Morphology
from models.options import MambaOptions
from models.ss2d import SS2D
from models.ssftt import GaussianTokens
from utils import match_name

# Parameters for 200 bands (or the components of the paper) and 16 classes, at the paper's patch. Where the count of the
# authors' code is another one, it is what follows.
N_PARAMETERS = {
    "Hu": 72_196,
    "Mou": 243_280,
    "Hamida": 45_196,
    "HybridSN": 5_122_176,
    "SSRN": 364_168,
    "DBDA": 382_328,  # given as 382,347; what the 19 are was not found
    "A2S2K": 370_736,  # 370,856 with kernels of 3 x 3 in place of 3, see the class, and two idle BatchNorms
    "SpectralFormer": 355_577,
    "SSFTT": 153_224,
    "morphFormer": 277_552,
    "NN": 17_227_792,
    "Boulch": 6_067,
    "Lee": 390_288,
    "Chen": 1_119_856,
    "Li": 115_248,
    "He": 269_024,
    "Luo": 103_846_618,
    "Sharma": 2_635_312,
    "Liu": 155_776,
    "GAHT": 972_624,  # with the groups that it has for Salinas
    "Vim": 180_304,
    "VMamba": 181_840,
    "S2Mamba": 108_742,
    "3DSS-Mamba": 24_368,
}
# What every convolution and linear layer gives for one patch, without the batch, read from the papers.
SHAPES = {
    "Hu": [(20, 178), (100,), (16,)],
    "Mou": [(16,)],
    "Hamida": [(20, 198, 3, 3), (20, 99, 3, 3), (35, 99, 1, 1), (35, 50, 1, 1), (35, 50, 1, 1), (35, 26, 1, 1), (16,)],
    "HybridSN": [(8, 24, 23, 23), (16, 20, 21, 21), (32, 18, 19, 19), (64, 17, 17), (256,), (128,), (16,)],
    "SSRN": [(24, 97, 49)] * 5 + [(128, 7, 7)] + [(24, 5, 5)] * 5 + [(16,)],
    "DBDA": [(24, 97, 81)]
    + [(12, 97, 81)] * 3
    + [(60, 81), (24, 9, 9)]
    + [(12, 9, 9)] * 3
    + [(7, 81), (7, 81), (60, 81), (16,)],
    "A2S2K": [(24, 97, 81), (24, 97, 9, 9)]
    + [(100,), (24,)]
    + [(24, 97, 81), (24, 97, 81), (1, 24)] * 2
    + [(128, 9, 9), (24, 7, 7)]
    + [(24, 7, 7), (24, 7, 7), (1, 24)] * 2
    + [(16,)],
    "NN": [(2048,), (4096,), (2048,), (16,)],
    "Boulch": [(32, 200), (16, 100), (16, 50), (16, 25), (16, 12), (16, 6), (16, 3), (3, 1), (16,)],
    "Lee": [(128, 1, 1)] * 9 + [(16, 1, 1)],
    "Chen": [(32, 169, 24, 24), (32, 138, 9, 9), (32, 107, 1, 1), (16,)],
    "Li": [(16, 196, 3, 3), (32, 196, 1, 1), (16,)],
    "He": [(16, 64, 5, 5)] + [(16, 64, 25)] * 8 + [(16, 62, 4, 4), (16,)],
    "Luo": [(90, 20, 1, 1), (64, 88, 18), (1024,), (16,)],
    "Sharma": [(96, 30, 30), (256, 7, 7), (512, 1, 1), (1024,), (16,)],
    "Liu": [(80, 7, 7), (16,)],
    "SpectralFormer": [(200, 64)]
    + [(201, 192), (201, 64), (201, 8), (201, 64)] * 2
    + [(201, 64, 1), (201, 192), (201, 64), (201, 8), (201, 64)] * 3
    + [(16,)],
    "SSFTT": [(8, 28, 11, 11), (64, 9, 9), (5, 192), (5, 64), (5, 8), (5, 64), (16,)],
    "morphFormer": [(8, 192, 11, 11), (64, 11, 11), (64, 11, 11)]
    + ([(16, 8, 8)] * 4 + [(1, 64), (33, 64), (33, 64), (1, 64)]) * 2
    + [(16,)],
    "GAHT": [(256, 7, 7)]
    + [(49, 768), (49, 256), (49, 256), (49, 256)] * 2
    + [(128, 7, 7), (49, 384), (49, 128), (49, 128), (49, 128)]
    + [(64, 7, 7), (49, 192), (49, 64), (49, 64), (49, 64)]
    + [(16,)],
    "Vim": [(64, 7, 7)] + ([(50, 256)] + [(128, 50), (50, 36)] * 2 + [(50, 64)]) * 4 + [(16,)],
    "VMamba": [(64, 7, 7)] + [(7, 7, 256), (128, 7, 7), *[(49, 36)] * 4, (7, 7, 64)] * 3 + [(16,)],
    "S2Mamba": [
        *[(64, 7, 7), (7, 7, 256), (128, 7, 7), *[(49, 36)] * 4, (7, 7, 64)],
        *[(49, 256), (128, 36), (128, 36), (49, 64), (49, 64), (49, 2), (16,)],
    ],
    "3DSS-Mamba": [(32, 28, 7, 7), (1372, 128)] + [(64, 1372), (1372, 34)] * 4 + [(1372, 32), (16,)],
}
OWN = tuple(N_PARAMETERS)  # in another order than MODELS, which does not matter
make: Any = create_model  # the types of their parts are their own
SPECTRAL = ("Hu", "Mou", "NN", "Boulch")
CUT = ("Lee", "Chen", "Liu", "Sharma")  # see the middle alone, or lose the last rows to pooling
every_rival = pytest.mark.parametrize("name", OWN)


def own(name):
    """The network with the patch and the bands of its paper, and patches for it."""
    entry = MODELS[name]
    sizes = entry.pca or 200, entry.patch_size
    torch.manual_seed(0)
    model = make(name, n_bands=sizes[0], n_classes=16, patch_size=sizes[1])
    return model, torch.randn(2, sizes[0], sizes[1], sizes[1])


def small(name, patch_size=None, n_bands=None, seed=0):
    """The network at its smallest patch but at least 3, few bands and 4 classes."""
    entry = MODELS[name]
    n_bands = n_bands or max(entry.fewest_bands, 10)
    torch.manual_seed(seed)
    patch_size = patch_size or max(entry.smallest_patch, 3)
    return make(name, n_bands=n_bands, n_classes=4, patch_size=patch_size), (n_bands, patch_size, patch_size)


def batch_for(shape, n, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def test_every_trained_rival_is_tested_here():
    others = "MiM", "CNN", "Mam"  # MambaHSI, which takes no patches, has a file of its own
    rivals = {n for n, e in MODELS.items() if e.trained and n[:3] not in others}
    for table, of in (("N_PARAMETERS", N_PARAMETERS), ("SHAPES", SHAPES)):
        missing, unknown = sorted(rivals - {*of}), sorted({*of} - rivals)
        assert not missing, f"add to {table} in tests/models/test_rivals.py, see the comment above it: {missing}"
        assert not unknown, f"remove from {table} in tests/models/test_rivals.py what MODELS lacks: {unknown}"


@every_rival
def test_the_number_of_parameters_is_known(name):
    model, _ = own(name)
    assert model.n_parameters == N_PARAMETERS[name]


def test_other_published_sizes():
    def count(name, **sizes):
        return make(name, **{"n_bands": 200, "n_classes": 16, **sizes}).n_parameters

    assert count("Hamida", patch_size=7) == 161_676
    assert count("SpectralFormer", patch_size=1) == 346_361


@every_rival
def test_the_layers_have_the_shapes_of_the_paper(name):
    model, batch = own(name)
    seen = []
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    skipped = [m for n, m in model.named_modules() if n.endswith("dt_proj")]  # its weight is used, not called
    for module in model.modules():
        if isinstance(module, kinds) and module not in skipped:
            module.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[1:])))
    with torch.no_grad():
        logits = model.eval().forward_scales(batch)
    assert seen == SHAPES[name]
    assert logits.shape == (1, 2, 16)


@every_rival
def test_small_batches_give_finite_gradients_to_every_parameter(name):
    model, shape = small(name)
    batch = batch_for(shape, 3)
    F.cross_entropy(model.forward_scales(batch)[0], torch.tensor([0, 1, 3])).backward()
    idle = {parameter for parameter, p in model.named_parameters() if p.grad is None}
    assert idle == set()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_rival
def test_pixels_do_not_see_each_other_and_prediction_repeats(name):
    model, shape = small(name)
    model(batch_for(shape, 8))  # moves the running statistics
    model, batch = model.eval(), batch_for(shape, 6, seed=1)
    with torch.no_grad():
        together, again = model(batch), model(batch)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        torch.testing.assert_close(model(batch[order]), together[order], rtol=1e-4, atol=1e-5)
        alone = torch.cat([model(each[None]) for each in batch])
    assert torch.equal(together, again)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.exp().sum(-1), torch.ones(6))


@every_rival
@pytest.mark.parametrize(("more_patch", "more_bands"), [(2, 0), (0, 7), (4, 5)])
def test_other_patches_and_bands_work(name, more_patch, more_bands):
    entry = MODELS[name]
    patch_size = max(entry.smallest_patch, 1) + more_patch
    model, shape = small(name, patch_size, max(entry.fewest_bands, 10) + more_bands)
    assert model(batch_for(shape, 2)).shape == (2, 4)


@every_rival
def test_the_smallest_patch_and_the_fewest_bands_are_the_smallest_and_the_fewest(name):
    entry = MODELS[name]
    model, shape = small(name, entry.smallest_patch, entry.fewest_bands)
    assert model.eval()(batch_for(shape, 2)).isfinite().all()
    if entry.fewest_bands > 1:
        with pytest.raises(ValueError, match=f"{name} needs {entry.fewest_bands} bands or more, not"):
            small(name, entry.smallest_patch, entry.fewest_bands - 1)
    if entry.smallest_patch > 1:
        with pytest.raises(ValueError, match=f"odd and at least {entry.smallest_patch} for {name}"):
            small(name, entry.smallest_patch - 2)


@every_rival
def test_a_scene_may_be_embedded_once_and_cropped(name):
    model, (n_bands, side, _) = small(name)
    model = model.eval()
    scene = torch.randn(1, n_bands, side + 2, side + 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        crop = model.encode(model.embed(scene)[:, :, 1 : side + 1, 3 : side + 3])
        torch.testing.assert_close(crop, model.forward_scales(scene[:, :, 1 : side + 1, 3 : side + 3]))


@pytest.mark.parametrize("name", SPECTRAL)
def test_networks_on_spectra_see_the_centre_alone(name):
    model, shape = small(name, 5)
    batch = batch_for(shape, 3).requires_grad_()
    model.eval()(batch)[:, 0].sum().backward()
    assert batch.grad is not None
    seen = batch.grad.abs().sum((0, 1)) > 0
    assert seen.nonzero().tolist() == [[2, 2]]


@pytest.mark.parametrize("name", [n for n in OWN if n not in (*SPECTRAL, *CUT)])
def test_the_other_networks_see_the_whole_patch(name):
    model, shape = small(name, max(MODELS[name].smallest_patch, 5))
    for parameter in model.parameters():  # scales and tokens that start at 0 hide what comes after them
        nn.init.normal_(parameter, std=0.3) if parameter.dim() < 2 else None
    batch = batch_for(shape, 3).requires_grad_()
    model.eval()(batch)[:, 0].sum().backward()
    assert batch.grad is not None and (batch.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize(
    ("typed", "name"), [("roy", "HybridSN"), ("hu", "Hu"), ("SVM_grid", "SVM"), ("nearest", "kNN")]
)
def test_the_names_of_deephyperx_are_understood(typed, name):
    assert match_name(typed, MODELS, "model", ALIASES) == name


# own parts, against loops


def test_self_attention_is_softmax_of_scaled_products_per_head():
    torch.manual_seed(0)
    layer, tokens = SelfAttention(6, 2, 8, bias=True).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    for scale in (None, 1.0):
        layer.scale = scale
        found = layer(tokens)
        joint = tokens @ layer.to_heads.weight.T + layer.to_heads.bias
        for b in range(2):
            heads = []
            for h in range(2):
                q, k, v = (joint[b, :, part * 8 + 4 * h : part * 8 + 4 * h + 4] for part in range(3))
                rows = []
                for i in range(5):
                    logits = torch.stack([q[i] @ k[j] for j in range(5)]) * (0.5 if scale is None else scale)
                    rows.append(logits.softmax(0) @ v)
                heads.append(torch.stack(rows))
            expected = torch.cat(heads, 1) @ layer.project.weight.T + layer.project.bias
            torch.testing.assert_close(found[b], expected)


@pytest.mark.parametrize("erosion", [False, True])
def test_dilation_and_erosion_take_the_largest_and_the_smallest_of_a_window(erosion):
    torch.manual_seed(0)
    layer = Morphology(2, 3, 3, erosion=erosion)
    nn.init.normal_(layer.weight)
    x, w = torch.randn(1, 2, 4, 4), layer.weight.detach().view(3, 2, 3, 3)
    padded, found = F.pad(x, (1, 1, 1, 1))[0], layer(x)[0]
    for out, i, j in itertools.product(range(3), range(4), range(4)):
        window = padded[:, i : i + 3, j : j + 3]
        expected = (window - w[out]).min() if erosion else (window + w[out]).max()
        torch.testing.assert_close(found[out, i, j], expected)


def test_tokens_are_means_of_the_pixels_weighted_by_a_softmax_over_them():
    torch.manual_seed(0)
    layer, pixels = GaussianTokens(3, 4), torch.randn(2, 5, 4)
    found = layer(pixels)
    for b, t in itertools.product(range(2), range(3)):
        weights = torch.stack([pixels[b, i] @ layer.weights[t] for i in range(5)]).softmax(0)
        expected = sum(weights[i] * (pixels[b, i] @ layer.values) for i in range(5))
        torch.testing.assert_close(found[b, t], expected)


def test_the_attentions_of_dbda_against_loops():
    torch.manual_seed(0)
    position: Any = PositionAttention()
    channel, x = ChannelAttention(), torch.randn(1, 60, 5)
    for layer in (position, channel):
        nn.init.constant_(layer.scale, 0.7)
    query, key, value = (layer(x)[0].detach() for layer in (position.query, position.key, position.value))
    for i in range(5):
        weights = torch.stack([query[:, i] @ key[:, j] for j in range(5)]).softmax(0)
        expected = 0.7 * sum(weights[j] * value[:, j] for j in range(5)) + x[0, :, i]
        torch.testing.assert_close(position(x)[0, :, i], expected)
    for c in (0, 17, 59):
        similarity = torch.stack([x[0, c] @ x[0, d] for d in range(60)])
        weights = (similarity.max() - similarity).softmax(0)
        torch.testing.assert_close(channel(x)[0, c], 0.7 * (weights @ x[0]) + x[0, c], rtol=1e-4, atol=1e-5)


def test_channel_weights_come_from_the_mean_of_a_channel_and_its_two_neighbours():
    torch.manual_seed(0)
    layer: Any = ChannelWeights()
    x = torch.randn(2, 6, 3, 4)
    kernel = layer.convolution.weight.flatten()
    for b, c in itertools.product(range(2), range(6)):
        near = [x[b, d].mean() if 0 <= d < 6 else torch.tensor(0.0) for d in (c - 1, c, c + 1)]
        weight = (kernel * torch.stack(near)).sum().sigmoid()
        torch.testing.assert_close(layer(x)[b, c], weight * x[b, c])


def naive_s6(s6, sequence):
    """The recurrence of a selective scan, one step and channel at a time."""
    a, out = -s6.A_log.exp(), torch.zeros_like(sequence)
    n_states = s6.d_state
    for b in range(len(sequence)):
        h = torch.zeros(sequence.shape[2], n_states, dtype=sequence.dtype)
        for t, u in enumerate(sequence[b]):
            joint = s6.x_proj.weight @ u
            dt, B, C = joint.split([s6.dt_rank, n_states, n_states])
            delta = F.softplus(s6.dt_proj.weight @ dt + s6.dt_proj.bias)
            h = torch.exp(delta[:, None] * a) * h + (delta * u)[:, None] * B
            out[b, t] = h @ C + s6.D * u
    return out


@pytest.mark.parametrize("n_directions", [1, 2])
def test_a_mamba_layer_against_a_loop(n_directions):
    torch.manual_seed(0)
    layer: Any = Mamba(4, MambaOptions(d_state=3), n_directions).double()
    tokens = torch.randn(2, 6, 4, dtype=torch.float64)
    orders = torch.stack([torch.arange(6), torch.tensor([4, 1, 5, 0, 3, 2])][:n_directions])
    joint = tokens @ layer.project_in.weight.T
    sequence, gate = joint[..., :8], joint[..., 8:]
    total = torch.zeros_like(sequence)
    for direction, order in zip(layer.directions, orders, strict=True):
        ordered = sequence[:, order]
        kernel, bias = direction.convolution.weight[:, 0], direction.convolution.bias
        convolved = torch.empty_like(ordered)
        for t in range(6):
            past = [ordered[:, t - 3 + k] if t - 3 + k >= 0 else torch.zeros_like(ordered[:, 0]) for k in range(4)]
            convolved[:, t] = F.silu(sum(kernel[:, k] * past[k] for k in range(4)) + bias)
        scanned = naive_s6(direction.s6, convolved)
        for place, token in enumerate(order):
            total[:, token] += scanned[:, place]
    expected = (total / n_directions * F.silu(gate)) @ layer.project_out.weight.T
    torch.testing.assert_close(layer(tokens, orders), expected, rtol=1e-6, atol=1e-8)


def test_the_2d_scan_against_a_loop():
    torch.manual_seed(0)
    layer, pixels = SS2D(3, MambaOptions(d_state=2)).double(), torch.randn(1, 3, 4, 3, dtype=torch.float64)
    joint = pixels @ layer.project_in.weight.T
    x, gate = joint[..., :6], joint[..., 6:]
    x = F.silu(layer.convolution(x.permute(0, 3, 1, 2)))[0]  # (6, 3, 4)
    total = torch.zeros(3, 4, 6, dtype=torch.float64)
    rows = list(itertools.product(range(3), range(4)))
    columns = [(i, j) for j in range(4) for i in range(3)]
    for scan, path in zip(layer.scans, (rows, columns, rows[::-1], columns[::-1]), strict=True):
        out = naive_s6(scan, torch.stack([x[:, i, j] for i, j in path])[None])[0]
        for place, (i, j) in enumerate(path):
            total[i, j] += out[place]
    expected = (layer.norm(total) * F.silu(gate[0])) @ layer.project_out.weight.T
    torch.testing.assert_close(layer(pixels)[0], expected, rtol=1e-6, atol=1e-8)


def test_the_scans_of_3dss_go_along_the_bands_of_a_pixel_and_along_the_pixels_of_a_band():
    model = make("3DSS-Mamba", n_bands=5, n_classes=3, patch_size=7)  # tokens: 3 bands x 9 pixels
    spectral = [band * 9 + pixel for pixel in range(9) for band in range(3)]
    spatial = [band * 9 + pixel for band in range(3) for pixel in range(9)]
    assert model.orders.tolist() == [spectral, spatial, spectral[::-1], spatial[::-1]]


def test_the_class_token_of_vim_is_in_the_middle_and_both_directions_are_scanned():
    model = make("Vim", n_bands=5, n_classes=3, patch_size=3)
    assert model.orders.tolist() == [list(range(10)), list(range(9, -1, -1))]
    seen = []
    model.norms[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    nn.init.zeros_(model.position)
    nn.init.zeros_(model.embedding.weight)
    nn.init.zeros_(model.embedding.bias)
    model(torch.randn(1, 5, 3, 3))
    assert seen[0][0].abs().sum(-1).nonzero().flatten().tolist() == [4]


def test_the_tokens_of_spectralformer_hold_a_band_and_its_neighbours():
    model = make("SpectralFormer", n_bands=4, n_classes=3, patch_size=3)
    seen = []
    model.embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    patch = torch.randn(1, 4, 3, 3)
    model(patch)
    flat = patch[0].flatten(1)
    for band, group in enumerate([(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 3)]):
        assert torch.equal(seen[0][0, band], torch.cat([flat[i] for i in group]))


def test_weights_of_s2mamba_below_a_tenth_become_0():
    model, shape = small("S2Mamba", 3)
    nn.init.zeros_(model.gate[2].weight)
    batch, features = batch_for(shape, 2), []
    model.head.register_forward_hook(lambda _, inputs, __: features.append(inputs[0].detach()))
    without = model.embed(batch).mean((2, 3)).detach()
    for ratio in (1e9, 10, 8):  # the smaller weight is 0, then 1 / 11, then 1 / 9
        model.gate[2].bias.data = torch.tensor([math.log(ratio), 0.0])
        model.eval()(batch)
    spatial, eleventh, ninth = (each - without for each in features)
    torch.testing.assert_close(eleventh, 10 / 11 * spatial)
    assert not torch.allclose(ninth, 8 / 9 * spatial, rtol=1e-2)
