"""The house stands as architecture.md draws it: who may import whom, sizes of rooms, nothing done at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = {
    "arguments",
    "audit",
    "augment",
    "buffered",
    "checks",
    "cubes",
    "datasets",
    "describe",
    "description",
    "doctor",
}
EVERYTHING |= {"data_parallel", "job", "conclusion", "watch", "ranks", "sweep", "flags", "progress", "insides"}
EVERYTHING |= {"download", "engine", "envi", "experiment", "georeference", "mapping", "metrics", "models", "new_scene"}
EVERYTHING |= {"patches", "preprocessing", "rasters", "readers", "reporting", "sampling", "scenes", "selective_scan"}
EVERYTHING |= {"simulate", "splits", "trained", "utils"}
ALLOWED = {
    "main": EVERYTHING,
    "ranks": set(),
    "progress": {"ranks", "reporting", "utils"},
    "data_parallel": {"engine", "ranks", "utils"},
    "sweep": {"data_parallel", "datasets", "experiment", "job", "ranks", "reporting", "sampling", "trained", "utils"},
    "experiment": {"conclusion", "data_parallel", "engine", "job", "mapping", "metrics", "reporting", "trained"}
    | {"utils", "watch"},
    "job": {"audit", "datasets", "engine", "models", "patches", "preprocessing", "ranks", "reporting", "sampling"}
    | {"splits", "trained", "utils"},
    "insides": {"engine", "models", "patches", "reporting", "trained", "utils"},
    "conclusion": {"audit", "job", "mapping", "metrics", "reporting", "utils"},
    "watch": {"job", "mapping", "reporting"},
    "arguments": {"checks", "flags", "models", "utils"},
    "flags": {"engine", "models", "preprocessing", "scenes", "selective_scan", "utils"},
    "checks": {"models", "utils"},
    "doctor": {"reporting", "scenes", "selective_scan"},
    "augment": {"datasets", "description", "sampling", "scenes", "splits", "utils"},
    "audit": {"datasets", "reporting", "sampling", "splits", "utils"},
    "sampling": {"buffered", "datasets", "splits", "utils"},
    "buffered": {"splits", "utils"},
    "trained": {"models", "preprocessing", "selective_scan", "utils"},
    "new_scene": {
        "datasets",
        "engine",
        "envi",
        "georeference",
        "mapping",
        "preprocessing",
        "progress",
        "ranks",
        "rasters",
    }
    | {"reporting", "trained", "utils"},
    "mapping": {"datasets", "engine", "models", "patches"},
    "engine": {"metrics", "patches", "utils"},
    "datasets": {"cubes", "description", "rasters", "readers", "scenes", "simulate", "splits", "trained", "utils"},
    "cubes": {"description", "georeference", "rasters", "readers", "scenes", "utils"},
    "description": {"scenes", "utils"},
    "describe": {"cubes", "datasets", "description", "georeference", "rasters", "readers", "scenes", "utils"},
    "download": {"readers", "scenes", "utils"},
    "models": {"selective_scan"},
    "reporting": {"metrics", "utils"},
    "preprocessing": {"utils"},
    "rasters": {"envi", "georeference", "readers", "utils"},
    "envi": {"utils"},
    "georeference": set(),
    "readers": {"utils"},
    "splits": {"utils"},
    "metrics": set(),
    "patches": set(),
    "scenes": set(),
    "selective_scan": set(),
    "simulate": set(),
    "utils": set(),
}


def _sources():
    tracked = list(ROOT.glob("*.py"))
    return sorted(
        tracked + [path for room in ("models", "reporting", "selective_scan") for path in (ROOT / room).rglob("*.py")]
    )


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_it_may(path):
    room = _room(path)
    assert room in ALLOWED, f"{room} is no room of the house; draw it in ALLOWED and in architecture.md first"
    ours = {name.split(".")[0] for name in _imported(path)} & (EVERYTHING | {"main"})
    assert ours - {room} <= ALLOWED[room]


def test_the_variants_of_a_model_do_not_import_each_other():
    variants = {"models.mim_v1", "models.mim_v2", "models.mim_v3", "models.cnn"}
    for name in variants:
        path = ROOT / f"{name.replace('.', '/')}.py"
        assert not (variants - {name}) & set(_imported(path)), path.name


@pytest.mark.parametrize("path", _sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_is_longer_than_about_300_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320


def test_importing_every_module_parses_nothing_seeds_nothing_and_opens_no_connection():
    program = """
import random, socket, sys
import numpy, torch
def refuse(*args, **kwargs):
    raise AssertionError("a connection at import")
socket.socket.connect = refuse
sys.argv = ["main.py", "--no-such-flag"]
torch.manual_seed(1); numpy.random.seed(1); random.seed(1)
before = torch.get_rng_state(), numpy.random.get_state()[1].tobytes(), random.getstate()
threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
import main
after = torch.get_rng_state(), numpy.random.get_state()[1].tobytes(), random.getstate()
assert torch.equal(before[0], after[0]) and before[1:] == after[1:], "a random number was drawn or a seed was set"
assert (threads, deterministic) == (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_print_is_used_for_the_final_table_alone():
    printing = [
        _room(path)
        for path in _sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert set(printing) <= {"main", "conclusion", "sweep"}
