"""Decay mask, token learner and fuser, pooling and fusion, each against loops over its formula in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import naive_pool, naive_weights

from models.options import DECAYS
from models.tokens import GaussianDecay, GridPool, SequenceAttention, TokenFuser, TokenLearner, WeightedFusion

EXACT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
CONSTANT: dict[str, Any] = {"rtol": 3e-7, "atol": 1e-7}  # where a constant that is kept in float32 takes part

# (length, centre): the ends of halves, and the middles of whole orders
places = pytest.mark.parametrize(("length", "centre"), [(1, 0), (5, 4), (13, 12), (9, 4), (25, 12)])


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shaken(module, seed=0):
    """The module in float64, with no parameter left at its start."""
    module = module.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator) * 0.5)
    return module


def arrays(module):
    return {name: tensor.detach().numpy() for name, tensor in module.named_parameters()}


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def naive_attention(x, weights):
    """Each token of x (L, channels) times the sigmoid of a 1x1 convolution over its maximum and its mean."""
    (to_max, to_mean), bias = weights["mix.weight"][0], weights["mix.bias"][0]
    return np.array([token * sigmoid(to_max * max(token) + to_mean * sum(token) / len(token) + bias) for token in x])


@places
@pytest.mark.parametrize("decay", DECAYS)
def test_the_decay_mask_is_its_formula(length, centre, decay):
    y = random(2, 3, length, 4)
    found = GaussianDecay(length, centre, decay).double()(y)
    close = EXACT if decay in ("none", "feature") else CONSTANT
    for b in range(2):
        for i in range(3):
            weights = torch.tensor(naive_weights(y[b, i].tolist(), centre, decay), dtype=torch.float64)
            torch.testing.assert_close(found[b, i], y[b, i] * weights.unsqueeze(-1), **close)


@places
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weight_is_one_at_the_centre_and_never_larger(length, centre, decay, dtype):
    y = random(3, length, 4).to(dtype)
    found = GaussianDecay(length, centre, decay).to(dtype)(y)
    assert torch.equal(found[:, centre], y[:, centre])
    ratio = found / y
    assert ratio.max() <= 1 + 1e-6
    assert ratio.min() > 0


@places
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_sequence_has_a_feature_factor_of_one_and_finite_gradients(length, centre, dtype):
    y = random(2, 1, 4).to(dtype).expand(2, length, 4).clone().requires_grad_()
    found = GaussianDecay(length, centre, "feature").to(dtype)(y)
    assert torch.equal(found, y)
    found.square().sum().backward()
    torch.testing.assert_close(y.grad, 2 * y.detach())


@pytest.mark.parametrize("decay", DECAYS)
def test_a_single_token_passes_unchanged_with_a_gradient_of_one(decay):
    y = random(2, 1, 4).float().requires_grad_()
    found = GaussianDecay(1, 0, decay)(y)
    found.sum().backward()
    assert torch.equal(found, y)
    assert y.grad is not None
    assert torch.equal(y.grad, torch.ones_like(y))


@pytest.mark.parametrize("decay", ["feature", "both"])
def test_a_token_that_equals_the_centre_has_a_feature_factor_of_one_and_finite_gradients(decay):
    y = random(1, 5, 3)
    y[:, 1] = y[:, 4]
    y.requires_grad_()
    found = GaussianDecay(5, 4, decay).double()(y)
    found.sum().backward()
    by_index = math.exp(-0.5 * 3**2 / 2**2) if decay == "both" else 1.0  # mean of 4, 3, 2, 1, 0 is 2
    torch.testing.assert_close(found[:, 1], y[:, 1] * by_index, **CONSTANT)
    assert y.grad is not None
    assert y.grad.isfinite().all()


def test_the_decay_mask_passes_the_gradient_check():
    for length, centre in ((5, 4), (9, 4)):
        y = random(2, length, 3, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(GaussianDecay(length, centre, "both").double(), y)


def test_the_feature_factor_does_not_depend_on_the_scale_or_the_batch():
    decay = GaussianDecay(9, 4, "feature").double()
    y = random(3, 9, 4)
    torch.testing.assert_close(decay(1e-12 * y), 1e-12 * decay(y), rtol=1e-11, atol=0)
    torch.testing.assert_close(decay(y)[1], decay(y[1]), **EXACT)


@pytest.mark.parametrize(
    ("grid", "grid_out"), [(1, 1), (3, 1), (3, 3), (5, 3), (7, 5), (7, 3), (9, 7), (11, 1), (11, 5)]
)
def test_pooling_is_the_adaptive_average_of_the_grid(grid, grid_out):
    x = random(2, 3, grid * grid, 4)
    found = GridPool(grid, grid_out).double()(x)
    assert found.shape == (2, 3, grid_out * grid_out, 4)
    for b in range(2):
        for i in range(3):
            expected = naive_pool(x[b, i].numpy(), grid, grid_out)
            torch.testing.assert_close(found[b, i], torch.tensor(expected), **CONSTANT)
    image = x[:, 0].transpose(1, 2).reshape(2, 4, grid, grid)
    pooled = F.adaptive_avg_pool2d(image, grid_out).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found[:, 0], pooled, **CONSTANT)


def test_a_grid_that_keeps_its_side_is_pooled_to_itself():
    x = random(2, 25, 3)
    assert torch.equal(GridPool(5, 5).double()(x), x)


@pytest.mark.parametrize("length", [1, 4])
def test_sequence_attention_is_its_formula(length):
    attention = shaken(SequenceAttention())
    x = random(2, 3, length, 5)
    found = attention(x).detach().numpy()
    expected = np.array([[naive_attention(x[b, i].numpy(), arrays(attention)) for i in range(3)] for b in range(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize(("length", "n_tokens"), [(9, 1), (25, 9), (9, 9), (1, 1)])
def test_the_token_learner_is_a_softmax_over_the_positions_of_the_attended_sequence(length, n_tokens):
    learner = shaken(TokenLearner(6, n_tokens), seed=1)
    weights = arrays(learner)
    y = random(2, 3, length, 6, seed=2)
    found = learner(y).detach().numpy()
    assert found.shape == (2, 3, n_tokens, 6)
    attention = {name.removeprefix("attention."): array for name, array in weights.items() if "attention" in name}
    for b in range(2):
        for i in range(3):
            attended = naive_attention(y[b, i].numpy(), attention)
            values = [weights["value.weight"] @ token for token in attended]
            for s in range(n_tokens):
                scores = [math.exp(weights["score.weight"][s] @ token) for token in attended]
                expected = sum(score * value for score, value in zip(scores, values, strict=True)) / sum(scores)
                np.testing.assert_allclose(found[b, i, s], expected, rtol=1e-10, atol=1e-12)


def test_learned_tokens_do_not_depend_on_the_order_of_the_sequence():
    learner = shaken(TokenLearner(6, 4))
    y = random(2, 3, 9, 6)
    torch.testing.assert_close(learner(y), learner(y[:, :, torch.tensor([3, 1, 4, 0, 5, 8, 2, 6, 7])]), **EXACT)


@pytest.mark.parametrize("n_tokens", [1, 4, 9])
def test_the_token_fuser_mixes_the_tokens_and_gates_them_by_z(n_tokens):
    fuser = shaken(TokenFuser(5, n_tokens), seed=3)
    weights = arrays(fuser)
    u, z = random(2, 3, n_tokens, 5, seed=4), random(2, n_tokens, 5, seed=5)
    found = fuser(u, z).detach().numpy()
    attention = {name.removeprefix("attention."): array for name, array in weights.items() if "attention" in name}
    tokens = range(n_tokens)
    for b in range(2):
        skip = naive_attention(z[b].numpy(), attention)
        gate = [
            [sigmoid(weights["gate.weight"][k] @ z[b, s].numpy() + weights["gate.bias"][k]) for k in tokens]
            for s in tokens
        ]
        for i in range(3):
            mixed = [
                sum(weights["mix.weight"][k][j] * u[b, i, j].numpy() for j in tokens) + weights["mix.bias"][k]
                for k in tokens
            ]
            for s in tokens:
                expected = sum(gate[s][k] * mixed[k] for k in tokens) + skip[s]
                np.testing.assert_allclose(found[b, i, s], expected, rtol=1e-10, atol=1e-12)


def test_weighted_fusion_adds_the_types_with_softmax_weights():
    fusion: Any = shaken(WeightedFusion(4, weighted=True))
    out = random(2, 4, 9, 3)
    k = fusion.k.tolist()
    total = sum(map(math.exp, k))
    expected = sum(math.exp(k[i]) / total * out[:, i] for i in range(4))
    torch.testing.assert_close(fusion(out), expected, **EXACT)


def test_weighted_fusion_starts_as_the_mean_and_its_weights_learn():
    fusion: Any = WeightedFusion(4, weighted=True).double()
    out = random(2, 4, 9, 3)
    assert fusion.k.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(fusion(out), (out[:, 0] + out[:, 1] + out[:, 2] + out[:, 3]) / 4, **EXACT)
    fusion(out).square().sum().backward()
    assert fusion.k.grad.abs().min() > 0


@pytest.mark.parametrize(("n_types", "weighted"), [(1, True), (1, False), (3, False)])
def test_one_type_or_the_plain_mean_has_no_weights(n_types, weighted):
    fusion = WeightedFusion(n_types, weighted)
    out = random(2, n_types, 9, 3)
    assert not list(fusion.parameters())
    torch.testing.assert_close(fusion(out), sum(out[:, i] for i in range(n_types)) / n_types, **EXACT)
