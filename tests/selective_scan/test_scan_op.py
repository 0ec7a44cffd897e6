"""The scan as an operator of PyTorch: what torch.library promises, and random shapes and layouts against float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from selective_scan import BACKENDS, available_backends, selective_scan
from selective_scan.scan_op import scan, scan_backward

DTYPES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Every back end in turn, those left out that this machine cannot run."""
    if request.param not in available_backends():
        pytest.skip(f"the back end {request.param} cannot be used on this machine")
    return request.param


def device_of(backend):
    return "cuda" if backend == "cuda" else "cpu"


def draw(
    batch, length, d_inner, d_state, *, dtype=torch.float64, device="cpu", seed=0, scale=1.0, skip=True, bias=True
) -> list[Any]:
    """u, delta, A, B, C, D and delta_bias, each needing a gradient; None where left out."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    tensors = [
        normal(batch, length, d_inner),
        scale * torch.rand(batch, length, d_inner, generator=random, dtype=torch.float64) + 1e-8,
        -torch.rand(d_inner, d_state, generator=random, dtype=torch.float64) * d_state - 0.1,
        normal(batch, length, d_state),
        normal(batch, length, d_state),
        normal(d_inner) if skip else None,
        0.1 * normal(d_inner).abs() if bias else None,
    ]
    return [x if x is None else x.to(device, dtype).requires_grad_() for x in tensors]


def loop(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """The recurrence as it is written, a step at a time, in float64 with PyTorch's own gradients."""
    doubles: list[Any] = [x if x is None else x.double() for x in (u, delta, A, B, C, D, delta_bias)]
    u, delta, A, B, C, D, delta_bias = doubles
    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = torch.logaddexp(delta, torch.zeros_like(delta))
    h = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    y = []
    for step, x, b, c in zip(delta.unbind(1), u.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h = torch.exp(step.unsqueeze(-1) * A) * h + (step * x).unsqueeze(-1) * b.unsqueeze(1)
        y.append((h * c.unsqueeze(1)).sum(-1))
    y = torch.stack(y, 1)
    return y if D is None else y + D * u


def value_and_gradients(function, tensors):
    """y, and the gradients of a fixed weighting of y by all tensors that are there."""
    leaves = [x for x in tensors if x is not None]
    y = function(*tensors)
    weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view(y.shape)
    weight = weight.to(leaves[0].dtype).double()  # else its rounding would be taken for an error of the gradients
    return [y.detach().double(), *(x.double() for x in torch.autograd.grad((y.double() * weight).sum(), leaves))]


def assert_close(found, expected, rounding):
    """Each tensor within the rounding of its norm and a tenth of the largest: parameters' gradients may cancel out."""
    largest = max(exact.norm() for exact in expected)
    for i, (x, exact) in enumerate(zip(found, expected, strict=True)):
        assert (x - exact).norm() <= rounding * (exact.norm() + 0.1 * largest), f"tensor {i}"


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_passes_with_gradients(backend, dtype, optional):
    tensors = draw(2, 5, 3, 4, dtype=dtype, device=device_of(backend), skip=optional, bias=optional)
    torch.library.opcheck(scan, (*tensors, optional, backend))


@pytest.mark.parametrize("optional", [True, False])
def test_opcheck_passes_for_the_gradients_alone(backend, optional):
    tensors = draw(2, 5, 3, 4, device=device_of(backend), skip=optional, bias=optional)
    tensors: list[Any] = [x if x is None else x.detach() for x in tensors]
    torch.library.opcheck(scan_backward, (torch.ones_like(tensors[0]), *tensors, optional, backend))


def test_forward_mode_derivatives_are_refused_not_wrong(backend):
    u, *rest = draw(1, 3, 2, 2, device=device_of(backend), skip=False, bias=False)[:5]

    def function(u):
        return selective_scan(u, *rest, backend=backend)

    with pytest.raises(NotImplementedError, match="reverse mode only"):
        torch.func.jvp(function, (u,), (torch.ones_like(u),))
    with pytest.raises(NotImplementedError, match="reverse mode only"):
        torch.func.jacfwd(function)(u.detach())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("A", lambda x: x + 1j, "A must be a floating-point tensor, not torch.complex128"),
        ("u", lambda x: x.long(), "u must be a floating-point tensor, not torch.int64"),
        ("B", lambda x: x.detach().numpy(), "B must be a floating-point tensor, not ndarray"),
        ("D", lambda _: 1.0, "D must be a floating-point tensor, not float"),
        ("delta", lambda _: None, "delta must be a floating-point tensor, not NoneType"),
        ("C", lambda x: x.to("meta"), "C is on meta, but u on cpu"),
    ],
)
def test_what_is_no_real_tensor_on_the_same_device_is_refused(name, change, message):
    names = ("u", "delta", "A", "B", "C", "D", "delta_bias")
    tensors: dict[str, Any] = dict(zip(names, draw(1, 3, 2, 2), strict=True))
    with pytest.raises(ValueError, match=message):
        selective_scan(**tensors | {name: change(tensors[name])})


