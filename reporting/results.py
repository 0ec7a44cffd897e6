"""The files of a run's folder: metrics.json, results.csv, the final table."""

import csv
import io
import json
import logging
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from limits import read_text, regular_file
from metrics import Scores
from utils import InputError, write_atomically

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
log = logging.getLogger("mim")
NOT_ALIKE = (
    "in this split the test pixels are drawn otherwise than the validation pixels, so nothing promises that the wanted "
    "fraction is reached"
)


def make_run_folder(output: Path, model: str, dataset: str, seed: int) -> Path:
    """Make output/model/dataset/time-seed<k>, a new folder even if several runs start in the same second."""
    return make_folder(output / model / dataset, f"-seed{seed}")


def make_folder(parent: Path, suffix: str = "") -> Path:
    """Make a new folder in `parent`, named by the time."""
    parent.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now():%Y%m%d-%H%M%S}{suffix}"
    for folder in (parent / name, *(parent / f"{name}-{number}" for number in range(2, 10_000))):
        with suppress(FileExistsError):  # another run of this second has the name
            folder.mkdir()
            return folder
    raise FileExistsError(f"{parent / name}: too many runs started in this second")


def read_json(path: Path) -> dict:
    """Read a run's JSON file; InputError if it is missing or damaged."""
    if path.exists():
        regular_file(path)
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError) and path.exists():
            raise
        if path.exists():
            raise InputError(f"{path} is damaged or cannot be read; leave that run out, or train it again") from error
        raise InputError(f"{path} does not exist; give the folder of a run") from error


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())


