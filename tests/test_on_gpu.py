"""The command line on a GPU: resuming, mapping and several runs at a time. Everything here skips without one."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from spectral.io import envi
from tiny import TinyScene, large

import main
from reporting.results import read_json
from training import side_by_side
from training.cuda_graph import GraphSteps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use")
SMALL = ["--dim", "8", "--d_inner", "8", "--d_state", "4"]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Train on the larger Tiny scene on the GPU; gives the exit code and the new runs' folders by their seeds."""
    scene, numbers = TinyScene(tmp_path / "data", monkeypatch, large()), itertools.count()
    common = ["--dataset", "tiny", "--folder", str(scene.folder), "--patch_size", "3", "--epoch", "3"]

    def run(*arguments, output=None):
        output = output or tmp_path / f"runs{next(numbers)}"
        options = [*common, "--visdom", "off", "--output", str(output), *map(str, arguments)]
        code = main.main(options)
        return code, {read_json(path)["config"]["seed"]: path.parent for path in output.glob("*/*/2*/config.json")}

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pt", weights_only=True, map_location="cpu")["state"]["weights"]


def same(one: Path, two: Path) -> bool:
    """Whether two runs have the same weights and the same map, to the bit."""
    first, second = weights(one), weights(two)
    return all(torch.equal(first[name], second[name]) for name in first) and np.array_equal(
        np.load(one / "prediction.npy"), np.load(two / "prediction.npy")
    )


@pytest.mark.parametrize("name", ["MiM-v1", "MiM-v2", "MiM-v3", "CNN"])
def test_a_run_repeats_to_the_bit_and_names_the_graphs(name, call):
    (_, once), (_, twice) = call("--model", name), call("--model", name)
    assert same(once[0], twice[0])
    execution = read_json(once[0] / "metrics.json")["protocol"]["machine"]["execution"]
    assert execution.startswith("training steps as CUDA graphs")


def test_an_interrupted_run_is_resumed_to_the_same_bits(call, monkeypatch, tmp_path):
    command = ["--model", "MiM-v1", *SMALL]
    _, whole = call(*command)
    original, calls = GraphSteps.epoch, itertools.count()

    def interrupted(*arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("training.run.SAVE_SECONDS", 0.0)
        patched.setattr(GraphSteps, "epoch", interrupted)
        code, cut = call(*command, output=tmp_path / "cut")
    assert code == 130
    assert main.main(["--resume", str(cut[0]), "--visdom", "off"]) == 0
    assert same(whole[0], cut[0])


def test_runs_side_by_side_are_those_that_each_would_be_alone(call, monkeypatch):
    command = ["--model", "MiM-v1", *SMALL, "--runs", "4"]
    code, together = call(*command)
    assert code == 0
    monkeypatch.setattr(side_by_side, "MOST", 1)
    code, alone = call(*command)
    assert code == 0
    assert sorted(together) == sorted(alone) == [0, 1, 2, 3]
    assert all(same(together[seed], alone[seed]) for seed in alone)
    assert not same(together[0], together[1])
    assert all((folder / "report.html").is_file() and (folder / "map.png").is_file() for folder in together.values())


def test_augmentation_with_noise_trains_without_graphs(call):
    code, folders = call("--model", "CNN", "--radiation_augmentation", "--runs", "2")
    assert code == 0
    for folder in folders.values():
        assert read_json(folder / "metrics.json")["protocol"]["machine"]["execution"].startswith("eager")


@pytest.mark.parametrize("name", ["MiM-v1", "MiM-v2", "MiM-v3", "CNN"])
def test_a_mapped_scene_has_the_labels_of_the_cpu_but_for_ties(name, call, tmp_path):
    _, folders = call("--model", name)
    checkpoint, maps = folders[0] / "last.pt", {}
    cube = np.random.default_rng(1).normal(500, 100, (40, 30, 6)).astype(np.float32)
    np.save(tmp_path / "new.npy", cube)
    for device in ("-1", "0"):
        output = tmp_path / f"map{device}"
        command = ["--predict", str(tmp_path / "new.npy"), "--restore", str(checkpoint), "--output", str(output)]
        assert main.main([*command, "--cuda", device, "--probabilities"]) == 0
        (header,) = output.rglob("probabilities.hdr")
        maps[device] = np.array(envi.open(header).open_memmap(), dtype=np.float64)  # pyright: ignore[reportAttributeAccessIssue]
    on_cpu, on_gpu = maps.values()
    ordered = np.sort(on_cpu, axis=-1)
    decided = ordered[..., -1] - ordered[..., -2] > 1e-4
    assert decided.mean() > 0.9
    assert (on_cpu.argmax(-1) == on_gpu.argmax(-1))[decided].all()
    assert np.abs(on_cpu - on_gpu).max() < 1e-4
