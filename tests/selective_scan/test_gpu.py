"""What only a GPU can show: the compiled kernels on it, and the main job. Everything here skips without one."""

import functools

import numpy as np
import pytest
import torch
from test_cross_scan_op import check, t_mamba, value_and_gradients
from test_cross_scan_op import draw as draw_tokens

import main
from models import MODELS, create_model
from reporting.results import read_json
from selective_scan import available_backends, cuda, selective_scan
from selective_scan.compile_cuda import compile_with_nvcc, compile_with_nvrtc
from selective_scan.driver import Module

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use")


def draw(batch=64, length=49, d_inner=128, d_state=16, dtype=torch.float32):
    """u, delta, A, B, C, D, delta_bias on the GPU, each needing a gradient."""
    random = torch.Generator("cuda").manual_seed(0)
    normal = functools.partial(torch.randn, generator=random, device="cuda", dtype=dtype)
    tensors = [normal(batch, length, d_inner), normal(batch, length, d_inner), -normal(d_inner, d_state).abs()]
    tensors += [normal(batch, length, d_state), normal(batch, length, d_state), normal(d_inner), normal(d_inner)]
    return [x.requires_grad_() for x in tensors]


def scan(tensors, backend="cuda"):
    """y of the tensors."""
    *inputs, delta_bias = tensors
    return selective_scan(*inputs, delta_bias=delta_bias, delta_softplus=True, backend=backend)


def scan_and_gradients(tensors, backend="cuda"):
    """y, and the gradients of its sum."""
    y = scan(tensors, backend)
    return [y.detach(), *torch.autograd.grad(y.sum(), tensors)]


def test_the_compiled_back_end_is_there_and_the_best():
    assert cuda.fault() is None
    assert available_backends()[0] == "cuda"


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (300, 9, 33, 16), (4096, 25, 64, 16), (64, 441, 128, 16), (32, 81, 64, 64)]
)
def test_it_agrees_with_float64_and_repeats_to_the_bit(shape):
    tensors = draw(*shape)
    exact = scan_and_gradients([x.detach().double().requires_grad_() for x in tensors], "reference")
    first, second = scan_and_gradients(tensors), scan_and_gradients(tensors)
    for x, again, expected in zip(first, second, exact, strict=True):
        assert torch.equal(x, again)
        assert (x - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(
    "compile_for", [lambda arch: compile_with_nvcc([arch]), compile_with_nvrtc], ids=["nvcc", "nvrtc"]
)
def test_both_compilers_give_kernels_that_agree(monkeypatch, compile_for):
    tensors = draw()
    expected = scan_and_gradients(tensors)
    major, minor = torch.cuda.get_device_capability()
    module = Module(compile_for(f"{major}{minor}"), torch.device("cuda", torch.cuda.current_device()))
    monkeypatch.setattr(cuda, "module", lambda _: module)
    for x, y in zip(scan_and_gradients(tensors), expected, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("scan", ["halves", "whole"])
@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (3, {}),
        (64, {"grids": (7, 5), "d_inner": 64, "d_state": 16}),
        (1024, {"grids": (7, 5), "d_inner": 128, "d_state": 16, "tokens": "pooled"}),
        (2, {"grids": (21, 5), "d_inner": 64, "d_state": 16}),
        (5, {"grids": (5, 1), "d_inner": 256, "d_state": 64, "types": (1, 3)}),
    ],
)
def test_the_cross_scan_is_that_of_the_modules_and_repeats_to_the_bit(scan, rows, sizes):
    module = t_mamba(scan, dtype=torch.float32, **sizes).cuda()
    x = draw_tokens(module, rows).cuda()
    first, second = value_and_gradients(module, x), value_and_gradients(module, x)
    assert all(torch.equal(first[name], second[name]) for name in first)
    check(module, x, 1e-4 if rows < 1000 else 1e-3)  # sums over a million tokens in float32


def test_it_can_be_captured_in_a_graph():
    tensors = draw()
    with torch.no_grad():
        expected = scan(tensors)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = scan(tensors)
        y.zero_()
        graph.replay()
    assert torch.equal(y, expected)


def test_it_runs_on_the_current_stream():
    tensors = draw()
    expected = scan(tensors)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        y = scan([x * 1 for x in tensors])
    stream.synchronize()
    assert torch.equal(y, expected)


def test_memory_beyond_the_results_stays_near_the_inputs():
    tensors = draw(1024)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = scan_and_gradients(tensors)
    kept = sum(x.numel() * x.element_size() for x in results)
    extra = torch.cuda.max_memory_allocated() - before - kept
    assert extra <= 4 * tensors[0].numel() * tensors[0].element_size()


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("MiM")])
def test_a_model_gives_the_same_on_the_gpu_and_the_cpu(name):
    torch.manual_seed(0)
    model = create_model(name, n_bands=20, n_classes=5, patch_size=7).eval()
    patches = torch.randn(16, 20, 7, 7)
    with torch.no_grad():
        expected = model(patches)
        found = model.cuda()(patches.cuda()).cpu()
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_the_main_job_runs_on_it_and_repeats_to_the_bit(tiny_scene, tmp_path):
    command = ["--dataset", "Tiny", "--folder", str(tiny_scene.folder), "--model", "MiM-v1", "--patch_size", "3"]
    command += ["--dim", "16", "--d_inner", "16", "--epoch", "2", "--cuda", "0", "--visdom", "off"]
    maps, scores = [], []
    for turn in ("first", "second"):
        assert main.main([*command, "--output", str(tmp_path / turn)]) == 0
        (run,) = (tmp_path / turn / "MiM-v1" / "Tiny").iterdir()
        maps.append(np.load(run / "prediction.npy"))
        scores.append(read_json(run / "metrics.json")["overall_accuracy"])
    assert (maps[0] == maps[1]).all()
    assert scores[0] == scores[1]
