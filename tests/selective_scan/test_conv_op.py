"""The convolution before the scan against PyTorch's own, and what an operator and its back ends promise."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from selective_scan import causal_conv
from selective_scan.conv_op import conv, conv_backward


def draw(batch, n_tokens, d_inner, n_orders, length, dtype=torch.float64, seed=0):
    """Tokens, order, weight and bias; a token may come again."""
    random = torch.Generator().manual_seed(seed)
    tokens, weight, bias = (
        torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((batch, n_tokens, d_inner), (3, d_inner), (d_inner,))
    )
    return tokens, torch.randint(n_tokens, (n_orders, length), generator=random), weight, bias


def by_conv1d(tokens, order, weight, bias):
    """The same by PyTorch's convolution, in float64, with its own gradients."""
    tokens, weight, bias = tokens.double(), weight.double(), bias.double()
    x = torch.cat([row[one] for row in tokens for one in order]).view(-1, order.shape[1], tokens.shape[2])
    z = F.conv1d(x.mT, weight.T.unsqueeze(1), bias, padding=2, groups=x.shape[2]).mT[:, : order.shape[1]]
    return z * torch.sigmoid(z)


def value_and_gradients(function, inputs):
    y = function(*inputs)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
    leaves = (inputs[0], *inputs[2:])
    return [y.detach(), *torch.autograd.grad((y.double() * weight).sum(), leaves)]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, top) for top in (70, 9, 40, 4, 12))),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_any_shape_gives_pytorchs_convolution_and_its_gradients(sizes, dtype, seed):
    inputs = draw(*sizes, dtype=dtype, seed=seed)
    exact = value_and_gradients(by_conv1d, inputs)
    found = value_and_gradients(causal_conv, inputs)
    for x, expected in zip(found, exact, strict=True):
        rounding = 1e-12 if dtype == torch.float64 else 1e-5
        assert (x.double() - expected).norm() <= rounding * (1 + expected.norm())


def test_large_inputs_pass_or_vanish():
    tokens = torch.tensor([[[1e30], [-1e30], [100.0], [-100.0]]])
    order, weight, bias = torch.arange(4).view(4, 1), torch.tensor([[0.0], [0.0], [1.0]]), torch.zeros(1)
    y = causal_conv(tokens, order, weight, bias).flatten()
    torch.testing.assert_close(y, torch.tensor([1e30, 0.0, 100.0, 0.0]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck_passes_with_gradients(dtype):
    inputs = draw(2, 5, 3, 2, 4, dtype=dtype)
    torch.library.opcheck(conv, inputs)
    detached = [x.detach() for x in inputs]
    grad = torch.ones(4, 4, 3, dtype=dtype)
    torch.library.opcheck(conv_backward, (grad, *detached))


def test_under_autocast_it_is_in_float32():
    inputs = draw(2, 5, 3, 2, 4, dtype=torch.float32)
    low = [x.bfloat16() if x.is_floating_point() else x for x in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = causal_conv(*low)
    assert y.dtype == torch.float32
    assert torch.equal(y, causal_conv(*(x.float() if x.is_floating_point() else x for x in low)))
