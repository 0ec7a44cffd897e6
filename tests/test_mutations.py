"""Copies of a finished run, each with one random change: the program does its work or says what is wrong.

The environment variable MIM_EXAMPLES gives the number of changes for each command, in place of a few.
"""

import copy
import json
import os
import random
import shutil
import signal
from functools import partial

import matplotlib.figure
import numpy as np
import pytest
import torch
from tiny import large, write_described

import inference.interpret
import main

N_EACH = int(os.environ.get("MIM_EXAMPLES", "40"))
FLAGS = ["--cuda", "-1", "--visdom", "off", "--patch_size", "3", "--epoch", "2", "--val_fraction", "0.3"]
SMALL = ["--dim", "4", "--d_inner", "4", "--d_state", "2", "--calibrate", "--conformal", "0.2", "--model", "MiM-v1"]
VALUES = [
    *(None, True, False, 0, -1, 1, 2, 7, 10**7, 2**63, 10**400, -0.5, 0.5, 1.5, 1e300, float("nan"), float("inf")),
    *(
        "",
        "x",
        "\0",
        "\ud800",
        "$a$",
        "a" * 5000,
        "../..",
        "none",
        [],
        [None],
        [1, "x"],
        [[1]],
        {},
        {"x": 1},
        {"": None},
    ),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a scene and a finished run on it, with everything that a run can leave."""
    home = tmp_path_factory.mktemp("mutations")
    write_described(home / "Fields", large())
    command = ["--dataset", str(home / "Fields"), "--output", str(home / "runs"), *FLAGS, *SMALL]
    assert main.main([*command, "--context", "gaussian", "--context_size", "3", "--spectral", "msc"]) == 0
    (folder,) = (home / "runs" / "MiM-v1").glob("*/*")
    for path in (*folder.glob("*.png"), *folder.glob("*.pdf")):
        path.unlink()
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Figures are made, and not written; features are not embedded."""
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda *_, **__: None)
    monkeypatch.setattr(inference.interpret, "place_features", lambda features, seed: (features[:, :2], 1.0))


def places(value, at=()):
    """The places of all parts of nested values."""
    yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        yield from places(part, (*at, key))


def put(value, at, change):
    """A copy of nested values with a part that is changed, or left out if the change gives DROPPED."""
    if not at:
        return change(value)
    changed = put(value[at[0]], at[1:], change)
    if isinstance(value, dict):
        others = {key: part for key, part in value.items() if key != at[0]}
        return others if changed is DROPPED else others | {at[0]: changed}
    parts = [changed if i == at[0] else part for i, part in enumerate(value)]
    return type(value)(part for part in parts if part is not DROPPED)


DROPPED = object()


def other(rng, value):
    """Another value for one of a file."""
    kind = rng.randrange(4)
    if kind == 0:
        return DROPPED
    if kind == 1 and isinstance(value, int | float) and not isinstance(value, bool):
        return rng.choice([-value, value + 1, value * 1000, float(value), str(value), value - 1])
    if kind == 1 and isinstance(value, list | tuple):
        return rng.choice([value[:-1], [*value, *value[:1]], value[::-1], [*value] * 50])
    if kind == 1 and isinstance(value, str):
        return rng.choice([value[:-1], value * 2, value.upper(), value + "\n"])
    return copy.deepcopy(rng.choice(VALUES))


def change_json(path, rng):
    content = json.loads(path.read_text())
    at = rng.choice([*places(content)])
    changed = put(content, at, partial(other, rng))
    path.write_text("" if changed is DROPPED else json.dumps(changed))
    return f"{path.name} {at}"


def change_lines(path, rng):
    lines = path.read_text().splitlines()
    i = rng.randrange(len(lines))
    path.with_name("line").write_text(lines[i])
    what = change_json(path.with_name("line"), rng)
    lines[i] = path.with_name("line").read_text()
    path.write_text("\n".join(lines))
    return f"{path.name} {i} {what}"


def other_array(rng, array):
    kind = rng.randrange(6)
    if kind == 0:
        return array.astype(rng.choice(["f4", "f8", "i8", "u1", "u2", "i1", "b1", "U3", "c8", "M8[s]"]))
    if kind == 1:
        return array.reshape(-1) if rng.random() < 0.5 else array[None]
    if kind == 2:
        return array[: rng.randrange(len(array))] if array.ndim else array
    if kind == 3:
        return array.T
    if kind == 4:
        return np.zeros((0, *array.shape[1:]), array.dtype)
    changed = array.copy()
    value = rng.choice([0, 1, 77, 255, -1]) if array.dtype.kind in "iu" else rng.choice([np.nan, np.inf, -3, 0])
    with np.errstate(all="ignore"):
        changed[...] = np.array(value).astype(array.dtype) if rng.random() < 0.3 else changed
        changed.reshape(-1)[rng.randrange(max(changed.size, 1))] = np.array(value).astype(array.dtype)
    return changed


def change_npz(path, rng):
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice([*arrays])
    changed = other_array(rng, arrays.pop(name))
    np.savez(path, **(arrays if rng.random() < 0.1 else arrays | {name: changed}))
    return f"{path.name} {name} {changed.shape} {changed.dtype}"


def change_npy(path, rng):
    changed = other_array(rng, np.load(path))
    np.save(path, changed)
    return f"{path.name} {changed.shape} {changed.dtype}"