def test_without_gradients_asked_for_none_are_recorded(backend):
    tensors = draw(2, 5, 3, 4, device=device_of(backend))
    with torch.no_grad():
        assert not scan(*tensors, True, backend).requires_grad


def layout(x, kind):
    """The same numbers otherwise laid out in memory."""
    if x is None or kind == "contiguous":
        return x
    if kind == "reversed":
        return x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    wide = torch.empty(*x.shape[:-1], 2 * x.shape[-1] + 1, dtype=x.dtype, device=x.device).fill_(torch.nan)
    view = wide[..., 1::2]
    return view.copy_(x)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, top) for top in (4, 40, 40, 20))),
    dtype=st.sampled_from(list(DTYPES)),
    kinds=st.lists(st.sampled_from(["contiguous", "reversed", "strided"]), min_size=7, max_size=7),
    softplus=st.booleans(),
    skip=st.booleans(),
    bias=st.booleans(),
    scale=st.sampled_from([1e-8, 1e-2, 1.0, 50.0]),
    seed=st.integers(0, 2**16),
)
def test_any_shape_and_layout_gives_the_recurrence_and_its_gradients(
    sizes, dtype, kinds, softplus, skip, bias, scale, seed
):
    tensors = draw(*sizes, dtype=dtype, seed=seed, scale=scale, skip=skip, bias=bias)
    exact = value_and_gradients(lambda *x: loop(*x, delta_softplus=softplus), tensors)
    for name in available_backends():
        moved = [x if x is None else x.to(device_of(name)) for x in tensors]

        def run(*x, name=name):
            laid_out = [layout(t, kind) for t, kind in zip(x, kinds, strict=True)]
            return scan(*laid_out, delta_softplus=softplus, backend=name)

        assert_close([x.cpu() for x in value_and_gradients(run, moved)], exact, DTYPES[dtype])


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 50.0])
def test_a_long_sequence_stays_exact(backend, scale):
    tensors = draw(1, 4096, 5, 6, dtype=torch.float32, device=device_of(backend), scale=scale)
    exact = value_and_gradients(lambda *x: loop(*x, delta_softplus=False), tensors)
    assert_close(value_and_gradients(lambda *x: scan(*x, delta_softplus=False, backend=backend), tensors), exact, 2e-5)


def test_two_runs_give_the_same_bits(backend):
    tensors = draw(70, 20, 33, 5, dtype=torch.float32, device=device_of(backend))
    first, second = (value_and_gradients(lambda *x: scan(*x, True, backend), tensors) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_it_compiles_without_a_graph_break(compiler):
    if compiler == "inductor" and "cpu" not in available_backends():
        pytest.skip("PyTorch's own compiler needs a C++ compiler")
    tensors = draw(2, 5, 3, 4, dtype=torch.float32)

    def function(*x):
        return torch.tanh(selective_scan(*x[:5], D=x[5], delta_bias=x[6], delta_softplus=True)) * 2

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    found, expected = (value_and_gradients(f, tensors) for f in (compiled, function))
    assert_close(found, expected, 1e-6)


def test_under_autocast_the_recurrence_is_in_float32_or_better(backend):
    device = device_of(backend)
    tensors = draw(2, 9, 4, 3, dtype=torch.float32, device=device)
    low = [x.bfloat16() for x in tensors]
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(scan(*tensors, True, backend), scan(*tensors, True, backend))
        mixed = scan(*low, True, backend)
        double = scan(*(x.double() for x in tensors), True, backend)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, scan(*(x.float() for x in low), True, backend))
    assert double.dtype == torch.float64


def test_operations_are_counted_alike_for_every_back_end():
    tensors = draw(2, 5, 3, 4, dtype=torch.float32)
    for name in set(available_backends()) - {"cuda"}:
        with FlopCounterMode(display=False) as counter:
            y = scan(*tensors, True, name)
            forward = counter.get_total_flops()
            y.sum().backward()
        # Per state: delta A, exp, times h, delta u times B, plus, times C, plus; per channel: delta u, D u, plus.
        assert forward == 2 * 5 * 3 * (7 * 4 + 3)
        assert counter.get_total_flops() > 3 * forward