def write_json(path: Path, content: dict) -> None:
    """Write JSON, whole or not at all; NaN, which JSON lacks, becomes null."""
    write_atomically(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def as_json(content: dict) -> dict:
    """Return the content as it would be read back from a JSON file."""
    return json.loads(json.dumps(_plain(content)))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def score_entries(result: Scores, confusion: np.ndarray, class_names: tuple[str, ...]) -> dict:
    """Make the entries of metrics.json that come from the confusion matrix."""
    return {
        "overall_accuracy": result.overall_accuracy,
        "average_accuracy": result.average_accuracy,
        "kappa": result.kappa,
        "class_names": class_names,
        "class_recall": result.recall,
        "class_f1": result.f1,
        "class_support": result.support,
        "confusion": confusion,
    }


def scale_names(scales: Sequence[int], n_heads: int) -> tuple[str, ...]:
    """Name the heads of a network, whose losses are the rows of a record's "scale_losses".

    Args:
        scales: sides of the token grids after the stages; () for a network without scales.
        n_heads: heads; there may be one for each scale, one for the last scale alone, and one for the sum of all.
    """
    names = tuple(f"scale {side} x {side}" for side in scales[max(0, len(scales) - n_heads) :])
    return names + ("all scales",) * (n_heads - len(names))


def append_result(path: Path, row: dict) -> None:
    """Add a row to results.csv, and columns that are new; several processes may do so at the same time.

    A row of the same run, which was interrupted after it was written, is replaced. A table that cannot be read is set
    aside, see `check_table`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = {key: as_cell("" if (plain := _plain(value)) is None else plain) for key, value in row.items()}
    with FileLock(f"{path}.lock"):
        rows = [each for each in _rows_of(path) if each.get("folder") != new.get("folder", "")]
        columns = list(dict.fromkeys(key for each in (*rows, new) for key in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, new])
        write_atomically(path, text.getvalue().encode(errors="backslashreplace"))  # a folder's name can be any bytes


def as_cell(value: Any) -> Any:
    """Put an apostrophe before a text of a CSV file that a spreadsheet would take for a formula; see `of_cell`."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def of_cell(text: str) -> str:
    """Give the text that `as_cell` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text[1:]) else text


def check_table(path: Path) -> None:
    """Set results.csv aside, under another name, if it cannot be read, and say so; OSError if none can be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        _rows_of(path)


def _rows_of(path: Path) -> list[dict[str, str]]:
    """Read a table; one that is none is set aside, and has no rows."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins UTF-8 with a byte order mark
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
        fault = "it has rows of more values than columns" if any(None in row for row in rows) else ""
        fault = "it is separated by semicolons" if ";" in "".join(reader.fieldnames or ()) else fault
    except (UnicodeError, csv.Error) as error:
        rows, fault = [], str(error)
    if not fault:
        return rows
    aside = path.with_name(f"{path.stem}-unreadable-{datetime.now():%Y%m%d-%H%M%S}{path.suffix}")
    path.rename(aside)
    log.warning("%s is not a table of results (%s); it is now called %s, and a new one begins", path, fault, aside.name)
    return []


def table(result: Scores, class_names: tuple[str, ...]) -> str:
    """Make the final table: recall, F1 and test pixels of each class, then OA, AA and kappa; in per cent."""
    width = max(len(name) for name in (*class_names, "overall accuracy (OA)"))
    lines = [f"  #  {'class':<{width}}  recall %    F1 %  test pixels"]
    for i, name in enumerate(class_names):
        recall, f1 = _per_cent(result.recall[i]), _per_cent(result.f1[i])
        lines.append(f"{i + 1:3d}  {name:<{width}}  {recall:>8}  {f1:>6}  {result.support[i]:>11,}")
    lines.append("-" * len(lines[0]))
    total = int(result.support.sum())
    lines.append(
        f"     {'overall accuracy (OA)':<{width}}  {_per_cent(result.overall_accuracy):>8}  {'':>6}  {total:>11,}"
    )
    lines.append(f"     {'average accuracy (AA)':<{width}}  {_per_cent(result.average_accuracy):>8}")
    lines.append(f"     {'kappa x 100':<{width}}  {_per_cent(result.kappa):>8}")
    return "\n".join(lines)


def distance_table(entries: list[dict]) -> str:
    """Make a table of three lines: distance, per cent right, test pixels (see `metrics.accuracy_by_distance`)."""
    steps = ["distance (pixels)", *map(distance_label, entries)]
    right = ["right %", *(_per_cent(entry["accuracy"]) for entry in entries)]
    pixels = ["test pixels", *(f"{entry['n']:,}" for entry in entries)]
    rows = [steps, right, pixels]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{row[0]:<{widths[0]}}" + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return "\n".join(["accuracy by chessboard distance to the nearest training pixel", *lines])


def interval_sentence(intervals: dict) -> str:
    """Say the confidence intervals of OA, AA and kappa in per cent, see `metrics.score_intervals`."""
    of = f"{intervals['n_blocks']} {intervals['of']}"
    if intervals["overall_accuracy"][0] is None or math.isnan(intervals["overall_accuracy"][0]):
        return f"the test pixels lie in {of}, too few for confidence intervals"
    names = {"OA": "overall_accuracy", "AA": "average_accuracy", "kappa x 100": "kappa"}
    ends = (f"{name} {interval_words(intervals[key])}" for name, key in names.items())
    return f"{100 * intervals['level']:g} % intervals, by a bootstrap of {of}: {', '.join(ends)}"


def interval_words(ends: Sequence[float | None]) -> str:
    """Write an interval in per cent: 95.50 to 97.40; "-" if it is not defined."""
    low, high = (math.nan if end is None else end for end in ends)
    return "-" if math.isnan(low) or math.isnan(high) else f"{100 * low:.2f} to {100 * high:.2f}"


def certainty_sentence(metrics: dict) -> str:
    """Say the calibration error, and the accuracy of the most certain pixels; "" for runs of earlier versions."""
    error = metrics.get("calibration", {}).get("expected_calibration_error")
    if error is None:
        return ""
    kept = [each for each in metrics["accuracy_by_coverage"] if each["coverage"] in (0.8, 0.5)]
    right = (f"of the most certain {100 * each['coverage']:g} % {100 * each['accuracy']:.2f} %" for each in kept)
    return f"confidence and accuracy differ by {100 * error:.2f} % on average; {' and '.join(right)} are right"


def sets_sentence(conformal: dict, split: str) -> str:
    """Say what the prediction sets of a run hold; `split` is the protocol's."""
    low, high = conformal["coverage_interval"]
    ends = interval_words((low, high))
    measured = f"{_per_cent(conformal['coverage'])} %" + (f" ({ends})" if ends != "-" else "")
    risk = 100 * conformal["risk"]
    sentence = (
        f"prediction sets with a risk of {risk:g} %: {measured} of the test pixels have their class in their set, "
        f"{100 - risk:g} % are wanted; a set has {conformal['mean_size']:.2f} classes on average"
    )
    return sentence if alike(split) else f"{sentence}; {NOT_ALIKE}"


def alike(split: str) -> bool:
    """Whether a split draws validation and test pixels alike, so that what holds for the ones holds for the others."""
    return split.startswith("random") and "%" in split  # a fraction of each class, not a number


def distance_label(entry: dict) -> str:
    """Name a range of distances: 3, 4-5, 21+."""
    first, last = entry["from"], entry["to"]
    return f"{first}+" if last is None else str(first) if first == last else f"{first}-{last}"


def mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Compute mean and standard deviation (n - 1) over the runs in which a score is defined.

    Args:
        values: (n_runs,), NaN if not defined.
    Returns:
        The mean, NaN if no value is defined; the deviation, NaN if fewer than two are.
    """
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else math.nan
    return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _per_cent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
