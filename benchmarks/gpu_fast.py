"""How fast a GPU is with this, in under four minutes: `python3 -m benchmarks.gpu_fast --output FOLDER`.

Scan, training step, mapping, a whole job and ten of them, each beside its floor: operations over the card's matrix
rate, or bytes over its copy bandwidth, both measured in the same call. Peers of the scan run in the same rounds. What
is short is captured in a CUDA graph, ours and the peers alike, so that the launches from Python do not count; a job
is timed as a user sees it. Scenes are noise unless --data holds Indian Pines.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import engine
import main as command_line
import mapping
from benchmarks.bench_selective_scan import make_inputs, ours, print_table, pscan
from models import MODELS, create_model
from patches import Augmentation, PatchLoader
from reporting.results import read_json
from selective_scan.driver import Module
from training.cuda_graph import GraphSteps
from utils import choose_device, count_flops, seed_everything

SHAPES = [(256, 49, 128, 16), (4096, 49, 128, 16), (4096, 25, 64, 16), (1024, 441, 128, 16)]  # batch, L, d, N
SIDE, BANDS, CLASSES, N_TRAIN, BATCH, PATCH = 145, 200, 16, 695, 64, 7  # of Indian Pines
ROUNDS = 7
DEVICE = torch.device("cuda", 0)


def in_turn(calls: dict, rounds: int = ROUNDS) -> dict:
    """Median milliseconds on the GPU of each call; they take turns after a round that does not count."""
    times = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if number:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(taken) for name, taken in times.items()}


def captured(call, repeats: int = 1):
    """The call as a replay of a CUDA graph that holds it several times."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    return graph.replay


def rates() -> dict:
    """The card's copy bandwidth, read and written, and float32 matrix rates: large, and thin as the networks have."""
    x = torch.randn(2**28, device=DEVICE)
    y = torch.empty_like(x)
    calls = {"copy": lambda: y.copy_(x)}
    a, b = torch.randn(8192, 8192, device=DEVICE), torch.randn(8192, 8192, device=DEVICE)
    calls["matrix"] = lambda: torch.mm(a, b)
    rows, weight = torch.randn(2**18, 128, device=DEVICE), torch.randn(128, 128, device=DEVICE)
    calls["thin"] = lambda: torch.mm(rows, weight)
    times = in_turn(calls)
    return {
        "copy_bytes_per_s": 8 * x.numel() / times["copy"] * 1e3,
        "matrix_flop_per_s": 2 * 8192**3 / times["matrix"] * 1e3,
        "thin_flop_per_s": 2 * len(rows) * 128 * 128 / times["thin"] * 1e3,
    }


