"""A T-Mamba's scans in one operator, against the modules one after another and their loops in float64."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL, every_mim, patches, shaken, small
from torch.utils.flop_counter import FlopCounterMode

import models.t_mamba
from models.options import MiMOptions
from models.t_mamba import TMamba, as_modules
from selective_scan import available_backends
from selective_scan.cross_scan_op import SCHEMA, CrossScanArguments, backward, operator

needs_cpu = pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ back end cannot be built here")
decays = pytest.mark.parametrize("decay", ["none", "index", "feature", "both"])
scans = pytest.mark.parametrize("scan", ["halves", "whole"])


def t_mamba(scan="halves", decay="both", dtype=torch.float64, *, grids=(5, 3), types=(1, 2, 3, 4), **switches) -> Any:
    """A T-Mamba with no parameter left at its start, and nothing dropped."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {**SMALL, "d_inner": 40, "dropout": 0.0, **switches, "scan": scan, "decay": decay}
    options = MiMOptions(**settings)
    return shaken(TMamba(*grids, scan_types=types, options=options)).to(dtype)


def draw(module, rows=3, seed=1):
    """Tokens for a module, as it takes them."""
    parameter = module.in_proj.weight
    length = len(module.forward_order) // module.n_types
    random = torch.Generator().manual_seed(seed)
    length = 2 * length - 1 if module.halves else length
    return torch.randn(rows, length, parameter.shape[1], generator=random, dtype=torch.float64).to(parameter.dtype)


def value_and_gradients(module, x):
    """What comes out, and the gradients of x and all parameters, by name."""
    x = x.detach().requires_grad_()
    y = module(x)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view(y.shape)
    leaves = {"x": x} | dict(module.named_parameters())
    grads = torch.autograd.grad((y.double() * weight).sum(), list(leaves.values()))
    return {"y": y.detach()} | dict(zip(leaves, grads, strict=True))


def check(module, x, rounding):
    """That the operator gives what the modules give in float64, to rounding."""
    found = value_and_gradients(module, x)
    with as_modules(module):
        expected = value_and_gradients(module.double(), x.double())
    largest = max(float(value.norm()) for name, value in expected.items() if name != "y")
    for name, value in expected.items():
        size = value.norm() if name == "y" else value.norm() + 1e-3 * largest  # some are 0 but for rounding
        assert (found[name].double() - value).norm() <= rounding * size, name


