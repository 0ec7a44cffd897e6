"""Runs grouped into methods: what a method's label names, and what must agree before two of them are compared."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reporting.run_folder import Run
from utils import InputError

SCORES = ("overall_accuracy", "average_accuracy", "kappa")
COSTS = ("n_parameters", "flops_per_patch", "train_seconds", "predict_seconds")
WORDS = {  # of a setting in a label: with its value, or a pair for yes and no
    "patch_size": "patch {}",
    "epochs": "{} epochs",
    "batch_size": "batch {}",
    "precision": "{}",
    "pca": "PCA {}",
    "class_weights": ("class weights", ""),
    "flip": ("flips", "no flips"),
    "separate_types": ("separate types", ""),
    "radiation": ("radiation", ""),
    "mixture": ("mixture", ""),
}


@dataclass(frozen=True)
class Method:
    """Runs that differ in the seed alone: a column of the table.

    Attributes:
        label: the model's name, and the settings in which it differs from the others at hand.
        runs: at least one.
        mark: letter of its protocol where several stand side by side, else "".
    """

    label: str
    runs: tuple[Run, ...]
    mark: str = ""

    @property
    def name(self) -> str:
        """Label and mark."""
        return f"{self.label} ({self.mark})" if self.mark else self.label

    @cached_property
    def by_seed(self) -> dict[tuple[int, str], Run]:
        """The runs by seed and fingerprint of their pixels: what two methods have in common can be paired."""
        return {seed_and_pixels(run): run for run in self.runs}

    @property
    def seeds(self) -> str:
        """The seeds, such as 0-4, 7."""
        return ranges({run.protocol["seed"] for run in self.runs})

    def values(self, name: str) -> np.ndarray:
        """A figure of every run, (n_runs,), one of SCORES (fractions) or COSTS; NaN where it is not defined."""
        return np.array([figure(run, name) for run in self.runs])

    def recall(self, class_name: str) -> np.ndarray:
        """Recall of a class in every run, (n_runs,) fractions; NaN where it has no test pixels."""
        recalls = [of_class(run, run.metrics["class_recall"], class_name) for run in self.runs]
        return np.array(recalls, dtype=np.float64)

    def pixels(self, class_name: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Training and test pixels of a class, or all, in every run, two (n_runs,); NaN where a run does not tell."""
        if not class_name:
            return tuple(np.array([figure(run, name) for run in self.runs]) for name in ("n_train", "n_test"))
        train = [(run, _class_train(run)) for run in self.runs]
        train = [math.nan if each is None else of_class(run, each, class_name) or 0 for run, each in train]
        test = [of_class(run, run.metrics["class_support"], class_name) or 0 for run in self.runs]
        return np.array(train, dtype=np.float64), np.array(test, dtype=np.float64)


def figure(run: Run, name: str) -> float:
    """One of SCORES or COSTS, or another single figure of a run; NaN where it is not defined."""
    part = name.removesuffix("_seconds")
    value = run.metrics[name] if part == name else run.metrics["seconds"][part]
    return math.nan if value is None else float(value)


def of_class(run: Run, values: list, class_name: str):
    """The entry of a class, found by its name, in a list per class; None where the run lacks the class."""
    return dict(zip(run.class_names, values, strict=True)).get(class_name)


def _class_train(run: Run) -> list[int] | None:
    """Training pixels per class, from audit.json where metrics.json is of an earlier version; None where unknown."""
    if "class_train" in run.metrics:
        return run.metrics["class_train"]
    try:
        counts = [int(count) for count in run.audit["class_train"]]
    except (InputError, KeyError, TypeError, ValueError):
        return None
    return counts if len(counts) == len(run.class_names) else None


def seed_and_pixels(run: Run) -> tuple[int, str]:
    """Seed, and fingerprint of the pixels that train, validate and test."""
    return int(run.protocol["seed"]), str(run.protocol["fingerprints"]["split"])


