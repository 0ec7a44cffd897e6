"""How fast the selective scan is: `python -m benchmarks.bench_selective_scan`, each figure a ratio taken in one run.

Ours and the peers run in turn, several rounds, and medians are compared. Peers: the parallel scan of mambapy
(`pip install mambapy`), a plain loop over time, on a GPU mamba-ssm if it is installed; for scale, the time that
exponentials alone take (CPU) and a copy of the tensors (GPU).
"""

import argparse
import ctypes
import importlib.util
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F

from selective_scan import available_backends, selective_scan

CPU_SHAPES = [(256, 49, 128, 16), (256, 81, 64, 64)]  # batch, L, d, N
GPU_SHAPES = [*CPU_SHAPES, (4096, 49, 128, 16), (4096, 25, 64, 16), (1024, 441, 128, 16)]
LENGTHS = [64, 256, 1024, 4096]


def make_inputs(shape, device, *, grad=True):
    """u, delta, A, B, C, D, delta_bias as a Mamba layer has them at the start."""
    batch, length, d_inner, d_state = shape
    random = torch.Generator(device).manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=random, device=device)

    tensors = [
        normal(batch, length, d_inner),
        0.1 * normal(batch, length, d_inner),
        -torch.arange(1.0, d_state + 1, device=device).repeat(d_inner, 1),
        normal(batch, length, d_state),
        normal(batch, length, d_state),
        torch.ones(d_inner, device=device),
        torch.full((d_inner,), -3.0, device=device),
    ]
    return [x.requires_grad_(grad) for x in tensors]


def ours(backend):
    """Our scan by one back end."""

    def run(u, delta, A, B, C, D, delta_bias):
        return selective_scan(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True, backend=backend)

    return run


def _expanded(u, delta, A, B, delta_bias):
    """Decays and inputs of all states at all steps, (batch, L, d, N), as the peers want them."""
    delta = F.softplus(delta + delta_bias).unsqueeze(-1)
    return torch.exp(delta * A), delta * B.unsqueeze(2) * u.unsqueeze(-1)


def loop(u, delta, A, B, C, D, delta_bias):
    """A step after the other, gradients by autograd."""
    decay, step = _expanded(u, delta, A, B, delta_bias)
    h, states = torch.zeros_like(step[:, 0]), []
    for t in range(u.shape[1]):
        h = decay[:, t] * h + step[:, t]
        states.append(h)
    return (torch.stack(states, 1) @ C.unsqueeze(-1)).squeeze(-1) + D * u


def pscan(u, delta, A, B, C, D, delta_bias):
    """The parallel scan of mambapy."""
    from mambapy.pscan import pscan as scan

    return (scan(*_expanded(u, delta, A, B, delta_bias)) @ C.unsqueeze(-1)).squeeze(-1) + D * u


def mamba_ssm(u, delta, A, B, C, D, delta_bias):
    """The kernel of mamba-ssm, which wants the channels before the sequence."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore[reportMissingImports]

    u, delta, B, C = (x.transpose(1, 2).contiguous() for x in (u, delta, B, C))
    y = selective_scan_fn(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True)
    return y.transpose(1, 2)


def contestants(device):
    """Functions by name, ours first, and the names of the peers that are absent."""
    found = {name: ours(name) for name in available_backends() if name in (device, "reference")}
    absent = []
    for name, module, function in [("pscan", "mambapy", pscan), ("mamba-ssm", "mamba_ssm", mamba_ssm)]:
        if importlib.util.find_spec(module) is None or (name == "mamba-ssm" and device == "cpu"):  # it needs a GPU
            absent.append(
                f"{name} ({'runs on a GPU only' if name == 'mamba-ssm' and device == 'cpu' else 'not installed'})"
            )
        else:
            found[name] = function
    return found | {"loop": loop}, absent


def seconds(function, device):
    """How long a call takes, the device's queue included."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turn(functions, device, rounds):
    """Median milliseconds of each function; they take turns, after a round that does not count."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return {name: 1000 * statistics.median(taken) for name, taken in times.items()}


def forward_only(function, tensors):
    """A call that records nothing."""

    def call():
        with torch.no_grad():
            function(*tensors)

    return call


def forward_backward(function, tensors):
    """A call with the gradients of all inputs."""

    def call():
        y = function(*tensors)
        torch.autograd.grad(y, tensors, torch.ones_like(y))

    return call


def exponentials(shape, *, ours):
    """A call that takes as many exponentials as forward + backward do, 2 B L d N: our polynomial, or the compiler's."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++"))))
    flags = ["-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-fPIC"]
    flags += ["-DOURS"] if ours else ["-ffast-math"]  # not when linking, which would change the whole process
    source = str(Path(__file__).parent / "exponentials.cpp")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([compiler, *flags, "-c", source, "-o", f"{folder}/exp.o"], check=True)
        subprocess.run([compiler, "-shared", f"{folder}/exp.o", "-o", f"{folder}/exp.so", "-lmvec", "-lm"], check=True)
        run = ctypes.CDLL(f"{folder}/exp.so").exponentials
    threads, size = torch.get_num_threads(), 1024
    rounds = 2 * math.prod(shape) // size // threads

    def work(_):
        A, sums = (ctypes.c_float * size)(*(-(1.0 + i % 16) for i in range(size))), (ctypes.c_float * size)()
        run(A, sums, ctypes.c_int64(size), ctypes.c_int64(rounds))

    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(work, range(threads)))