class PlainScan:
    """The kernels of plain_scan.cu."""

    def __init__(self, folder: Path):
        image, source = folder / "plain.fatbin", Path(__file__).parent / "plain_scan.cu"
        arch = "sm_{}{}".format(*torch.cuda.get_device_capability(DEVICE))
        subprocess.run(["nvcc", "-O3", f"-arch={arch}", "--fatbin", "-o", image, source], check=True)
        self.module = Module(image, DEVICE)

    def forward(self, tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """y, and the states."""
        u, A = tensors[0], tensors[2]
        y, states = torch.empty_like(u), u.new_empty(*u.shape, A.shape[1])
        self._launch("plain_forward", u, A, [*tensors, states, y])
        return y, states

    def backward(self, grad_y, tensors, states) -> list[torch.Tensor]:
        """The gradients of the seven tensors."""
        u, A = tensors[0], tensors[2]
        grads = [torch.zeros_like(x) for x in tensors]
        later = u.new_zeros(u.shape[0], *A.shape)
        self._launch("plain_backward", u, A, [grad_y, *tensors, states, later, *grads])
        return grads

    def _launch(self, name, u, A, tensors) -> None:
        sizes = [ctypes.c_int(size) for size in (*u.shape, A.shape[1])]
        grid = -(-u.shape[0] * u.shape[2] // 128)
        self.module.launch(name, (grid, 1, 1), (128, 1, 1), [*(ctypes.c_void_p(x.data_ptr()) for x in tensors), *sizes])


def scan(found: dict) -> list[dict]:
    """Ours, the plain kernels and mambapy's parallel scan, forward and forward + backward."""
    rows, run = [], ours("cuda")
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainScan(Path(folder))
    for shape in SHAPES:
        tensors = make_inputs(shape, "cuda")
        fixed = [x.detach() for x in tensors]
        grad_y = torch.ones_like(fixed[0])
        calls = {
            "ours": (
                lambda fixed=fixed: run(*fixed),
                lambda tensors=tensors, grad_y=grad_y: torch.autograd.grad(run(*tensors), tensors, grad_y),
            ),
            "plain CUDA": (
                lambda fixed=fixed: plain.forward(fixed),
                lambda fixed=fixed, grad_y=grad_y: plain.backward(grad_y, fixed, plain.forward(fixed)[1]),
            ),
        }
        _check(run, plain, tensors, fixed, grad_y)
        if importlib.util.find_spec("mambapy") and shape[0] * shape[1] < 300_000:
            calls["pscan"] = (
                lambda fixed=fixed: pscan(*fixed),
                lambda tensors=tensors, grad_y=grad_y: torch.autograd.grad(pscan(*tensors), tensors, grad_y),
            )
        times = in_turn({(n, way): captured(c[way]) for n, c in calls.items() for way in (0, 1)})
        batch, length, d_inner, d_state = shape
        channels, states = 4 * batch * length * d_inner, 8 * batch * length * d_state  # bytes
        floors = [(3 * channels + states) / found["copy_bytes_per_s"] * 1e3]
        # Both: u, delta, B, C in and y out; then these and the gradient of y in, gradients of u, delta, B and C out.
        floors.append((8 * channels + 3 * states) / found["copy_bytes_per_s"] * 1e3)
        for name in calls:
            row = {"shape": str(shape), "kind": name}
            for way, label in ((0, "forward"), (1, "both")):
                row |= {f"{label}_ms": times[name, way], f"{label}_x": times[name, way] / times["ours", way]}
                row |= {f"{label}_floor_ms": floors[way]}
            rows.append(row)
        torch.cuda.empty_cache()
    return rows


def _check(run, plain, tensors, fixed, grad_y) -> None:
    """The peer computes the same."""
    y, states = plain.forward(fixed)
    pairs = [(run(*fixed), y)]
    expected = torch.autograd.grad(run(*tensors), tensors, grad_y)
    pairs += list(zip(expected, plain.backward(grad_y, fixed, states), strict=True))
    for one, two in pairs:
        assert (one - two).norm() <= 1e-3 * one.norm()


def make_subject(name: str):
    """A network, a loader of 11 batches and a scene of Indian Pines' shape."""
    seed_everything(0)
    model = create_model(name, n_bands=BANDS, n_classes=CLASSES, patch_size=PATCH).to(DEVICE)
    cube, pixels = torch.randn(SIDE, SIDE, BANDS, device=DEVICE), torch.ones(SIDE, SIDE).nonzero()
    chosen = torch.randperm(len(pixels))[: 11 * BATCH]
    sizes = {"patch_size": PATCH, "batch_size": BATCH, "generator": torch.Generator().manual_seed(0)}
    targets = torch.arange(len(chosen)) % CLASSES
    loader = PatchLoader(cube.permute(2, 0, 1), pixels[chosen], targets, **sizes, augment=Augmentation())
    return model, loader, cube, pixels


def networks(found: dict) -> list[dict]:
    """Training step, captured and not, and mapping of each network."""
    rows = []
    for name in MODELS:
        model, loader, cube, pixels = make_subject(name)
        config = engine.TrainConfig(5)
        row: dict[str, Any] = {"model": name}
        for kind, make in (
            ("graph", GraphSteps),
            ("one_by_one", lambda *a: GraphSteps(*a, capture=False)),
            ("eager", engine.Steps),
        ):
            steps = make(model, loader, config)
            list(steps.epoch(1))
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            taken = []
            for number in (2, 3, 4):
                started = time.perf_counter()
                list(steps.epoch(number))
                steps.epoch_record()  # waits for the GPU
                taken.append(1e3 * (time.perf_counter() - started) / len(loader))
            row[f"{kind}_step_ms"] = statistics.median(taken)
            row[f"{kind}_mib"] = torch.cuda.max_memory_allocated() / 2**20
        flops = count_flops(model, torch.zeros(1, BANDS, PATCH, PATCH, device=DEVICE))
        row["step_floor_ms"] = 3 * flops * BATCH / found["thin_flop_per_s"] * 1e3
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            mapping.predict(model, cube, pixels)
            row["mapped_px_per_s"] = len(pixels) / (time.perf_counter() - started)
        row["map_mib"] = torch.cuda.max_memory_allocated() / 2**20
        encoded = model.embed(torch.zeros(1, BANDS, PATCH, PATCH, device=DEVICE))
        row["px_per_s_ceiling"] = found["thin_flop_per_s"] / count_flops(_Encoder(model), encoded)
        rows.append(row)
        torch.cuda.empty_cache()
    return rows


def profile_step(name: str = "MiM-v1") -> list[dict]:
    """The kernels of a training step that take longest, and all together."""
    model, loader, *_ = make_subject(name)
    steps = GraphSteps(model, loader, engine.TrainConfig(5), capture=False)
    list(steps.epoch(1))
    steps.epoch_record()
    steps.batch_number.zero_()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        steps._take(BATCH)
        torch.cuda.synchronize()
    launches, microseconds = Counter(), Counter()
    for event in profiler.events() or ():
        if str(event.device_type).endswith("CUDA"):
            launches[event.name] += 1
            microseconds[event.name] += event.self_device_time_total
    rows = [{"kernel": name, "launches": sum(launches.values()), "us": sum(microseconds.values())}]
    rows += [{"kernel": name[:110], "launches": launches[name], "us": us} for name, us in microseconds.most_common(40)]
    return rows


class _Encoder(torch.nn.Module):
    """What mapping runs for each pixel, after the scene has been embedded once."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, embedded):
        return self.model.encode(embedded)


def write_scene(folder: Path) -> list[str]:
    """Noise of Indian Pines' shape with masks; gives the flags that train on it."""
    rng = np.random.default_rng(0)
    home = folder / "Noise"
    home.mkdir()
    gt = np.zeros(SIDE * SIDE, dtype=np.uint8)
    labelled = rng.permutation(SIDE * SIDE)[:10249]
    gt[labelled] = np.arange(len(labelled)) % CLASSES + 1
    train = np.zeros_like(gt)
    train[labelled[:N_TRAIN]] = gt[labelled[:N_TRAIN]]
    np.save(home / "cube.npy", rng.normal(1000, 100, (SIDE, SIDE, BANDS)).astype(np.float32))
    for name, mask in (("gt", gt), ("train", train), ("test", gt - train)):
        np.save(home / f"{name}.npy", mask.reshape(SIDE, SIDE))
    names = ", ".join(f'"class {k}"' for k in range(1, CLASSES + 1))
    (home / "scene.toml").write_text(f'cube = "cube.npy"\ngt = "gt.npy"\nclass_names = [{names}]\n')
    masks = ["--train_set", str(home / "train.npy"), "--test_set", str(home / "test.npy")]
    return ["--dataset", str(home), *masks]


def jobs(data: Path | None, epochs: int) -> list[dict]:
    """A whole job as a user types it, and ten of them in one command."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scene = ["--dataset", "IndianPines", "--folder", str(data)] if data else write_scene(Path(folder))
        common = [*scene, "--model", "MiM-v1", "--epoch", str(epochs), "--visdom", "off", "--cuda", "0"]
        for n in (1, 1, 10):  # the first also loads what is loaded once
            output = Path(folder) / f"runs{len(rows)}"
            started = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
                code = command_line.main([*common, "--runs", str(n), "--output", str(output)])
            if code:
                raise SystemExit(said.getvalue())
            metrics = [read_json(path) for path in sorted(output.glob("*/*/*/metrics.json"))]
            row = {"runs": n, "epochs": epochs, "seconds": time.perf_counter() - started}
            row |= {f"longest_{part}_s": max(m["seconds"][part] for m in metrics) for part in ("train", "predict")}
            row |= {"mean_OA": statistics.mean(m["overall_accuracy"] for m in metrics)}
            rows.append(row)
    return rows


def _text(x) -> str:
    return x if isinstance(x, str) else f"{x:,.0f}" if isinstance(x, int) or abs(x) >= 1000 else f"{x:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")
    parser.add_argument("--data", type=Path, help="folder of the scenes, for the jobs on Indian Pines")
    parser.add_argument("--epochs", type=int, default=150, help="of the jobs")
    parser.add_argument("--parts", nargs="+", default=["scan", "networks", "profile", "jobs"])
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("gpu_fast: PyTorch sees no GPU here; run it on a machine with one\n")
        return 2
    choose_device(0)  # float32 is not rounded to TF32
    card = torch.cuda.get_device_name()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"gpu_fast_{re.sub('[^A-Za-z0-9]+', '_', card).strip('_')}.json"
    figures = {"card": card, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "rates": rates()}
    print(f"{card}, PyTorch {torch.__version__}")
    print("  ".join(f"{name} {value:.3g}" for name, value in figures["rates"].items()))
    parts = {
        "scan": lambda: scan(figures["rates"]),
        "networks": lambda: networks(figures["rates"]),
        "profile": profile_step,
        "jobs": lambda: jobs(args.data, args.epochs),
    }
    for part in args.parts:
        started = time.perf_counter()
        figures[part] = rows = parts[part]()
        header = list(dict.fromkeys(key for row in rows for key in row))
        print_table(part, [[_text(row.get(key, "")) for key in header] for row in rows], header)
        print(f"  [{time.perf_counter() - started:.0f} s]", flush=True)
        path.write_text(json.dumps(figures, indent=1))
    print(f"{path} holds the figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
