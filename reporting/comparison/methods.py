"""Runs grouped into methods: how a method is labelled, and what must agree before two methods are compared."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reporting.run_folder import Run
from utils import InputError

SCORES = ("overall_accuracy", "average_accuracy", "kappa")
CERTAINTY = ("calibration_error", "accuracy_at_coverage")  # which runs of earlier versions lack
COVERAGE = 0.8  # of the second
COSTS = ("n_parameters", "flops_per_patch", "train_seconds", "predict_seconds")
WORDS = {  # how a label names a setting: a template for its value, or a pair for yes and no
    "patch_size": "patch {}",
    "epochs": "{} epochs",
    "batch_size": "batch {}",
    "precision": "{}",
    "spectral": "{}",
    "pca": "PCA {}",
    "context": "context {}",
    "class_weights": ("class weights", ""),
    "flip": ("flips", "no flips"),
    "separate_types": ("separate types", ""),
    "radiation": ("radiation", ""),
    "mixture": ("mixture", ""),
}


@dataclass(frozen=True)
class Method:
    """Runs that differ only in the seed: a column of the table.

    Attributes:
        label: the model's name, and the settings in which it differs from the other methods.
        runs: at least one.
        mark: letter of its protocol if methods of several protocols are compared, else "".
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
        """The runs by seed and fingerprint of their pixels; runs of two methods with the same key form a pair."""
        return {seed_and_pixels(run): run for run in self.runs}

    @property
    def seeds(self) -> str:
        """The seeds, such as 0-4, 7."""
        return ranges({run.protocol["seed"] for run in self.runs})

    def values(self, name: str) -> np.ndarray:
        """Return one of SCORES, CERTAINTY (fractions) or COSTS for every run, (n_runs,); NaN if it is not defined."""
        return np.array([value_of(run, name) for run in self.runs])

    def recall(self, class_name: str) -> np.ndarray:
        """Return the recall of a class in every run, (n_runs,) fractions; NaN if the class has no test pixels."""
        recalls = [of_class(run, run.metrics["class_recall"], class_name) for run in self.runs]
        return np.array(recalls, dtype=np.float64)

    def pixels(self, class_name: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Count training and test pixels of a class, or all, in every run, two (n_runs,); NaN if unknown."""
        if not class_name:
            return self.values("n_train"), self.values("n_test")
        train = [(run, _class_train(run)) for run in self.runs]
        train = [math.nan if each is None else of_class(run, each, class_name) or 0 for run, each in train]
        test = [of_class(run, run.metrics["class_support"], class_name) or 0 for run in self.runs]
        return np.array(train, dtype=np.float64), np.array(test, dtype=np.float64)


def value_of(run: Run, name: str) -> float:
    """Return one of SCORES, CERTAINTY or COSTS, or another number of metrics.json; NaN if it is not defined."""
    if name == "calibration_error":
        value = run.metrics.get("calibration", {}).get("expected_calibration_error")
        return math.nan if value is None else float(value)
    if name == "accuracy_at_coverage":
        entries = run.metrics.get("accuracy_by_coverage", ())
        return next((float(each["accuracy"]) for each in entries if each["coverage"] == COVERAGE), math.nan)
    part = name.removesuffix("_seconds")
    value = run.metrics[name] if part == name else run.metrics["seconds"][part]
    return math.nan if value is None else float(value)


def of_class(run: Run, values: list, class_name: str):
    """Look a class up by its name in a list with an entry per class; None if the run lacks the class."""
    return dict(zip(run.class_names, values, strict=True)).get(class_name)


def _class_train(run: Run) -> list[int] | None:
    """Training pixels per class, from audit.json if metrics.json is of an earlier version; None if unknown."""
    if "class_train" in run.metrics:
        return run.metrics["class_train"]
    try:
        counts = [int(count) for count in run.audit["class_train"]]
    except (InputError, KeyError, TypeError, ValueError):
        return None
    return counts if len(counts) == len(run.class_names) else None


def seed_and_pixels(run: Run) -> tuple[int, str]:
    """Return the seed, and the fingerprint of the training, validation and test pixels."""
    return int(run.protocol["seed"]), str(run.protocol["fingerprints"]["split"])


def settings(run: Run) -> dict:
    """Return the settings that make a method: all that may differ between comparable scores."""
    protocol = run.protocol
    model, recipe = protocol["model"], protocol["recipe"]
    training = {
        "optimiser": "adamw",  # of earlier versions, like the next
        "schedule": "one_cycle",
        **recipe,
        "class_weights": recipe.get("class_weights") is not None,  # their values follow from the training pixels
        "batch_size": protocol["batch_size"],
        **protocol["augmentation"],
    }
    return {
        "model": model["name"],
        "patch_size": int(model["patch_size"]),
        "options": dict(model["options"]),
        **(training if recipe["epochs"] else {}),  # a classifier that is fitted at once uses none of these; earlier
        # versions noted them all the same
        "spectral": protocol.get("spectral", "none"),  # of earlier versions
        "normalize": protocol["normalize"],
        "pca": protocol["pca"],
        "context": _context(protocol),
        "test_stride": protocol.get("test_stride", 1),  # changes the seconds, and no score
    }


def _context(protocol: dict) -> str:
    context = protocol.get("context")  # earlier versions have none
    return "none" if context is None else f"{context['kind']} {context['size']}"


def rules(run: Run) -> dict[str, str]:
    """Return what must agree between comparable scores, in words: what is tested, and what training may use."""
    protocol = run.protocol
    prints = {name: str(value)[:8] for name, value in protocol["fingerprints"].items()}
    split = re.sub(r"fold \d+ of (\d+) \(from 0\)", r"\1 folds", protocol["split"])  # the fold follows from the seed
    fits = protocol["normalize"] != "none" or protocol["pca"] or "msc" in protocol.get("spectral", "none")
    fits = fits or protocol.get("context") is not None
    skips = protocol["border"] != "mirror"  # then the patch size decides what is tested
    held_out = protocol["n_validation"]
    fraction = protocol.get("val_fraction")
    if fraction is None:
        fraction = round(held_out / max(held_out + run.metrics["n_train"], 1), 2)
    words = {
        "split": split,
        "masks": prints.get("masks", prints["split"]) if split.startswith("fixed masks") else "drawn",
        "cube": prints["cube"],
        "ground truth": prints["ground_truth"],
        "border": f"{protocol['border']} at patch {protocol['model']['patch_size']}" if skips else protocol["border"],
        "normalisation fitted on": protocol["fit_on"] if fits else "nothing",
        "held out for validation": f"{100 * fraction:g} % of the training pixels" if held_out else "nothing",
        "weights": protocol["weights"],
        "restored from": protocol["restored_from"] or "nothing",
    }
    return {name: str(value) for name, value in words.items()}


def differences(first: Method, second: Method) -> list[str]:
    """Name the differences between the protocols of two methods; empty if their scores compare.

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
    """Name each method by its model and by the settings in which the methods differ.

    Options are compared between methods of the same model; scales, whose default follows from the patch size, only
    between methods of the same model and patch size.
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
            elif name != "model" and any(name in each and each[name] != value for each in all_settings):
                words.append(_words(name, value))
        names.append(", ".join(filter(None, words)))
    return names


def _words(name: str, value) -> str:
    words = WORDS.get(name, "{} {{}}".format(re.sub(r"[{}]", r"\g<0>\g<0>", name.replace("_", " "))))
    if isinstance(words, tuple):
        return words[not value]
    if name == "pca" and not value:
        return ""
    if isinstance(value, list):
        return words.format(" ".join(map(str, value)))
    return words.format(f"{value:g}" if isinstance(value, float) else value)


def span(values: Iterable[float]) -> str:
    """Write whole numbers as one if they are equal, else as least and greatest: 695, 620-688; "-" if one is NaN."""
    values = sorted(values)
    if any(map(math.isnan, values)):
        return "-"
    return f"{values[0]:,.0f}" if values[0] == values[-1] else f"{values[0]:,.0f}-{values[-1]:,.0f}"


def ranges(numbers: Iterable[int]) -> str:
    """Write whole numbers as ranges: 0-4, 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def abbreviated(names: Iterable[str], most: int = 3) -> str:
    """List the first names, and count the others: a, b, c and 4 more."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
