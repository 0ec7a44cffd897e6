"""The cross scan on CUDA without a GPU: its kernels run on the CPU, and are compared with the modules in float64."""

import pytest
import torch
from test_cross_scan_op import arguments, check, draw, t_mamba
from test_cuda_kernels import Emulated, emulate

from models.t_mamba import as_modules
from models.tokens import SequenceAttention
from selective_scan import attention_op, compile_cuda, cross_scan_op, cuda, cuda_cross_scan
from selective_scan.cross_scan_op import CrossScanArguments

AROUND = ("convolve", "convolve_backward", "gather_gradients", "merge", "merge_backward")
ATTENTION = ("attend", "attend_backward")
KERNELS = [f"mim_{name}_{kind}" for name in AROUND + ATTENTION for kind in ("float", "double")]
KERNELS += [f"mim_{way}_{kind}_{n}" for way in ("forward", "backward") for kind in ("float", "double") for n in (4, 16)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return emulate(tmp_path_factory.mktemp("emulator"), compile_cuda.SOURCE, KERNELS)


@pytest.fixture
def emulated(library, monkeypatch):
    """The kernels on the CPU, for tensors of the CPU."""
    module = Emulated(library)
    monkeypatch.setattr(cuda, "module", lambda _: module)
    monkeypatch.setattr(cross_scan_op, "_on_cpu", lambda _: False)
    return module


@pytest.mark.parametrize("scan", ["halves", "whole"])
@pytest.mark.parametrize("decay", ["none", "index", "feature", "both"])
@pytest.mark.parametrize("tokens", ["learned", "pooled"])
def test_values_and_gradients_are_those_of_the_modules(emulated, scan, decay, tokens):
    module = t_mamba(scan, decay, tokens=tokens)
    check(module, draw(module), 1e-10)
    assert {name for name, _ in emulated.launched} >= {f"mim_{name}_double" for name in AROUND}


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (1, {"grids": (1, 1), "types": (2,), "d_inner": 1, "d_state": 1}),
        (2, {"grids": (3, 1), "types": (1, 3), "d_inner": 33, "d_state": 4}),
        (5, {"grids": (5, 3), "types": (4, 1, 2), "d_inner": 70, "d_state": 9}),
        (2, {"grids": (7, 5), "types": (1, 2), "d_inner": 256, "d_state": 16}),
    ],
)
@pytest.mark.parametrize("scan", ["halves", "whole"])
def test_any_sizes_do(emulated, scan, rows, sizes):
    module = t_mamba(scan, **sizes)
    check(module, draw(module, rows), 1e-9)
    assert emulated.launched


def test_in_float32_it_stays_near_float64(emulated):
    module = t_mamba(dtype=torch.float32)
    check(module, draw(module), 1e-4)
    assert emulated.launched


def test_more_rows_than_groups_are_all_summed(emulated, monkeypatch):
    monkeypatch.setattr(cuda, "MAX_GROUPS", 3)
    module = t_mamba(types=(1, 4))
    check(module, draw(module, 4), 1e-10)
    assert ("mim_merge_backward_double", (3, 1, 1)) in emulated.launched
    assert ("mim_backward_double_4", (6, 1, 1)) in emulated.launched


@pytest.mark.parametrize("scan", ["halves", "whole"])
def test_equal_tokens_have_a_feature_factor_of_one(emulated, scan):
    module = t_mamba(scan)
    for branch in (module.forward_branch, module.backward_branch):
        torch.nn.init.zeros_(branch.conv.weight)  # all tokens alike after it
        torch.nn.init.zeros_(branch.s6.x_proj.weight)  # and no state
    check(module, draw(module), 1e-10)
    assert emulated.launched


def test_channels_that_are_equally_large_share_the_gradient_of_the_maximum(emulated):
    module = t_mamba()
    torch.nn.init.zeros_(module.merge_norm.weight)  # all tokens are the norm's bias
    module.merge_norm.bias.data = torch.tensor([1.0, 2.0, 2.0, 0.0]).repeat(10).double()
    check(module, draw(module), 1e-10)
    assert emulated.launched


def run(given):
    """The result, and all gradients."""
    prepared = CrossScanArguments.unpack(given)
    y, kept = cuda_cross_scan.forward(prepared, True)
    grad = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return [y, *cuda_cross_scan.backward(grad, kept, prepared)]


@pytest.mark.parametrize("learned", [True, False])
def test_the_bits_do_not_depend_on_the_order_of_threads_nor_on_the_run(emulated, learned):
    given = arguments("halves", 3, torch.float32, learned=learned)
    expected = run(given)
    for emulated.backwards in (False, True):
        for found, value in zip(run(given), expected, strict=True):
            assert torch.equal(found, value)


def test_nothing_is_kept_without_a_gradient(emulated):
    prepared = CrossScanArguments.unpack(arguments("whole", 2, torch.float32))
    assert cuda_cross_scan.forward(prepared, False)[1].numel() == 0


def test_an_empty_batch_has_gradients_of_zero(emulated):
    given = list(arguments("halves", 2, torch.float32))
    given[0] = given[0][:0]
    emulated.launched.clear()
    y, grad_tokens, *grads = run(given)
    assert (len(y), len(grad_tokens)) == (0, 0)
    assert not any(grad.any() for grad in grads)
    assert emulated.launched == []


@pytest.mark.parametrize(
    ("n_tokens", "length", "channels", "states", "taken"),
    [
        (49, 49, 128, 16, True),
        (441, 441, 256, 128, True),
        (49, 49, 257, 16, False),
        (529, 529, 64, 16, False),
        (1225, 25, 64, 16, False),
        (49, 25, 64, 129, False),
    ],
)
def test_what_the_kernels_do_not_take_is_left_to_the_modules(n_tokens, length, channels, states, taken):
    orders = torch.zeros(4, length, dtype=torch.int64)
    assert cuda_cross_scan.fits(torch.empty(2, n_tokens, channels, device="meta"), orders, states) == taken


def test_the_modules_run_without_the_kernels(emulated):
    module = t_mamba()
    with as_modules(module):
        module(draw(module))
    assert emulated.launched == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 9, 33), (2, 5, 7, 64), (600, 3), (4, 256), (0, 3, 8)])
def test_the_attention_is_that_of_the_module(emulated, shape, dtype):
    torch.manual_seed(0)
    module = SequenceAttention().to(dtype)
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    x[..., -1] = x[..., 0]  # equally large now and then
    leaves = x.requires_grad_(), *module.parameters()
    y = module(x)
    expected = torch.autograd.grad((y * weight).sum(), leaves)
    found = attention_op.operator(x.detach(), module.packed().detach())
    grad_x, grad_weight = attention_op.gradients(weight, x.detach(), module.packed().detach())
    close = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, y.detach(), rtol=close, atol=close)
    torch.testing.assert_close(grad_x, expected[0], rtol=close, atol=close)
    torch.testing.assert_close(grad_weight, torch.cat([expected[1][0], expected[2]]), rtol=close, atol=close)
    assert bool(emulated.launched) == bool(x.numel())
