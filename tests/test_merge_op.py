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


def both_ways(module, tokens):
    """By the operator, and by the modules; the second in float64."""
    with torch.no_grad():
        found = module.normed_scan(tokens)
        module = module.double()
        return found, module.merge_norm(module.scan(tokens.double()))


@needs_cpu
@scans
@decays
@pytest.mark.parametrize("d_inner", [1, 16, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_what_the_modules_give_one_after_another(scan, decay, d_inner, dtype):
    module = t_mamba(scan, decay, dtype, d_inner)
    tokens = torch.randn(3, 25, d_inner, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    found, expected = both_ways(module, tokens)
    assert (found.double() - expected).norm() <= (1e-5 if dtype == torch.float32 else 1e-12) * expected.norm()


@needs_cpu
@scans
def test_equal_tokens_have_a_feature_factor_of_one(scan):
    module = t_mamba(scan, "both")
    for branch in (module.forward_branch, module.backward_branch):
        torch.nn.init.zeros_(branch.conv.weight)  # all tokens alike after it
        torch.nn.init.zeros_(branch.s6.x_proj.weight)  # and no state
    found, expected = both_ways(module, torch.randn(2, 25, 40, dtype=torch.float64))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@needs_cpu
@scans
def test_the_number_of_threads_does_not_change_a_bit(scan):
    module, tokens = t_mamba(scan, "both", torch.float32), torch.randn(70, 25, 40)
    results, threads = [], torch.get_num_threads()
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            with torch.no_grad():
                results.append(module.normed_scan(tokens))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


@needs_cpu
@scans
def test_opcheck_passes(scan):
    module = t_mamba(scan, "both")
    tokens, halves = torch.randn(2, 25, 40, dtype=torch.float64), scan == "halves"
    with torch.no_grad():
        directions = [
            module.forward_branch.before_scan(tokens, module.forward_order.view(4, -1)),
            module.backward_branch.before_scan(tokens, module.backward_order.view(4, -1)),
        ]
        norm = module.merge_norm
        constants = [x.detach() for x in (module.decay.index_weight, norm.weight, norm.bias)]
        torch.library.opcheck(scan_and_merge, (*directions, *constants, module.decay.centre, True, halves, norm.eps))


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