def change_bytes(path, rng):
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    if rng.random() < 0.3:
        del content[at:]
    else:
        content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{path.name} byte {at}"


def other_part(rng, value):
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        kind = rng.randrange(6)
        if kind == 0:
            return value.to(rng.choice([torch.float64, torch.int64, torch.bool, torch.complex64, torch.float16]))
        if kind == 1:
            return value[None]
        if kind == 2:
            return value[:-1].clone() if value.ndim and len(value) else value.reshape(1, 1)
        if kind == 3:
            return torch.zeros(1).expand(10**7)  # of one value
        if kind == 4:
            return value.double() * float("nan")
        return torch.zeros(0)
    if isinstance(value, torch.Tensor):
        return rng.choice([None, 0, "x", [], DROPPED, value.to_sparse() if value.ndim else 1, value.tolist()])
    return other(rng, value)


def change_checkpoint(path, rng):
    content = torch.load(path, weights_only=True)
    found = [at for at in places(content) if at[:2] != ("state", "optimiser") and at]
    start = rng.choice(sorted({at[0] for at in found}))
    at = rng.choice([at for at in found if at[0] == start])
    torch.save(put(content, at, partial(other_part, rng)), path)
    return f"{path.name} {at}"


CHANGES = {
    "config.json": change_json,
    "metrics.json": change_json,
    "audit.json": change_json,
    "log.jsonl": change_lines,
    "maps.npz": change_npz,
    "prediction.npy": change_npy,
    "last.pt": change_checkpoint,
}
RUN = ("config.json", "metrics.json", "audit.json", "log.jsonl", "maps.npz", "prediction.npy")
COMMANDS = {
    "report": RUN,
    "compare": (*RUN[1:], "metrics.json", "metrics.json"),
    "interpret": (*RUN, "last.pt", "last.pt"),
    "predict": ("last.pt",),
    "resume": ("last.pt", "last.pt", "config.json"),
}


def change_rows(path, rng):
    words = path.read_text().replace("\n", ",\n").split(",")
    at = rng.randrange(len(words))
    other = ["", '"', "\0", "x" * 5000, "\n", "folder", "../..", "a,b,c", "é", words[at] * 2, "/dev/null"]
    words[at] = rng.choice(other)
    path.write_text(",".join(words).replace(",\n", "\n"), encoding=rng.choice(["utf-8", "latin-1"]))
    return f"{path.name} {at}"


def argv(command, folder, run):
    if command == "compare":
        return ["--compare", str(folder), str(run), "--mixed_protocols"]
    if command == "resume":
        (folder / "metrics.json").unlink(missing_ok=True)
        return ["--resume", str(folder), "--cuda", "-1", "--visdom", "off"]
    if command == "predict":
        cube = run.parents[3] / "Fields" / "cube.npy"
        where = ["--output", str(folder.parent / "out"), "--restore", str(folder / "last.pt")]
        return ["--predict", str(cube), "--bands_axis", "last", *where, "--cuda", "-1", "--conformal", "0.2"]
    return [f"--{command}", str(folder), *(["--cuda", "-1"] if command == "interpret" else [])]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("ignore")
def test_a_changed_run_is_used_or_refused_in_one_sentence(home, tmp_path, capsys, command):
    codes = []
    for seed in range(N_EACH if command != "resume" else N_EACH // 4):
        rng = random.Random(f"{command} {seed}")
        folder = tmp_path / f"{seed}" / "run"
        shutil.copytree(home, folder)
        name = rng.choice(COMMANDS[command])
        what = (change_bytes if rng.random() < 0.1 else CHANGES[name])(folder / name, rng)
        if rng.random() < 0.2:
            name = rng.choice(COMMANDS[command])
            what += " and " + change_bytes(folder / name, rng)
        try:
            codes.append(main.main(argv(command, folder, home)))
        except BaseException as error:
            raise AssertionError(f"{command}, seed {seed}, {what}: {type(error).__name__} {error}") from error
        said = capsys.readouterr().err
        assert codes[-1] in (0, 2), what
        if codes[-1] == 2:
            sentence = said.splitlines()[-1]
            assert sentence.startswith("main.py: "), what
            assert len(sentence) < 1000, what
        shutil.rmtree(folder.parent)
    assert {*codes} == {0, 2}, codes


def test_the_unchanged_run_is_used(home, tmp_path):
    shutil.copytree(home, tmp_path / "run")
    for command in COMMANDS:
        assert main.main(argv(command, tmp_path / "run", home)) == 0


def test_a_changed_results_csv_is_used_or_refused(home, tmp_path):
    codes = set()
    for seed in range(N_EACH):
        path = tmp_path / "results.csv"
        shutil.copy(home.parents[2] / "results.csv", path)
        rng = random.Random(seed)
        what = (change_bytes if seed % 4 == 0 else change_rows)(path, rng)
        try:
            codes.add(main.main(["--compare", str(path)]))
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {what}: {type(error).__name__} {error}") from error
    assert codes == {0, 2}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", [*RUN, "last.pt"])
def test_a_pipe_in_place_of_a_file_is_refused(home, tmp_path, name, capsys):
    shutil.copytree(home, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)

    def waits(*_):
        raise AssertionError("it waits for the pipe")

    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(60)
    try:
        assert main.main(argv("predict" if name == "last.pt" else "report", tmp_path / "run", home)) == 2
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert name in capsys.readouterr().err
