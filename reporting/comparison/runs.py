"""Compare runs: find them, group them into methods, and refuse different protocols."""

import csv
import json
import logging
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reporting.comparison.methods import (
    Method,
    abbreviated,
    differences,
    labels,
    rules,
    seed_and_pixels,
    settings,
    span,
)
from reporting.results import of_cell
from reporting.run_folder import Run
from utils import InputError

log = logging.getLogger("mim")

MARKS = "abcdefghijklmnopqrstuvwxyz"
PER_CLASS = ("class_recall", "class_support", "class_train")


@dataclass(frozen=True)
class Comparison:
    """The methods of one scene.

    Attributes:
        scene: its name.
        methods: at least one.
        split: how its pixels were split, in words; "" if the methods differ in it.
        notes: what a reader must know besides the numbers, one sentence each.
    """

    scene: str
    methods: tuple[Method, ...]
    split: str
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for method in self.methods for run in method.runs]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, each once, in the order of the runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.class_names))

    def pixels(self, class_name: str = "") -> tuple[str, str]:
        """Write the training and test pixels of a class, or all: 695; 620-688 if the runs differ; "-" if unknown."""
        train, test = zip(*(method.pixels(class_name) for method in self.methods), strict=True)
        return span(np.concatenate(train)), span(np.concatenate(test))


