"""Keep the results of finished runs as JSON with their protocols, and put them as tables into docs/results.md.

`python -m benchmarks.science TABLE FOLDER` adds all runs below a folder to benchmarks/results/science/TABLE.json, where
they replace those of the same method and seed, and writes the tables again; without arguments it only writes the
tables. A method is a model with its parts, spectral pre-treatment and context; parts that are not the default are in
its name.
"""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from models import MODELS
from models.options import MiMOptions

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "science", ROOT / "docs" / "results.md"
SCORES = ("overall_accuracy", "average_accuracy", "kappa")
KEPT = (*SCORES, "class_names", "class_recall", "n_train", "n_test", "n_parameters", "flops_per_patch", "seconds")


def collect(table: str, folder: Path) -> None:
    """Add the scores, costs and protocol of every finished run below a folder to the table's JSON file."""
    found = sorted(folder.glob("*/*/*/metrics.json"))
    if not found:
        sys.exit(f"{folder} holds no finished run; train some, or name another folder")
    kept, order = RESULTS / f"{table}.json", list(MODELS)
    runs = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    for path in found:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        runs.append({name: metrics[name] for name in KEPT} | {"protocol": metrics["protocol"]})
    numbered = {
        (order.index(of["model"]["name"]), *method(of), of["seed"]): run
        for of, run in ((run["protocol"], run) for run in runs)
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps([numbered[key] for key in sorted(numbered)], indent=1) + "\n", encoding="utf-8")


def method(protocol: dict) -> tuple[str, str, str]:
    """Give a method's name, with the parts that differ from the model's defaults, pre-treatment and context."""
    model, context = protocol["model"], protocol.get("context")
    usual = MODELS[model["name"]].defaults
    defaults = asdict(usual)
    if isinstance(usual, MiMOptions):
        defaults["scales"] = usual.resolved_scales(model["patch_size"])
    words = [model["name"]]
    for name, value in model["options"].items():
        values, expected = (list(each) if isinstance(each, tuple) else each for each in (value, defaults[name]))
        if name != "scan_backend" and values != expected:
            words.append(f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return ", ".join(words), protocol.get("spectral", "none"), str(context["size"]) if context else "none"


def markdown(table: str) -> str:
    """Make the table of a JSON file: a row for each method, with mean and standard deviation over its runs."""
    runs = json.loads((RESULTS / f"{table}.json").read_text(encoding="utf-8"))
    lines = [
        "| method | spectra | context | patch, PCA | runs | OA % | AA % | kappa x 100 | parameters | MFLOPs "
        "| training s | map s |",
        f"|{'---|' * 12}",
    ]
    for names in dict.fromkeys(method(run["protocol"]) for run in runs):
        own = [run for run in runs if method(run["protocol"]) == names]
        model, pca = own[0]["protocol"]["model"], own[0]["protocol"]["pca"]
        cells = [*names, str(model["patch_size"]) + (f", {pca}" if pca else ""), str(len(own))]
        cells += [_spread([100 * run[score] for run in own], ".2f") for score in SCORES]
        cells += [_number(own[0]["n_parameters"], ",.0f"), _number(own[0]["flops_per_patch"], ",.2f", 1e-6)]
        cells += [
            _spread([run["seconds"][part] for run in own], ",.0f", deviation=False) for part in ("train", "predict")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: str, *, deviation: bool = True) -> str:
    mean = f"{np.mean(values):{digits}}"
    return f"{mean} ± {np.std(values, ddof=1):{digits}}" if deviation and len(values) > 1 else mean


def _number(value: float | None, digits: str, factor: float = 1) -> str:
    return "-" if value is None else f"{factor * value:{digits}}"


def page() -> str:
    """Give docs/results.md with its tables made again; each stands between two comments that name it."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(
        r"(<!-- made from (\w+)\.json -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{markdown(found[2])}\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        collect(sys.argv[1], Path(sys.argv[2]))
    elif len(sys.argv) != 1:
        sys.exit("give the name of a table and the folder of its runs, or nothing")
    PAGE.write_text(page(), encoding="utf-8")
