"""The selective scan against its sum written out, its gradients, and the promises of its interface."""

import inspect
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import selective_scan as package
from selective_scan import BACKENDS, available_backends, reference

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def selective_scan(*tensors, backend="auto", **options):
    """The scan of tensors on the CPU by any back end: on the GPU, and back, where it needs that."""

    def move(x):
        return x.to("cuda") if backend == "cuda" and isinstance(x, torch.Tensor) else x

    moved = {name: move(x) for name, x in options.items()}
    return package.selective_scan(*map(move, tensors), backend=backend, **moved).cpu()


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Every back end in turn, those left out that this machine cannot run."""
    if request.param not in available_backends():
        pytest.skip(f"the back end {request.param} cannot be used on this machine")
    return request.param


def make_inputs(batch=2, length=5, d_inner=3, d_state=4, *, seed=0, dtype=torch.float64) -> dict[str, Any]:
    """Inputs by name; delta is positive, as a scan without softplus needs it."""
    random = torch.Generator().manual_seed(seed)
    inputs: dict[str, Any] = {
        "u": torch.randn(batch, length, d_inner, generator=random, dtype=torch.float64),
        "delta": torch.rand(batch, length, d_inner, generator=random, dtype=torch.float64) + 0.05,
        "A": -torch.rand(d_inner, d_state, generator=random, dtype=torch.float64) * 2 - 0.1,
        "B": torch.randn(batch, length, d_state, generator=random, dtype=torch.float64),
        "C": torch.randn(batch, length, d_state, generator=random, dtype=torch.float64),
        "D": torch.randn(d_inner, generator=random, dtype=torch.float64),
        "delta_bias": torch.randn(d_inner, generator=random, dtype=torch.float64) * 0.5,
    }
    return {name: tensor.to(dtype) for name, tensor in inputs.items()}


def unrolled_sum(u, delta, A, B, C, D=None, delta_bias=None, *, delta_softplus=False):
    """y_t = sum over s <= t of C_t exp(sum over s < r <= t of delta_r A) delta_s B_s u_s, plus D u_t; in float64."""
    u, delta, A, B, C = (x.double() for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.double()
    if delta_softplus:
        delta = torch.logaddexp(delta, torch.zeros_like(delta))
    elapsed = delta.cumsum(1)
    between = elapsed.unsqueeze(2) - elapsed.unsqueeze(1)  # (batch, t, s, d_inner)
    past = torch.ones(u.shape[1], u.shape[1], dtype=torch.bool, device=u.device).tril()[None, :, :, None, None]
    exponent = (between.unsqueeze(-1) * A).where(past, -torch.inf)  # (batch, t, s, d_inner, N)
    y = torch.einsum("btn, btsdn, bsd, bsn, bsd -> btd", C, exponent.exp(), delta, B, u)
    return y if D is None else y + D.double() * u


def gradients(function, inputs, weight):
    """The function's value, and its gradients by all inputs under fixed weights of the outputs."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}
    y = function(**leaves)
    return y.detach(), dict(zip(leaves, torch.autograd.grad((y * weight).sum(), [*leaves.values()]), strict=True))


