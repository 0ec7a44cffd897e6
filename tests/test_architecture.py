"""The structure that docs/architecture.md describes: layers of rooms, sizes of files, and nothing done at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from utils import source_files

ROOT = Path(__file__).resolve().parent.parent
# Top down; a room imports rooms of lower layers only. What a room imports is compared with `==`, so that an import
# that is no longer there leaves this table too.
LAYERS = (
    ("main",),
    ("cli", "inference"),
    ("training",),
    ("splits",),
    ("datasets", "mapping"),
    ("scenes", "engine", "reporting", "models"),
    ("preprocessing", "patches", "context", "metrics", "certainty", "recipe", "selective_scan"),
    ("pretreatment", "limits"),
    ("utils", "stops"),
)
IMPORTS = {
    "main": {"cli", "datasets", "inference", "limits", "reporting", "scenes", "stops", "training", "utils"},
    "cli": {
        "datasets",
        "limits",
        "models",
        "pretreatment",
        "reporting",
        "scenes",
        "selective_scan",
        "splits",
        "training",
        "utils",
    },
    "inference": {
        "certainty",
        "context",
        "datasets",
        "mapping",
        "metrics",
        "models",
        "patches",
        "preprocessing",
        "reporting",
        "scenes",
        "splits",
        "stops",
        "training",
        "utils",
    },
    "training": {
        "certainty",
        "context",
        "datasets",
        "engine",
        "limits",
        "mapping",
        "metrics",
        "models",
        "patches",
        "preprocessing",
        "pretreatment",
        "reporting",
        "selective_scan",
        "splits",
        "stops",
        "utils",
    },
    "splits": {"datasets", "metrics", "scenes", "utils"},
    "datasets": {"limits", "scenes", "utils"},
    "mapping": {"certainty", "context", "engine", "models", "patches"},
    "scenes": {"limits", "utils"},
    "engine": {"metrics", "patches", "recipe"},
    "reporting": {"limits", "metrics", "utils"},
    "models": {"selective_scan"},
    "preprocessing": {"pretreatment", "utils"},
    "pretreatment": {"utils"},
    "limits": {"utils"},
    "patches": set(),
    "context": set(),
    "metrics": set(),
    "certainty": set(),
    "recipe": set(),
    "selective_scan": set(),
    "utils": set(),
    "stops": set(),
}


def _imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules():
    return [path for path in source_files() if path.suffix == ".py"]


def _room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _rooms_imported_by(room):
    paths = [path for path in _modules() if _room(path) == room]
    return {name.split(".")[0] for path in paths for name in _imported(path)} & {*IMPORTS} - {room}


def test_every_room_has_a_layer():
    assert {_room(path) for path in _modules()} == {*IMPORTS} == {room for layer in LAYERS for room in layer}


@pytest.mark.parametrize("room", IMPORTS)
def test_a_room_imports_exactly_the_rooms_of_the_table(room):
    assert _rooms_imported_by(room) == IMPORTS[room]


@pytest.mark.parametrize("room", IMPORTS)
def test_a_room_imports_lower_layers_only(room):
    level = next(i for i, layer in enumerate(LAYERS) if room in layer)
    assert IMPORTS[room] <= {lower for layer in LAYERS[level + 1 :] for lower in layer}


def test_the_code_fingerprint_covers_every_module_that_a_run_imports():
    program = """
import sys, pathlib
import main, importlib
for path in pathlib.Path(".").glob("*/**/*.py"):
    if path.parts[0] not in ("tests", "benchmarks") and (pathlib.Path(path.parts[0]) / "__init__.py").exists():
        importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
home = pathlib.Path.cwd()
files = {pathlib.Path(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
print("\\n".join(str(file) for file in files if home in file.parents and ".venv" not in file.parts))
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    imported = {Path(line) for line in result.stdout.splitlines()}
    assert len(imported) > 60 and imported <= set(source_files())


REPORTING = {  # the same within reporting: what each of its rooms and modules imports
    "comparison": {"results", "run_folder"},
    "figures": {"colours", "results"},
    "live": {"colours", "results"},
    "page": {"colours", "results", "run_folder"},
    "run_report": {"figures", "page", "run_folder"},
    "run_folder": {"results", "run_schema", "schema"},
    "run_schema": {"schema"},
    "schema": set(),
    "colours": set(),
    "results": set(),
    "spectra": set(),
}


@pytest.mark.parametrize("part", REPORTING)
def test_a_part_of_reporting_imports_exactly_the_parts_of_the_table(part):
    home = ROOT / "reporting"
    paths = [path for path in _modules() if home in path.parents and path.name != "__init__.py"]
    part_of = {path: path.relative_to(home).parts[0].removesuffix(".py") for path in paths}
    assert {*part_of.values()} == {*REPORTING}
    imported = {name for path in paths if part_of[path] == part for name in _imported(path)}
    assert {name.split(".")[1] for name in imported if name.startswith("reporting.")} - {part} == REPORTING[part]


@pytest.mark.parametrize("part", ["results", "run_folder", "spectra", "comparison.tables", "live.visdom_monitor"])
def test_what_draws_no_figure_loads_no_matplotlib_and_no_scipy(part):
    program = f"import sys, reporting.{part}; print(*sorted({{'matplotlib', 'scipy'}} & {{*sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def test_the_variants_of_a_model_do_not_import_each_other():
    variants = {"models.mim_v1", "models.mim_v2", "models.mim_v3", "models.cnn"}
    for name in variants:
        path = ROOT / f"{name.replace('.', '/')}.py"
        assert not (variants - {name}) & set(_imported(path)), path.name


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_about_300_lines(path):
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
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert set(printing) <= {"main", "training"}