@needs_cpu
@scans
@decays
@pytest.mark.parametrize("d_inner", [1, 16, 40])
@pytest.mark.parametrize("tokens", ["learned", "pooled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_the_modules(scan, decay, d_inner, tokens, dtype):
    module = t_mamba(scan, decay, dtype, d_inner=d_inner, tokens=tokens)
    check(module, draw(module), 1e-4 if dtype == torch.float32 else 1e-10)


@needs_cpu
@settings(max_examples=25, deadline=None)
@given(
    grids=st.sampled_from([(1, 1), (3, 3), (3, 1), (5, 1), (7, 5), (7, 7)]),
    sizes=st.tuples(*(st.integers(1, top) for top in (70, 20, 9))),
    scan=st.sampled_from(["halves", "whole"]),
    types=st.sampled_from([(2,), (1, 3), (4, 1, 2)]),
)
def test_any_sizes_do(grids, sizes, scan, types):
    rows, d_inner, d_state = sizes
    module = t_mamba(scan, grids=grids, types=types, d_inner=d_inner, d_state=d_state)
    check(module, draw(module, rows), 1e-9)


@needs_cpu
def test_in_evaluation_it_is_the_same_with_and_without_gradients():
    module = t_mamba(dtype=torch.float32).eval()
    x = draw(module)
    with torch.no_grad():
        found = module(x)
    assert torch.equal(found, module(x).detach())
    torch.testing.assert_close(found, module.train()(x).detach(), rtol=1e-5, atol=1e-5)


@needs_cpu
@scans
def test_equal_tokens_have_a_feature_factor_of_one(scan):
    module = t_mamba(scan)
    for branch in (module.forward_branch, module.backward_branch):
        torch.nn.init.zeros_(branch.conv.weight)  # all tokens alike after it
        torch.nn.init.zeros_(branch.s6.x_proj.weight)  # and no state
    check(module, draw(module), 1e-10)


@needs_cpu
def test_channels_that_are_equally_large_share_the_gradient_of_the_maximum():
    module = t_mamba()
    torch.nn.init.zeros_(module.merge_norm.weight)  # all tokens are the norm's bias
    module.merge_norm.bias.data = torch.tensor([1.0, 2.0, 2.0, 0.0]).repeat(10).double()
    check(module, draw(module), 1e-10)


def arguments(scan, rows, dtype, *, learned=True, keep=False, **sizes) -> Any:
    """What a T-Mamba hands to the operator, as the operator takes it; no tensor has a gradient yet."""
    module, seen = t_mamba(scan, dtype=dtype, tokens="learned" if learned else "pooled", **sizes), []
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        real = models.t_mamba.cross_scan
        patch.setattr(models.t_mamba, "cross_scan", lambda given: seen.append(given) or real(given))
        module(draw(module, rows))
    return *(x.detach() if isinstance(x, torch.Tensor) else x for x in seen[0].flat()), keep


def test_the_operators_arguments_are_named_in_order_and_packed_and_unpacked_alike():
    given = CrossScanArguments.unpack(range(100))
    assert given.flat() == tuple(range(26))
    assert given.behind.conv_weight == 8
    assert given.attention == 17
    assert [name.split()[1] for name in SCHEMA.split(", ")][5:9] == [
        "ahead_dt_bias",
        "ahead_A",
        "ahead_D",
        "behind_conv_weight",
    ]


@needs_cpu
@scans
@pytest.mark.parametrize("rows", [1, 65, 130])
def test_the_number_of_threads_does_not_change_a_bit(scan, rows):
    given, results, threads = arguments(scan, rows, torch.float32, keep=True), [], torch.get_num_threads()
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            y, kept = operator(*given)
            results.append([y, kept, *backward(torch.ones_like(y), kept, *given[:-1])])
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(x, other) for x, other in zip(results[0], others, strict=True))


@needs_cpu
@scans
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck_passes(scan, learned, dtype):
    given = arguments(scan, 2, dtype, learned=learned, keep=True)
    torch.library.opcheck(operator, given)
    torch.library.opcheck(operator, (*given[:-1], False))
    with_gradient = range(16)  # tokens, the directions' parameters, and the norm's weight
    leaves = tuple(x.clone().requires_grad_() if i in with_gradient else x for i, x in enumerate(given))
    torch.library.opcheck(operator, leaves)
    y, kept = operator(*given)
    torch.library.opcheck(backward, (torch.ones_like(y), kept, *given[:-1]))


@needs_cpu
def test_under_autocast_it_is_in_float32():
    module = t_mamba(dtype=torch.float32)
    x, seen = draw(module), []
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.MonkeyPatch.context() as patch:
        real = models.t_mamba.cross_scan
        patch.setattr(models.t_mamba, "cross_scan", lambda given: seen.append(real(given)) or seen[-1])
        y = module(x)
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(y.float(), module(x), rtol=0.1, atol=0.1)


@needs_cpu
@pytest.mark.parametrize("tokens", ["learned", "pooled"])
def test_its_operations_are_counted_as_the_modules_are(tokens):
    module = t_mamba(dtype=torch.float32, tokens=tokens, d_state=16)
    counts = []
    for way in (nullcontext(), as_modules(module)):
        with way, FlopCounterMode(display=False) as counter:
            module(draw(module)).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == pytest.approx(counts[1], rel=0.1)  # some products are done again or in another order


@every_mim
def test_as_modules_calls_every_part_changes_nothing_and_ends(name):
    model = shaken(small(name))
    with torch.no_grad():
        expected = model(patches(2))
        for part in ("decay", "merge_norm", "forward_branch.s6", "learner"):
            modules = [module for key, module in model.named_modules() if key.endswith(f".{part}")]
            called = []
            hooks = [module.register_forward_hook(lambda *x, called=called: called.append(x)) for module in modules]
            with as_modules(model):
                torch.testing.assert_close(model(patches(2)), expected, rtol=1e-6, atol=1e-6)
            assert len(called) >= len(modules)
            called.clear()
            assert torch.equal(model(patches(2)), expected)
            if "cpu" in available_backends():
                assert not called  # one operator again
            for hook in hooks:
                hook.remove()