def assert_same_gradients(found, expected, *, rtol, atol):
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name].double(), rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize(
    ("batch", "length", "d_inner", "d_state"),
    [
        (2, 5, 3, 4),
        (1, 1, 1, 1),
        (1, 7, 4, 2),
        (3, 1, 2, 3),
        (2, 13, 5, 7),
        (1, 25, 16, 16),
        (5, 9, 33, 3),
        (2, 49, 6, 1),
    ],
)
@pytest.mark.parametrize("delta_softplus", [False, True])
def test_the_scan_is_the_unrolled_sum_and_so_are_its_gradients(
    backend, batch, length, d_inner, d_state, delta_softplus
):
    inputs = make_inputs(batch, length, d_inner, d_state)
    weight = torch.randn(batch, length, d_inner, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = gradients(lambda **x: unrolled_sum(**x, delta_softplus=delta_softplus), inputs, weight)
    y, slopes = gradients(
        lambda **x: selective_scan(**x, delta_softplus=delta_softplus, backend=backend), inputs, weight
    )
    torch.testing.assert_close(y, expected[0], rtol=1e-11, atol=1e-11)
    assert_same_gradients(slopes, expected[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("with_skip", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("delta_softplus", [False, True])
def test_every_input_passes_the_gradient_check(backend, with_skip, with_bias, delta_softplus):
    inputs = make_inputs(2, 4, 2, 3, seed=2)
    left_out = {name for name, used in (("D", with_skip), ("delta_bias", with_bias)) if not used}
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items() if name not in left_out}

    def scan(*tensors):
        named = dict(zip(inputs, tensors, strict=True))
        return selective_scan(**named, delta_softplus=delta_softplus, backend=backend)

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()), atol=1e-7, rtol=1e-5)


def test_a_single_step_is_the_product_by_hand(backend):
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    y = selective_scan(3 * one, 0.5 * one, -one[0], 7 * one, 11 * one, 2 * one[0, 0], backend=backend)
    assert y.item() == 11 * 0.5 * 7 * 3 + 2 * 3  # A has no say yet


@pytest.mark.parametrize("batch", [1, 3])
def test_non_contiguous_inputs_give_the_same_as_contiguous_ones(backend, batch):
    inputs = make_inputs(batch, 6, 4, 3, seed=3)
    weight = torch.randn(batch, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    packed = torch.cat([inputs["delta"], inputs["B"], inputs["C"]], dim=-1)  # as a projection makes them

    def scan_views(u, packed, A):
        delta, B, C = packed.split([4, 3, 3], dim=-1)
        return selective_scan(u.permute(1, 2, 0).permute(2, 0, 1), delta, A.T, B, C, backend=backend)

    strided = {
        "u": inputs["u"].permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "packed": packed.transpose(0, 1).contiguous().transpose(0, 1),
        "A": inputs["A"].T.contiguous(),
    }
    y, slopes = gradients(scan_views, strided, weight)
    plain = {name: inputs[name] for name in ("u", "delta", "A", "B", "C")}
    expected_y, expected = gradients(unrolled_sum, plain, weight)
    torch.testing.assert_close(y, expected_y)
    joined = {"u": expected["u"], "A": expected["A"].T}
    joined["packed"] = torch.cat([expected["delta"], expected["B"], expected["C"]], dim=-1)
    assert_same_gradients(slopes, joined, rtol=1e-10, atol=1e-10)


def test_an_expanded_step_size_and_an_expanded_upstream_gradient_are_taken(backend):
    inputs = make_inputs(3, 5, 4, 2, seed=5)
    step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    selective_scan(**inputs | {"delta": step.expand(3, 5, 4)}, backend=backend).sum().backward()
    again = step.detach().clone().requires_grad_()
    unrolled_sum(**inputs | dict[str, Any](delta=again.expand(3, 5, 4))).sum().backward()
    torch.testing.assert_close(step.grad, again.grad)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("left_out", [(), ("D", "delta_bias")])
def test_the_inputs_and_the_upstream_gradient_are_left_as_they_were(backend, batch, left_out):
    inputs = {n: x.requires_grad_() for n, x in make_inputs(batch, 4, 3, 2, seed=6).items() if n not in left_out}
    before = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    y = selective_scan(**inputs, delta_softplus=not left_out, backend=backend)
    upstream = torch.ones_like(y)
    y.backward(upstream)
    assert all(torch.equal(inputs[name], before[name]) for name in before)
    assert torch.equal(upstream, torch.ones_like(y))


def test_rows_of_the_batch_do_not_see_each_other(backend):
    inputs = make_inputs(5, 7, 3, 4, seed=15)
    y = selective_scan(**inputs, backend=backend)
    for i in range(5):
        alone = {name: x[i : i + 1] if x.ndim == 3 else x for name, x in inputs.items()}
        torch.testing.assert_close(selective_scan(**alone, backend=backend)[0], y[i], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)]
)
def test_the_result_has_the_inputs_dtype_and_only_its_last_rounding(backend, dtype, rounding):
    inputs = make_inputs(2, 49, 8, 16, seed=7, dtype=dtype)
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    y = selective_scan(**leaves, delta_softplus=True, backend=backend)
    expected = unrolled_sum(**inputs, delta_softplus=True)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=1e-5)
    slopes = dict(zip(leaves, torch.autograd.grad(y.sum(), [*leaves.values()]), strict=True))
    _, expected = gradients(lambda **x: unrolled_sum(**x, delta_softplus=True), inputs, 1)
    assert {slope.dtype for slope in slopes.values()} == {dtype}
    for name, slope in slopes.items():
        largest = expected[name].abs().max().item()
        torch.testing.assert_close(slope.double(), expected[name].double(), rtol=rounding, atol=rounding * largest)