def compare(shape, device, rounds):
    """Milliseconds at one shape, {name: (forward, forward + backward)}; for yardsticks the first is None."""
    tensors = make_inputs(shape, device)
    functions, _ = contestants(device)
    calls = {}
    for name, function in functions.items():
        calls[name, "forward"] = forward_only(function, tensors)
        calls[name, "both"] = forward_backward(function, tensors)
    if device == "cuda":
        target = torch.empty_like(tensors[0])
        calls["copy of u", "both"] = lambda: target.copy_(tensors[0].detach())
    elif shutil.which("c++") or shutil.which("g++"):
        calls["exp, vector library", "both"] = exponentials(shape, ours=False)
        calls["exp, our polynomial", "both"] = exponentials(shape, ours=True)
    times = in_turn(calls, device, rounds)
    return {name: (times.get((name, "forward")), both) for (name, kind), both in times.items() if kind == "both"}


def copy_share(shape, times):
    """Share of the copy bandwidth that our CUDA forward and forward + backward reach, counting what must be moved."""
    batch, length, d_inner, d_state = shape
    channels, states = batch * length * d_inner, 2 * batch * length * d_state
    bandwidth = 2 * channels / times["copy of u"][1]
    forward, both = times["cuda"]
    # forward: u, delta, B, C in, y out; backward: these and the gradient of y in, gradients of u, delta, B, C out.
    return (3 * channels + states) / forward / bandwidth, (8 * channels + 3 * states) / both / bandwidth


def extra_memory_in_own_process(shape):
    """`extra_memory`, in a process that has not freed memory before, which it would take again unseen."""
    code = f"from benchmarks.bench_selective_scan import extra_memory; print(extra_memory({shape}))"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def extra_memory(shape):
    """Peak memory of forward + backward on the CPU beyond inputs, y and one gradient of each, in sizes of u."""
    small = make_inputs((2, *shape[1:]), "cpu")
    forward_backward(ours("cpu"), small)()  # loads what is loaded once
    tensors = make_inputs(shape, "cpu")
    grad_y = torch.ones_like(tensors[0])
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    y = ours("cpu")(*tensors)
    grads = torch.autograd.grad(y, tensors, grad_y)
    outputs = sum(x.numel() for x in (y, *grads))
    return (_resident("VmHWM") - before - 4 * outputs) / (4 * tensors[0].numel())


def _resident(entry):
    """Bytes of resident memory, now (VmRSS) or at the peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(entry)).split()[1])


def print_table(title, rows, header):
    """Rows of texts under a header, in columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}")
    for first, *rest in (header, *rows):
        print("  ".join([f"  {first:{widths[0]}}", *map(str.rjust, rest, widths[1:])]))


def report_shape(shape, device, rounds):
    """Print one shape's table."""
    times = compare(shape, device, rounds)
    best = times[device] if device in times else times["reference"]
    rows = []
    for name, (forward, both) in times.items():
        cells = [f"{forward:.2f}", f"{forward / best[0]:.2f}x"] if forward else ["", ""]
        rows.append([name, *cells, f"{both:.2f}", f"{both / best[1]:.2f}x"])
    header = ["ms, medians, and as multiples of ours", "forward", "", "forward + backward", ""]
    print_table(f"(batch, L, d, N) = {shape}", rows, header)
    if "copy of u" in times and "cuda" in times:
        print(
            "  share of the copy bandwidth: forward {:.0%}, forward + backward {:.0%}".format(*copy_share(shape, times))
        )
    return times


def report_lengths(device, rounds):
    """Print the time per token of our back ends at growing lengths: flat if the work is linear in L."""
    table = {name: {} for name in available_backends() if name in (device, "reference")}
    for length in LENGTHS:
        tensors = make_inputs((4, length, 64, 16), device)
        times = in_turn({name: forward_backward(ours(name), tensors) for name in table}, device, rounds)
        for name, taken in times.items():
            table[name][length] = 1000 * taken / length
    rows = [[name, *(f"{taken:.2f}" for taken in row.values())] for name, row in table.items()]
    print_table("us per step of the sequence, forward + backward, (4, L, 64, 16)", rows, ["L", *map(str, LENGTHS)])
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of which medians are taken; on two cores one takes about 40 s"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {args.rounds}")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.parent}")
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"PyTorch {torch.__version__}, {args.device} ({name}), float32; back ends: {', '.join(available_backends())}")
    _, absent = contestants(args.device)
    print("absent peers:", ", ".join(absent) or "none")
    figures: dict[str, object] = {"lengths": report_lengths(args.device, args.rounds)}
    for shape in GPU_SHAPES if args.device == "cuda" else CPU_SHAPES:
        figures[str(shape)] = report_shape(shape, args.device, args.rounds)
    if args.device == "cpu" and "cpu" in available_backends() and Path("/proc/self/clear_refs").exists():
        for shape in CPU_SHAPES:
            large = (2048, *shape[1:])  # blocks of memory that the allocator does not keep when freed
            figures[f"extra memory {large}"] = extra = extra_memory_in_own_process(large)
            print(f"\npeak extra memory at {large}: {extra:.2f} times the size of u")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
