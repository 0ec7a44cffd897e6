"""What the JSON files and arrays of a run's folder hold, as far as it is used: type and range of each entry."""

from collections.abc import Mapping

import numpy as np

from reporting.schema import (
    COLOUR,
    COUNT,
    FRACTION,
    NAME,
    SCALAR,
    TEXT,
    choice,
    fault_in,
    list_of,
    mapping,
    number,
    one_of,
    optional,
    record,
    whole,
)

PAIR = list_of(optional(number()), 2, 2)
FACT = optional(one_of(SCALAR, list_of(optional(SCALAR))))
FACTS = mapping(optional(one_of(SCALAR, list_of(optional(SCALAR)), mapping(FACT))))

MODEL = record(
    {"name": NAME, "patch_size": whole(1, 9_999), "options": mapping(FACT)},
    {"n_bands": whole(1), "n_classes": whole(1)},
)
PROTOCOL = record(
    {
        "scene": NAME,
        "fingerprints": record({"cube": TEXT, "ground_truth": TEXT, "split": TEXT}, {"masks": TEXT}),
        "split": TEXT,
        "n_validation": COUNT,
        "normalize": NAME,
        "fit_on": NAME,
        "pca": COUNT,
        "model": MODEL,
        "recipe": record({"epochs": COUNT}, {"class_weights": optional(list_of(number(0)))}),
        "augmentation": mapping(FACT),
        "batch_size": optional(COUNT),
        "seed": whole(0, 2**32),
        "weights": choice(("last", "best")),
        "restored_from": optional(TEXT),
        "machine": mapping(FACT),
    },
    {
        "notes": list_of(TEXT),
        "val_fraction": FRACTION,
        "spectral": NAME,
        "context": optional(record({"kind": NAME, "size": whole(1)})),
        "border": NAME,
        "audit": mapping(FACT),
        "processes": whole(1, 1_000_000),
        "test_stride": whole(1),
    },
)
METRICS = record(
    {
        "overall_accuracy": optional(FRACTION),
        "average_accuracy": optional(FRACTION),
        "kappa": optional(number(-1, 1)),
        "class_names": list_of(NAME, 1, 65_535),
        "class_recall": list_of(optional(FRACTION)),
        "class_f1": list_of(optional(FRACTION)),
        "class_support": list_of(COUNT),
        "confusion": list_of(list_of(COUNT)),
        "n_train": COUNT,
        "n_test": COUNT,
        "n_parameters": optional(COUNT),
        "flops_per_patch": optional(COUNT),
        "seconds": record({"train": number(0, 1e12), "predict": number(0, 1e12)}),
        "protocol": PROTOCOL,
    },
    {
        "palette": list_of(COLOUR),
        "class_train": list_of(COUNT),
        "pixel_size": optional(number(1e-6, 1e9)),
        "intervals": record(
            {
                "of": TEXT,
                "level": FRACTION,
                "n_blocks": COUNT,
                "draws": COUNT,
                "overall_accuracy": PAIR,
                "average_accuracy": PAIR,
                "kappa": PAIR,
                "class_recall": list_of(PAIR),
            }
        ),
        "accuracy_by_distance": list_of(
            record({"from": COUNT, "to": optional(COUNT), "n": COUNT, "accuracy": FRACTION}), 1
        ),
        "calibration": record(
            {
                "expected_calibration_error": FRACTION,
                "bins": list_of(
                    record({"from": FRACTION, "to": FRACTION, "n": COUNT, "confidence": FRACTION, "accuracy": FRACTION})
                ),
            }
        ),
        "accuracy_by_coverage": list_of(record({"coverage": FRACTION, "accuracy": FRACTION}, {"n": COUNT})),
        "temperature": number(0, above=True),
        "conformal": record(
            {
                "risk": FRACTION,
                "n_validation": COUNT,
                "threshold": FRACTION,
                "coverage": FRACTION,
                "coverage_interval": PAIR,
                "mean_size": number(0),
                "sizes": list_of(COUNT),
            }
        ),
    },
)
PER_CLASS = ("class_recall", "class_f1", "class_support", "confusion", "palette", "class_train")
RECORD = record(
    {
        "epoch": whole(1),
        "lr": number(0),
        "loss": optional(number()),
        "scale_losses": list_of(optional(number())),
        "train_accuracy": optional(FRACTION),
        "val_accuracy": optional(FRACTION),
        "seconds": number(0, 1e12),
    }
)
AUDIT = record({}, {"sentences": list_of(TEXT), "class_train": list_of(COUNT)})
COMPARED = record({"protocol": record({"border": NAME})})  # what comparing a run needs more
MAPS = {  # type of the values and axes behind rows and columns
    **dict.fromkeys(("truth", "train", "validation", "test"), ("label", 0)),
    "confidence": ("float", 0),
    "false_colour": ("colour", 1),
    "blocks": ("whole", 0),
    "sets": ("flag", 1),
}
KINDS = {
    "label": ("unsigned whole numbers of 8 or 16 bits", ("u1", "u2")),
    "float": ("floating-point numbers", ("f2", "f4", "f8")),
    "colour": ("whole numbers of 8 bits", ("u1",)),
    "whole": ("whole numbers", ("i4", "i8", "i2", "u1", "u2", "u4")),
    "flag": ("true or false", ("b1",)),
}


