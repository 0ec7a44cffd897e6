"""What this machine can run: devices, scan back ends with a numerical self-check, packages, data."""

import importlib.metadata
import os
import platform
from pathlib import Path

import numpy as np
import requests
import torch

from reporting.live.client import Server
from scenes.catalogue import SCENES
from selective_scan import BACKENDS, choose, selective_scan

PACKAGES = {
    "numpy": "",
    "scipy": "reads .mat files",
    "h5py": "reads .mat files of version 7.3",
    "spectral": "reads ENVI files",
    "rasterio": "reads and writes GeoTIFF (an extra: pip install rasterio)",
    "matplotlib": "draws",
    "visdom": "shows a run live",
}
SIZES = (3, 12, 40, 5)  # batch, L, d_inner, N of the self-check
TOLERANCE = 1e-5


def examine(folder: Path, visdom_url: str) -> tuple[list[str], bool]:
    """Examine devices, scan back ends, packages and data.

    Args:
        folder: the data root.
        visdom_url: address of a visdom server, or off.
    Returns:
        Lines to show; and whether the main job can run, that is, whether the back end that it takes computes correctly.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    best = choose("auto", device, SIZES[3])
    lines = [f"Python {platform.python_version()}, PyTorch {torch.__version__}, {platform.platform()}", "", "devices"]
    lines.append(f"  cpu          {torch.get_num_threads()} threads on {os.cpu_count()} cores")
    lines += [f"  cuda {i}       {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if device == "cpu":
        lines.append(f"  cuda         none: {BACKENDS['cuda'].fault()}")
    lines += ["", "back ends of the selective scan"]
    works = {}
    for name, back_end in BACKENDS.items():
        fault = back_end.fault()
        if fault is None:
            error = scan_error(name)
            works[name] = error < TOLERANCE
            fault = f"largest error {error:.0e}" if works[name] else f"WRONG, largest error {error:.0e}"
            fault = f"{back_end.describe()}; self-check: {fault}"
        lines.append(f"  {name:<12} {fault}{' (taken)' if name == best else ''}")
    lines += ["", "packages", *(f"  {name:<12} {_version(name)} {use}".rstrip() for name, use in PACKAGES.items())]
    if visdom_url != "off":
        lines.append(f"  server       {_server(visdom_url)} at {visdom_url}")
    files = {name: folder / spec.folder / spec.cube_file for name, spec in SCENES.items() if spec.cube_file}
    present = ", ".join(name for name, file in files.items() if file.exists())
    where = f"scenes with a cube in {folder}" + ("" if folder.is_dir() else ", which is no folder")
    lines += ["", where, f"  {present or 'none; --download NAME fetches one'}", ""]
    verdict = "The main job can run." if works[best] else f"The scan back end {best} computes wrongly."
    return [*lines, verdict], works[best]


def _server(url: str) -> str:
    try:
        Server(url, timeout=(1, 1)).environments()
    except requests.RequestException:
        return "of visdom does not answer (`make visdom` starts one)"
    return "of visdom answers"


def scan_error(backend: str) -> float:
    """Largest error of y and of its slope along a random direction, relative to their size.

    The oracle is the recurrence in NumPy, in float64, a step at a time; the slope its difference quotient.
    """
    rng = np.random.default_rng(0)
    batch, length, d_inner, d_state = SIZES
    shapes = [(batch, length, d_inner)] * 2 + [(d_inner, d_state)] + [(batch, length, d_state)] * 2 + [(d_inner,)] * 2
    values, directions = ([rng.standard_normal(shape) for shape in shapes] for _ in range(2))
    values[2] = -np.abs(values[2]) - 0.1  # A
    device = "cuda" if backend == "cuda" else "cpu"
    tensors = [torch.tensor(x, dtype=torch.float32, device=device, requires_grad=True) for x in values]
    *inputs, delta_bias = tensors
    y = selective_scan(*inputs, delta_bias=delta_bias, delta_softplus=True, backend=backend)
    weight = rng.standard_normal(y.shape)
    grads = torch.autograd.grad((y * torch.tensor(weight, device=device)).sum(), tensors)

    exact = [x.detach().double().cpu().numpy() for x in tensors]
    expected, ahead, behind = (
        _recurrence(*(x + h * v for x, v in zip(exact, directions, strict=True))) for h in (0, 1e-6, -1e-6)
    )
    slope = (weight * (ahead - behind)).sum() / 2e-6
    slopes = [(grad.double().cpu().numpy() * v).sum() for grad, v in zip(grads, directions, strict=True)]
    error = np.abs(y.detach().double().cpu().numpy() - expected).max() / np.abs(expected).max()
    return float(max(error, abs(sum(slopes) - slope) / np.abs(slopes).sum()))


def _recurrence(u, delta, A, B, C, D, delta_bias):
    step = np.logaddexp(0, delta + delta_bias)
    h, y = np.zeros((len(u), *A.shape)), np.empty_like(u)
    for t in range(u.shape[1]):
        h = np.exp(step[:, t, :, None] * A) * h + (step[:, t] * u[:, t])[:, :, None] * B[:, t, None]
        y[:, t] = (h * C[:, t, None]).sum(-1) + D * u[:, t]
    return y


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed:"