def compare(paths: Iterable[Path], *, mixed_protocols: bool = False) -> list[Comparison]:
    """Compare runs, scene by scene.

    Args:
        paths: folders of runs, folders with runs below them, metrics.json files, results.csv files.
        mixed_protocols: mark different protocols instead of raising an error.
    Raises:
        InputError: there is no run, a run cannot be read, or protocols differ.
    """
    scenes: dict[str, list[Run]] = {}
    for run in find_runs(paths):
        scenes.setdefault(run.scene, []).append(run)
    return [_comparison(scene, runs, mixed_protocols) for scene, runs in scenes.items()]


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Read the runs at some paths, each once; runs below a folder that cannot be read are left out and logged.

    Args:
        paths: see `compare`.
    Raises:
        InputError: a path has no run, a run named by itself is incomplete or damaged, or there is no run at all.
    """
    found: dict[Path, Run] = {}
    paths = list(paths)
    for path in paths:
        runs = [_read(path)] if _names_one(path) else _read_all(_files(path))
        for run in sorted(runs, key=lambda run: (run.model, settings(run)["patch_size"], str(run.folder))):
            found.setdefault(run.folder.resolve(), run)
    if not found:
        raise InputError(f"no finished run was found in {', '.join(map(str, paths))}; give the folder of a run")
    return list(found.values())


def _names_one(path: Path) -> bool:
    return path.suffix.lower() == ".json" or any((path / name).is_file() for name in ("metrics.json", "config.json"))


def _files(path: Path) -> set[Path]:
    """The metrics.json of all runs below a folder or in a results.csv, of unfinished ones too."""
    if path.is_file() and path.suffix.lower() == ".csv":
        return set(_rows(path))
    if path.is_dir():
        return {file.with_name("metrics.json") for file in path.rglob("*.json") if file.stem in ("metrics", "config")}
    fault = "is not a folder, metrics.json or results.csv" if path.exists() else "does not exist"
    raise InputError(f"{path} {fault}; give the folder of a run, a folder above runs, or a results.csv")


def _rows(path: Path) -> Iterator[Path]:
    """The metrics.json of each row of a results.csv whose folder exists."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            folders = [of_cell(row["folder"] or "") for row in csv.DictReader(file)]
    except (KeyError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a results.csv of runs; it has no column folder") from error
    missing = []
    for name in folders:
        given = Path(name)
        places = (given, path.parent / given, path.parent.joinpath(*given.parts[-3:]))  # model, scene, time and seed
        folder = next((place for place in places if name and place.is_dir()), None)
        if folder is None:
            missing.append(name or "(no folder)")
        else:
            yield folder / "metrics.json"
    if missing:
        log.warning("left out, rows of %s whose folder is missing: %s", path, abbreviated(missing))


def _read_all(files: Iterable[Path]) -> list[Run]:
    """Read the runs that can be read, and log the others."""
    runs, unfinished, damaged = [], [], []
    for file in files:
        if not file.exists():
            unfinished.append(str(file.parent))
            continue
        try:
            runs.append(_read(file))
        except InputError:
            damaged.append(str(file.parent))
    for what, folders in (("not complete", unfinished), ("metrics.json is damaged", damaged)):
        if folders:
            log.warning("left out, %s: %s", what, abbreviated(folders))
    return runs


def _read(path: Path) -> Run:
    """Read a run from metrics.json alone; InputError if it is missing or its entries have other types."""
    path = path / "metrics.json" if path.is_dir() else path
    if not path.exists() and path.with_name("config.json").is_file():
        raise InputError(
            f"{path.parent} is not complete; `python main.py --resume {shlex.quote(str(path.parent))}` resumes it"
        )
    return Run.read_metrics(path, compared=True)


def _comparison(scene: str, runs: list[Run], mixed_protocols: bool) -> Comparison:
    groups: dict[str, dict[tuple[int, str], Run]] = {}
    repeated = []
    for run in runs:
        same = groups.setdefault(json.dumps([settings(run), rules(run)], sort_keys=True), {})
        key = seed_and_pixels(run)
        if key in same:
            earlier, run = sorted((same[key], run), key=lambda each: each.folder.name)
            repeated.append(str(earlier.folder))
        same[key] = run
    by_method = [sorted(same.values(), key=lambda run: run.protocol["seed"]) for same in groups.values()]
    names = labels([settings(same[0]) for same in by_method])
    methods = [Method(name, tuple(same)) for name, same in zip(names, by_method, strict=True)]
    firsts, marked = _protocols(scene, methods, mixed_protocols)
    notes = []
    if len(firsts) > 1:
        methods, notes = sorted(marked, key=lambda method: method.mark), _protocol_notes(firsts)
    notes += _notes(methods)
    if repeated:
        notes.append(
            f"of several runs with the same settings and seed only the last counts; left out: {abbreviated(repeated)}"
        )
    splits = {rules(method.runs[0])["split"] for method in methods}
    return Comparison(scene, tuple(methods), splits.pop() if len(splits) == 1 else "", tuple(notes))


def _protocols(scene: str, methods: list[Method], mixed: bool) -> tuple[list[Method], list[Method]]:
    """The first method of each protocol, and all methods with their mark; InputError for several unless mixed."""
    firsts, marked = [], []
    for method in methods:
        differing = [differences(first, method) for first in firsts]
        number = next((i for i, difference in enumerate(differing) if not difference), len(firsts))
        if number == len(firsts):
            firsts.append(method)
        if number and not mixed:
            first, second = (f"{each.label} ({each.runs[0].folder})" for each in (firsts[0], method))
            raise InputError(
                f"{first} and {second} on {scene} differ in protocol, so their scores do not compare: "
                f"{'; '.join(differing[0])}. Leave one out, or give --mixed_protocols, which marks them"
            )
        if number >= len(MARKS):
            raise InputError(f"more than {len(MARKS)} protocols on {scene}; compare fewer runs")
        marked.append(replace(method, mark=MARKS[number]))
    return firsts, marked


def _protocol_notes(firsts: list[Method]) -> list[str]:
    """A line for each mark: in what the protocols differ."""
    protocols = [rules(method.runs[0]) for method in firsts]
    differing = [name for name in protocols[0] if len({each[name] for each in protocols}) > 1]
    notes = []
    for mark, method, each in zip(MARKS, firsts, protocols, strict=False):
        seed, pixels = min(method.by_seed)
        facts = [f"{name}: {each[name]}" for name in differing] or [f"pixels at seed {seed}: {pixels[:8]}"]
        n_train, n_test = map(span, method.pixels())
        notes.append(f"({mark}) {'; '.join(facts)}; {n_train} training and {n_test} test pixels")
    return notes


def _notes(methods: list[Method]) -> list[str]:
    """What a reader must know besides the numbers: other seeds, absent classes, other machines or versions."""
    notes = []
    if len({method.seeds for method in methods}) > 1:
        notes.append(f"the seeds differ: {', '.join(f'{method.name} {method.seeds}' for method in methods)}")
    runs = [run for method in methods for run in method.runs]
    partly = {
        name
        for method in methods
        for name in method.runs[0].class_names
        if 0 < np.isnan(method.recall(name)).sum() < len(method.runs)
    }
    if partly:
        names = [name for name in runs[0].class_names if name in partly]
        notes.append(f"the mean leaves out runs that have no test pixels of a class: {', '.join(names)}")
    machines = [run.protocol["machine"] for run in runs]
    used = {f"{machine.get('device')} with {machine.get('threads')} threads" for machine in machines}
    if len(used) > 1:
        notes.append(f"the seconds are of different machines or numbers of threads: {abbreviated(used)}")
    commits = {str(machine.get("git_commit"))[:12] for machine in machines}
    if len(commits) > 1:
        notes.append(f"the runs were made with different versions of the code: {abbreviated(commits)}")
    return notes