def fault_in_metrics(content: object) -> str:
    """Say the first thing that is wrong with the content of a metrics.json; "" if nothing is."""
    if (fault := fault_in(content, METRICS)) or not isinstance(content, dict):
        return fault
    n_classes = len(content["class_names"])
    if len({*content["class_names"]}) < n_classes:
        return "class_names names a class twice"
    lists = {name: content[name] for name in PER_CLASS if name in content}
    lists |= {f"confusion[{i}]": row for i, row in enumerate(content["confusion"])}
    if "intervals" in content:
        lists["intervals.class_recall"] = content["intervals"]["class_recall"]
    if "conformal" in content:
        lists["conformal.sizes"] = content["conformal"]["sizes"]
    wrong = next((name for name, values in lists.items() if len(values) != n_classes), None)
    if wrong is not None:
        return f"{wrong} must have {n_classes} entries, one per class, and has {len(lists[wrong])}"
    if not sum(entry["n"] for entry in content.get("accuracy_by_distance", ({"n": 1},))):
        return "accuracy_by_distance has no pixels"
    if "calibration" in content and "accuracy_by_coverage" not in content:
        return "accuracy_by_coverage is missing"
    return ""


def fault_in_records(records: list) -> str:
    """Say the first thing that is wrong with the records of a log.jsonl, one per epoch; "" if nothing is."""
    if fault := fault_in(records, list_of(RECORD)):
        return fault
    if len({len(each["scale_losses"]) for each in records}) > 1:
        return "scale_losses must have as many entries in each line"
    return "" if not records or any(each["lr"] > 0 for each in records) else "lr is 0 in every line"


def fault_in_array(array: np.ndarray, kind: str, axes: int) -> str:
    """Say what is wrong with type or axes of an array of a run; "" if nothing is."""
    words, types = KINDS[kind]
    if array.ndim != 2 + axes or min(array.shape) < 1:
        return f"must have {2 + axes} axes with values, and is {array.shape}"
    return "" if array.dtype.newbyteorder("=").str[1:] in types else f"must be {words}, not {array.dtype}"


def fault_in_maps(maps: Mapping[str, np.ndarray], n_classes: int) -> str:
    """Say the first thing that is wrong with the arrays of a maps.npz; "" if nothing is."""
    for name, array in maps.items():
        kind, axes = MAPS[name]
        if fault := fault_in_array(array, kind, axes):
            return f"{name} {fault}"
        if array.shape[:2] != maps["truth"].shape:
            return f"{name} must be as large as truth, {maps['truth'].shape}, and is {array.shape}"
        last = {"false_colour": 3, "sets": n_classes}.get(name)
        if last is not None and array.shape[2] != last:
            return f"{name} must have {last} values per pixel, and has {array.shape[2]}"
        if kind == "label" and array.max() > n_classes:
            return f"{name} holds the label {array.max()}, and there are {n_classes} classes"
        if kind == "float" and not ((array >= 0) & (array <= 1)).all():
            return f"{name} must lie between 0 and 1"
        if kind == "whole" and array.min() < 0:
            return f"{name} must not be below 0"
    return ""