def settings(run: Run) -> dict:
    """What makes a method: all that may differ between scores that compare."""
    protocol = run.protocol
    model, recipe = protocol["model"], protocol["recipe"]
    return {
        "model": model["name"],
        "patch_size": int(model["patch_size"]),
        "options": dict(model["options"]),
        **recipe,
        "class_weights": recipe["class_weights"] is not None,  # their values follow from the training pixels
        "batch_size": protocol["batch_size"],
        "normalize": protocol["normalize"],
        "pca": protocol["pca"],
        **protocol["augmentation"],
        "test_stride": protocol.get("test_stride", 1),  # changes the seconds, and no score
    }


def rules(run: Run) -> dict[str, str]:
    """What must agree between scores that compare, in words: what is tested, and what may be known before."""
    protocol = run.protocol
    prints = {name: str(value)[:8] for name, value in protocol["fingerprints"].items()}
    split = re.sub(r"fold \d+ of (\d+) \(from 0\)", r"\1 folds", protocol["split"])  # the fold follows from the seed
    fits = protocol["normalize"] != "none" or protocol["pca"]
    skips = protocol["border"] != "mirror"  # so that the patch decides what is tested
    held_out = protocol["n_validation"]
    share = protocol.get("val_fraction", round(held_out / (held_out + run.metrics["n_train"]), 2))
    told = {
        "split": split,
        "masks": prints.get("masks", prints["split"]) if split.startswith("fixed masks") else "drawn",
        "cube": prints["cube"],
        "ground truth": prints["ground_truth"],
        "border": f"{protocol['border']} at patch {protocol['model']['patch_size']}" if skips else protocol["border"],
        "normalisation fitted on": protocol["fit_on"] if fits else "nothing",
        "held out for validation": f"{100 * share:g} % of the training pixels" if held_out else "nothing",
        "weights": protocol["weights"],
        "restored from": protocol["restored_from"] or "nothing",
    }
    return {name: str(value) for name, value in told.items()}


def differences(first: Method, second: Method) -> list[str]:
    """In what the protocols of two methods differ, in words; empty where their scores compare.

    Splits that are drawn differ from seed to seed, so the pixels are compared seed by seed.
    """
    ours, theirs = rules(first.runs[0]), rules(second.runs[0])
    differing = [f"{name} ({ours[name]} / {theirs[name]})" for name in ours if ours[name] != theirs[name]]
    if differing:
        return differing
    for seed in sorted({seed for seed, _ in first.by_seed} & {seed for seed, _ in second.by_seed}):
        ours, theirs = ({pixels for s, pixels in each.by_seed if s == seed} for each in (first, second))
        if not ours & theirs:
            return [f"pixels that train and test at seed {seed} ({min(ours)[:8]} / {min(theirs)[:8]})"]
    return []


def labels(all_settings: list[dict]) -> list[str]:
    """Name each method by its model and by the settings in which the methods at hand differ.

    The parts of the models are compared within a model, and the scales, which follow from the patch, within a patch.
    """
    names = []
    for mine in all_settings:
        peers = [each for each in all_settings if each["model"] == mine["model"]]
        words = [mine["model"]]
        for name, value in mine.items():
            if name == "options":
                for option, part in value.items():
                    of = [each for each in peers if option != "scales" or each["patch_size"] == mine["patch_size"]]
                    if any(each["options"].get(option) != part for each in of):
                        words.append(_words(option, part))
            elif name != "model" and any(each.get(name) != value for each in all_settings):
                words.append(_words(name, value))
        names.append(", ".join(filter(None, words)))
    return names


def _words(name: str, value) -> str:
    words = WORDS.get(name, name.replace("_", " ") + " {}")
    if isinstance(words, tuple):
        return words[not value]
    if name == "pca" and not value:
        return ""
    if isinstance(value, list):
        return words.format(" ".join(map(str, value)))
    return words.format(f"{value:g}" if isinstance(value, float) else value)


def span(values: Iterable[float]) -> str:
    """The one whole number, or the least and the greatest: 695, 620-688; "-" where one is NaN."""
    values = sorted(values)
    if any(map(math.isnan, values)):
        return "-"
    return f"{values[0]:,.0f}" if values[0] == values[-1] else f"{values[0]:,.0f}-{values[-1]:,.0f}"


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as ranges: 0-4, 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
