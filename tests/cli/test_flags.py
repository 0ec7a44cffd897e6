"""The flags: made from the dataclasses, with their earlier names, and quick to answer."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import main
from cli.arguments import parse
from cli.flags import EVERY_MODE, MANY_RUNS, MODES, build_parser, defaults
from models.options import MiMOptions
from training.config import RunConfig
from training.settings import GROUPS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "sklearn", "scipy", "matplotlib", "h5py", "spectral", "rasterio", "PIL", "visdom"}


def flags():
    return {action.dest: action for action in build_parser()._actions if action.dest != "help"}


def test_every_setting_and_every_part_is_a_flag_with_help():
    settings = {each.name for each in fields(RunConfig)} - {"model_options"}
    parts = {each.name for each in fields(MiMOptions)}
    more = {name for mode in MODES.values() for name in mode.more}
    assert set(flags()) == settings | parts | set(MODES) | more | {*MANY_RUNS, *EVERY_MODE}
    assert all(action.help for action in flags().values())
    assert all(each.metadata["group"] in GROUPS for each in fields(RunConfig) if each.name != "model_options")


def test_the_help_shows_every_default():
    for name, value in defaults(None).items():
        if value not in (None, False):
            assert f"(default: {'yes' if value is True else value})" in (flags()[name].help or ""), name


def test_every_mode_has_a_function_and_takes_flags_that_exist():
    assert set(main.RUN) == {None, *MODES}
    for mode in MODES.values():
        assert mode.takes <= set(flags()) and set(mode.defaults) <= mode.takes


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ("--figures run", "--interpret run"),
        ("--dataset Tiny --again", "--dataset Tiny --rerun"),
        ("--predict a.npy --restore last.pt --key cube", "--predict a.npy --restore last.pt --cube_key cube"),
        ("--compare runs --format csv", "--compare runs --table_format csv"),
        ("--dataset Tiny --val_fraction 0.1 --weights best", "--dataset Tiny --val_fraction 0.1 --eval_weights best"),
        ("--dataset Tiny --sampling_mode buffered", "--dataset Tiny --sampling_mode spatial"),
    ],
)
def test_an_earlier_name_means_the_same(earlier, now):
    assert parse(earlier.split()) == parse(now.split())


@pytest.mark.parametrize(
    "line",
    ["--help", "--no_such_flag", "--dataset Tiny --patch_size 4", "--dataset Tiny --scan_types 5", "--predict a.npy"],
)
def test_help_and_refusals_load_nothing_heavy(line):
    program = f"""
import sys, main
try:
    code = main.main({line.split()!r})
except SystemExit as stop:
    code = stop.code
assert code == {0 if line == "--help" else 2}, code
loaded = {HEAVY!r} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_threads_of_openmp_wait_asleep_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setitem(main.RUN, "doctor", lambda command: print(main.os.environ["OMP_WAIT_POLICY"]) or 0)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert main.main(["--doctor"]) == 0 and main.os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main.main(["--doctor"]) == 0 and main.os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