def test_an_input_of_less_than_float32_may_come_with_float32_parameters(backend):
    inputs = make_inputs(2, 9, 4, 3, seed=8, dtype=torch.float32)
    inputs["u"] = inputs["u"].bfloat16()
    y = selective_scan(**inputs, backend=backend)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), unrolled_sum(**inputs), rtol=2**-8, atol=1e-5)


def test_autocast_does_not_lower_the_precision_of_the_scan(backend):
    inputs = make_inputs(2, 9, 4, 3, seed=9, dtype=torch.float32)
    device = "cuda" if backend == "cuda" else "cpu"
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = selective_scan(**inputs, backend=backend)
    assert torch.equal(inside, selective_scan(**inputs, backend=backend))


@pytest.mark.parametrize("step", [1e-8, 50.0])
def test_extreme_step_sizes_stay_exact_and_finite(backend, step):
    inputs = make_inputs(2, 11, 3, 4, seed=10)
    inputs["delta"] = torch.full_like(inputs["delta"], step)
    inputs.pop("delta_bias")
    weight = torch.ones_like(inputs["u"])
    expected_y, expected = gradients(unrolled_sum, inputs, weight)
    y, slopes = gradients(lambda **x: selective_scan(**x, backend=backend), inputs, weight)
    torch.testing.assert_close(y, expected_y, rtol=1e-11, atol=1e-11)
    assert_same_gradients(slopes, expected, rtol=1e-10, atol=1e-10)
    single, slopes = gradients(
        lambda **x: selective_scan(**x, backend=backend), {n: x.float() for n, x in inputs.items()}, weight.float()
    )
    torch.testing.assert_close(single.double(), expected_y, rtol=1e-4, atol=1e-4)
    assert all(slope.isfinite().all() for slope in slopes.values())


@pytest.mark.parametrize("raw", [-100.0, -30.0, 0.0, 19.9, 20.1, 100.0])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_softplus_is_right_far_from_zero(backend, raw, dtype, close):
    inputs = make_inputs(2, 3, 3, 4, seed=16, dtype=dtype)
    inputs["delta"] = torch.full_like(inputs["delta"], raw)
    weight = torch.ones_like(inputs["u"])
    expected_y, expected = gradients(lambda **x: unrolled_sum(**x, delta_softplus=True), inputs, weight)
    y, slopes = gradients(lambda **x: selective_scan(**x, delta_softplus=True, backend=backend), inputs, weight)
    torch.testing.assert_close(y.double(), expected_y, rtol=close, atol=close)
    assert_same_gradients(slopes, expected, rtol=close, atol=close)


def test_a_number_that_is_none_shows_from_its_token_on(backend):
    inputs = make_inputs(2, 6, 3, 4, seed=17, dtype=torch.float32)
    for bad in (float("nan"), float("inf")):
        for name in ("u", "delta", "B"):
            changed = inputs[name].clone()
            changed[1, 3] = bad
            finite = selective_scan(**inputs | {name: changed}, backend=backend).isfinite()
            assert finite[0].all()
            assert finite[1, :3].all()
            assert not finite[1, 3].any()


def test_a_large_step_forgets_all_tokens_before(backend):
    inputs = make_inputs(1, 6, 2, 3, seed=11)
    inputs["delta"][:, 4] = 1e4
    changed = inputs["u"].clone()
    changed[:, :4] += 1
    y = selective_scan(**inputs, backend=backend)
    y_changed = selective_scan(**inputs | {"u": changed}, backend=backend)
    assert torch.equal(y[:, 4:], y_changed[:, 4:])
    assert not torch.equal(y[:, :4], y_changed[:, :4])


@pytest.mark.parametrize("exponent", [130.0, 300.0, 1000.0])
def test_a_state_that_grows_without_bound_does_not_come_back_as_a_tame_number(backend, exponent):
    inputs = make_inputs(2, 6, 17, 3, seed=18, dtype=torch.float32)
    inputs["A"] = torch.full_like(inputs["A"], -1.0)
    inputs["delta"][:, 3] = -exponent  # not a size that a step should have; exp(delta A) is above all float32 numbers
    y = selective_scan(**inputs, backend=backend)[:, 3]
    assert not (y.abs() < 1e30).any()


def test_a_token_changes_no_output_before_it(backend):
    inputs = make_inputs(2, 8, 3, 4, seed=12)
    y = selective_scan(**inputs, backend=backend)
    for name in ("u", "delta", "B", "C"):
        changed = inputs[name].clone()
        changed[:, 5] += 0.5
        y_changed = selective_scan(**inputs | {name: changed}, backend=backend)
        assert torch.equal(y[:, :5], y_changed[:, :5])
        assert not torch.equal(y[:, 5], y_changed[:, 5])


