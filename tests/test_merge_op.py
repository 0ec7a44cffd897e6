"""Both scans of a T-Mamba in one operator, against the modules one after another and their loops in float64."""

import pytest
import torch
from test_models import SMALL, every_mim, patches, shaken, small

from models.options import MiMOptions
from models.t_mamba import TMamba
from selective_scan import available_backends, scan_and_merge

needs_cpu = pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ back end cannot be built here")
decays = pytest.mark.parametrize("decay", ["none", "index", "feature", "both"])
scans = pytest.mark.parametrize("scan", ["halves", "whole"])


def t_mamba(scan, decay, dtype=torch.float64, d_inner=40, **switches):
    """A T-Mamba with no parameter left at its start."""
    torch.manual_seed(0)
    options = MiMOptions(**SMALL | {"d_inner": d_inner}, scan=scan, decay=decay, **switches)
    return shaken(TMamba(5, 3, (1, 2, 3, 4), options)).to(dtype)


def both_ways(module, x):
    """Without gradients, where the operator is used, and with them, by the modules; the second in float64."""
    with torch.no_grad():
        found = module(x)
    return found, module.double()(x.double()).detach()


@needs_cpu
@scans
@decays
@pytest.mark.parametrize("d_inner", [1, 16, 40])
@pytest.mark.parametrize("tokens", ["learned", "pooled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_what_the_modules_give_one_after_another(scan, decay, d_inner, tokens, dtype):
    module = t_mamba(scan, decay, dtype, d_inner, tokens=tokens)
    x = torch.randn(3, 25, SMALL["dim"], generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    found, expected = both_ways(module, x)
    assert (found.double() - expected).norm() <= (1e-5 if dtype == torch.float32 else 1e-12) * expected.norm()


@needs_cpu
@scans
def test_equal_tokens_have_a_feature_factor_of_one(scan):
    module = t_mamba(scan, "both")
    for branch in (module.forward_branch, module.backward_branch):
        torch.nn.init.zeros_(branch.conv.weight)  # all tokens alike after it
        torch.nn.init.zeros_(branch.s6.x_proj.weight)  # and no state
    found, expected = both_ways(module, torch.randn(2, 25, SMALL["dim"], dtype=torch.float64))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def arguments(scan, rows, dtype, *, attends=True):
    """What a T-Mamba hands to the operator."""
    module, tokens = t_mamba(scan, "both", dtype), torch.randn(rows, 25, 40, dtype=dtype)
    orders = [order.view(4, -1) for order in (module.forward_order, module.backward_order)]
    branches, norm = (module.forward_branch, module.backward_branch), module.merge_norm
    with torch.no_grad():
        directions = [branch.before_scan(tokens, order) for branch, order in zip(branches, orders, strict=True)]
        attention = module.learner.attention.packed() if attends else None
        constants = (module.decay.index_weight, norm.weight.detach(), norm.bias.detach(), attention)
    directions = [[x.detach() for x in direction] for direction in directions]
    return *directions, *orders, *constants, module.decay.centre, True, scan == "halves", norm.eps


@needs_cpu
@scans
def test_the_number_of_threads_does_not_change_a_bit(scan):
    given, results, threads = arguments(scan, 70, torch.float32), [], torch.get_num_threads()
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            results.append(scan_and_merge(*given))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_cpu
@scans
@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_opcheck_passes(scan, attends, dtype):
    torch.library.opcheck(scan_and_merge, arguments(scan, 2, dtype, attends=attends))


@every_mim
def test_hooks_of_the_parts_are_called_and_change_nothing(name):
    model = shaken(small(name))
    with torch.no_grad():
        expected = model(patches(2))
        for part in ("decay", "merge_norm", "forward_branch.s6", "learner"):
            modules = [module for key, module in model.named_modules() if key.endswith(f".{part}")]
            called = []
            hooks = [module.register_forward_hook(lambda *x, called=called: called.append(x)) for module in modules]
            torch.testing.assert_close(model(patches(2)), expected, rtol=1e-6, atol=1e-6)
            for hook in hooks:
                hook.remove()
            assert len(called) >= len(modules)