def test_an_empty_batch_gives_an_empty_result(backend):
    leaves = {name: tensor.requires_grad_() for name, tensor in make_inputs(0, 3, 2, 2).items()}
    y = selective_scan(**leaves, backend=backend)
    y.sum().backward()
    assert y.shape == (0, 3, 2)
    assert leaves["A"].grad.abs().sum() == 0


@pytest.mark.parametrize("limit", [1, 2 * 5 * 3 * 4, 3 * 5 * 3 * 4 + 1])
def test_the_result_does_not_depend_on_how_the_batch_is_sliced(monkeypatch, limit):
    inputs = make_inputs(7, 5, 3, 4, seed=13)
    weight = torch.randn(7, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(14))

    def scan(**x):
        return selective_scan(**x, delta_softplus=True, backend="reference")

    whole_y, whole = gradients(scan, inputs, weight)
    monkeypatch.setitem(reference.SLICE_NUMEL, "cpu", limit)
    y, slopes = gradients(scan, inputs, weight)
    torch.testing.assert_close(y, whole_y, rtol=1e-13, atol=1e-13)
    assert_same_gradients(slopes, whole, rtol=1e-12, atol=1e-12)


class Work(TorchDispatchMode):
    """Counts operations, the numbers they write (views left out), and the largest tensor of all."""

    def __init__(self):
        super().__init__()
        self.operations = self.written = self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
                self.written += 0 if function.is_view else tensor.numel()
        return result


def work_of(**sizes):
    *tensors, D, delta_bias = make_inputs(**sizes).values()
    with Work() as work:
        options = {"D": D, "delta_bias": delta_bias, "delta_softplus": True}
        reference.forward(*tensors, **options)
        reference.backward(torch.ones_like(tensors[0]), *tensors, **options)
    return work


def test_work_grows_linearly_with_the_length_forward_and_backward():
    short, long = (work_of(batch=2, length=length, d_inner=4, d_state=8) for length in (64, 128))
    assert long.operations < 2.1 * short.operations
    assert long.written < 2.1 * short.written


def test_no_tensor_is_larger_than_a_slice_however_large_the_batch(monkeypatch):
    limit = 3 * 16 * 8 * 8  # the states of three rows: L, d_inner, N
    monkeypatch.setitem(reference.SLICE_NUMEL, "cpu", limit)
    assert work_of(batch=20, length=16, d_inner=8, d_state=8).largest == limit


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("u", (5, 3)),
        ("u", (2, 5, 4)),
        ("delta", (2, 5, 1)),
        ("delta", (2, 6, 3)),
        ("A", (4, 4)),
        ("A", (3,)),
        ("B", (2, 5, 3)),
        ("B", (1, 5, 4)),
        ("C", (2, 4, 4)),
        ("C", (2, 5, 4, 1)),
        ("D", (1,)),
        ("D", (3, 1)),
        ("delta_bias", (4,)),
        ("delta_bias", ()),
    ],
)
def test_a_shape_that_does_not_fit_is_an_error_that_names_it(name, shape):
    inputs = make_inputs(2, 5, 3, 4)
    inputs[name] = torch.ones(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match="must be") as caught:
        selective_scan(**inputs)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("sizes", [{"length": 0}, {"d_inner": 0}, {"d_state": 0}])
def test_a_scan_of_nothing_is_an_error(sizes):
    with pytest.raises(ValueError, match="must be at least 1"):
        selective_scan(**make_inputs(**sizes))


def test_an_unknown_back_end_is_answered_with_the_choices():
    with pytest.raises(ValueError, match="'gpu'; choose from auto") as caught:
        selective_scan(**make_inputs(), backend="gpu")
    assert all(name in str(caught.value) for name in available_backends())


def test_the_reference_is_always_there_and_without_a_name_the_best_back_end_runs():
    assert "reference" in available_backends()
    assert "auto" not in available_backends()
    inputs = make_inputs()
    best = next(name for name in available_backends() if name != "cuda")  # the tensors are on the CPU
    assert torch.equal(selective_scan(**inputs), selective_scan(**inputs, backend=best))
    assert tuple(inspect.signature(package.selective_scan).parameters) == (*NAMES, "delta_softplus", "backend")
