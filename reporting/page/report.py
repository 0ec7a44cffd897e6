"""report.html: a finished run on one self-contained page, which needs no network and no other file."""

import base64
import hashlib
import json
import math
import re
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from reporting.colours import UNLABELLED, colour_table, rgb
from reporting.page.certainty import LINK, certainty_section, score_interval
from reporting.page.html_tables import (
    class_table,
    confusion_section,
    distance_table,
    epoch_table,
    number,
    per_cent,
    protocol_sections,
)
from reporting.page.png import encode_png
from reporting.results import distance_label
from reporting.run_folder import Run
from utils import write_atomically

ASSETS = Path(__file__).parent / "assets"
STYLES = ("report.css", "heat.css", "print.css")
SCRIPTS = ("png.js", "layers.js", "viewer.js", "pointer.js", "charts.js", "tables.js", "start.js")
# Found by search: 24 colours whose smallest distance in OKLab, for normal vision and for simulated protanopia,
# deuteranopia and tritanopia (Machado et al. 2009), is as large as possible; they are far from black and white as well.
# The first ones are the farthest apart.
# fmt: off
SAFE_PALETTE = (
    "#b4ffb4", "#6900c3", "#e15a2d", "#9696ff", "#960f00", "#4b005a", "#e1c30f", "#965a69",
    "#785ab4", "#000096", "#b4d296", "#3cc3d2", "#b4a587", "#4b96b4", "#3c1eff", "#e1f000",
    "#87e1ff", "#693c4b", "#b47878", "#1e4b87", "#9669f0", "#69000f", "#f0871e", "#c32d00",
)
# fmt: on
# They differ in lightness as well as in hue, so that everyone can distinguish them.
NEITHER, GOOD, BAD, HELD_OUT = "#e8e8e8", "#8fb8de", "#a50f15", "#e69f00"
ERRORS = (("not a test pixel", NEITHER), ("right", GOOD), ("wrong", BAD))
SPLIT = (("in neither", NEITHER), ("training", BAD), ("validation", HELD_OUT), ("test", GOOD))
STEPS = 200  # of confidence, half a per cent each; stored as 1 + step, 0 if a pixel was not predicted
TITLES = {
    "prediction": "Prediction",
    "truth": "Ground truth",
    "errors": "Errors",
    "false_colour": "False colour",
    "confidence": "Confidence",
    "split": "Split",
    "set_size": "Prediction sets",
}


def write_report(run: Run, command: str) -> None:
    """Write report.html into the folder of a run, whole or not at all; the same folder gives the same bytes."""
    write_atomically(run.folder / "report.html", page(run, command))


def page(run: Run, command: str) -> bytes:
    """Make the page of a run, UTF-8, with the command line that repeats it."""
    metrics, layers = run.metrics, layers_of(run)
    style = "\n".join([*(_asset(name) for name in STYLES), _colour_rules(run)])
    script = "\n".join(["'use strict';", *(_asset(name) for name in SCRIPTS)])
    sentences = run.sentences
    height, width = run.prediction.shape
    slots = {
        "policy": f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "data": json.dumps(_data(run), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        "title": escape(f"{run.model} on {run.scene}, seed {run.protocol['seed']}"),
        "model": escape(run.model),
        "scene": escape(run.scene),
        "seed": escape(str(run.protocol["seed"])),
        "split": escape(run.protocol["split"]) + _coverage(run.protocol.get("test_stride", 1)),
        "n_train": number(metrics["n_train"]),
        "n_test": number(metrics["n_test"]),
        "oa": per_cent(metrics["overall_accuracy"]),
        "aa": per_cent(metrics["average_accuracy"]),
        "kappa": per_cent(metrics["kappa"]),
        "oa_interval": score_interval(run, "overall_accuracy"),
        "aa_interval": score_interval(run, "average_accuracy"),
        "kappa_interval": score_interval(run, "kappa"),
        "certainty": (certainty := certainty_section(run)),
        "certainty_link": LINK if certainty else "",
        "parameters": number(metrics["n_parameters"]),
        "flops": number(metrics["flops_per_patch"]),
        "epochs": number(len(run.records)),
        "train_seconds": _seconds(metrics["seconds"]["train"]),
        "predict_seconds": _seconds(metrics["seconds"]["predict"]),
        "verdict": "".join(_sentence(each) for each in sentences if each.startswith(("FAULT", "Verdict"))),
        "findings": "".join(f"<li>{_sentence(each)}</li>" for each in sentences),
        "shape": "wide" if width > 1.5 * height else "tall",
        "figures": "".join(_figure(run, name, layers[name]) for name in layers),
        "legend": _legend(run),
        "repeats": " From class 25 on the colours repeat." if len(run.class_names) > len(SAFE_PALETTE) else "",
        "classes": class_table(run),
        "confusion": confusion_section(run),
        "training": _training(run),
        "distance_table": distance_table(metrics["accuracy_by_distance"]),
        "on_windows": _on_windows(run.protocol["model"]["patch_size"]),
        "protocol": protocol_sections(run),
        "command": escape(command),
    }
    # One pass, so that nothing in a name or a script is taken for a slot of the template.
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], _asset("report.html")).encode("utf-8", "replace")


def _training(run: Run) -> str:
    if not run.records:
        return '<p class="help">This model is fitted to the training pixels at once; it has no epochs.</p>'
    table = epoch_table(run.records, run.scale_names)
    return (
        '<div class="charts" id="training-charts"></div><details><summary>Every epoch as a table</summary>'
        f'<div class="scroll long" tabindex="0" role="region" aria-label="Table of the epochs">{table}</div></details>'
    )


def _on_windows(side: int) -> str:
    if side == 1:
        return "The model looks at single pixels, so no test pixel shares ground with a training pixel."
    return (
        f"The windows have {side} × {side} pixels, so the window of a test pixel near a training pixel covers part of "
        "the same ground."
    )


def _coverage(stride: int) -> str:
    side = escape(str(stride))
    return "" if stride == 1 else f" · one pixel in {side} × {side} mapped, the others filled from it"


def layers_of(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Make the maps of the page.

    Args:
        run: the run.
    Returns:
        By names of TITLES: values (H, W) and their colours (n, 3) uint8. Prediction and truth hold labels 0..K,
        errors indices into ERRORS, split indices into SPLIT, confidence 1 + a step of STEPS, or 0. False colour is
        (H, W, 3) uint8 with colours None. A run with prediction sets has the number of classes in them, 0..K.
    """
    maps, predicted = run.maps, run.prediction
    test = maps["test"] > 0
    errors = np.where(test, np.where(predicted == maps["test"], 1, 2), 0).astype(np.uint8)
    split = np.select([maps["train"] > 0, maps["validation"] > 0, test], [1, 2, 3], 0).astype(np.uint8)
    steps = 1 + np.rint(STEPS * maps["confidence"].astype(np.float32)).clip(0, STEPS)
    confidence = np.where(predicted > 0, steps, 0).astype(np.uint8)
    classes = colour_table((UNLABELLED, *run.palette))
    layers = {
        "prediction": (predicted, classes),
        "truth": (maps["truth"], classes),
        "errors": (errors, colour_table([colour for _, colour in ERRORS])),
        "false_colour": (maps["false_colour"], None),
        "confidence": (confidence, _ramp(STEPS + 1)),
        "split": (split, colour_table([colour for _, colour in SPLIT])),
    }
    if "sets" in maps:
        layers["set_size"] = maps["sets"].sum(-1).astype(predicted.dtype), _ramp(len(run.class_names))
    return layers


def _ramp(n: int) -> np.ndarray:
    """The colours of the ramp at n places, (n + 1, 3) uint8, after black for 0."""
    return np.vstack([np.zeros((1, 3)), np.rint(255 * colormaps["viridis"](np.linspace(0, 1, n))[:, :3])]).astype("u1")


def _data(run: Run) -> dict:
    """The data of the scripts, besides the maps, which they read from the pictures."""
    records = run.records
    return {
        "classes": run.class_names,
        "colours": [_hex(colour) for colour in run.palette],
        "safe": [SAFE_PALETTE[i % len(SAFE_PALETTE)] for i in range(len(run.class_names))],
        "split": [name for name, _ in SPLIT],
        "steps": STEPS,
        "curves": {
            name: [_finite(record[name]) for record in records]
            for name in ("epoch", "loss", "lr", "train_accuracy", "val_accuracy")
        }
        | {
            "scale_names": run.scale_names,
            "scales": [
                list(map(_finite, losses)) for losses in zip(*(r["scale_losses"] for r in records), strict=True)
            ],
        },
        "distance": [
            {"label": distance_label(entry), "n": entry["n"], "accuracy": entry["accuracy"]}
            for entry in run.metrics["accuracy_by_distance"]
        ],
        "bins": run.metrics.get("calibration", {}).get("bins", []),
        "coverage": run.metrics.get("accuracy_by_coverage", []),
    }


def _finite(value: float | None) -> float | None:
    """None, which is a gap in the curve, for values that JSON lacks."""
    return None if value is None or not math.isfinite(value) else value


def _figure(run: Run, name: str, layer: tuple[np.ndarray, np.ndarray | None]) -> str:
    image, colours = layer
    height, width = image.shape[:2]
    address = base64.b64encode(encode_png(image, colours)).decode()
    description = f"{TITLES[name]}, {run.scene}, {height} rows by {width} columns"
    key = "".join(f'<span class="entry">{mark}{text}</span>' for mark, text in _key(name, image, len(run.class_names)))
    return (
        f'<figure data-layer="{name}"><img src="data:image/png;base64,{address}" width="{width}" height="{height}" '
        f'alt="{escape(description)}"><figcaption><b>{TITLES[name]}</b> <span class="key">{key}</span></figcaption>'
        "</figure>"
    )


def _key(name: str, image: np.ndarray, n_classes: int) -> list[tuple[str, str]]:
    """Marks and words of the key below a map; the classes are in the legend."""
    if name == "false_colour":
        return [("", "three bands, stretched from the 2nd to the 98th percentile")]
    ramp = '<span class="ramp"></span>'
    if name == "confidence":
        return [("", "0&nbsp;%"), (ramp, "100&nbsp;%"), ("", "probability of the label")]
    if name == "set_size":
        return [("", "1"), (ramp, str(n_classes)), ("", "classes in the prediction set")]
    if name in ("errors", "split"):
        counts = np.bincount(image.ravel(), minlength=4)
        names = [entry for entry, _ in (ERRORS if name == "errors" else SPLIT)]
        order = [*range(1, len(names)), 0]
        return [(_swatch(f"{name}-{i}"), f"{names[i]} {number(int(counts[i]))}") for i in order if counts[i]]
    none = "not predicted" if name == "prediction" else "unlabelled"
    return [(_swatch("none"), f"{none} {number(int((image == 0).sum()))}")] if (image == 0).any() else []


def _legend(run: Run) -> str:
    return "".join(
        f'<li data-class="{i}">{_swatch(f"c{i}")}<span class="number">{i}</span><span class="name">{escape(name)}'
        "</span></li>"
        for i, name in enumerate(run.class_names, 1)
    )


def _swatch(kind: str) -> str:
    return f'<span class="swatch {kind}" aria-hidden="true"></span>'


def _colour_rules(run: Run) -> str:
    """The style of every swatch; the content security policy forbids style attributes."""
    rules = [f".c{i}{{background:{_hex(colour)}}}" for i, colour in enumerate(run.palette, 1)]
    rules += [
        f".safe .c{i}{{background:{SAFE_PALETTE[(i - 1) % len(SAFE_PALETTE)]}}}" for i in range(1, len(run.palette) + 1)
    ]
    for name, entries in (("errors", ERRORS), ("split", SPLIT)):
        rules += [f".{name}-{i}{{background:{colour}}}" for i, (_, colour) in enumerate(entries)]
    ramp = ",".join(to_hex(colormaps["viridis"](fraction)) for fraction in np.linspace(0, 1, 9))
    return "\n".join([*rules, f".ramp{{background:linear-gradient(90deg,{ramp})}}"])


def _hex(colour: str) -> str:
    """Parse a colour and write it again, so that no other text gets from a file into the style."""
    return "#{:02x}{:02x}{:02x}".format(*rgb(colour))


def _sentence(text: str) -> str:
    """A finding of the audit, with "FAULT:" or "Verdict:" emphasised."""
    for word, kind in (("FAULT:", "fault"), ("Verdict:", "verdict")):
        if text.startswith(word):
            return f'<span class="{kind}"><b>{word}</b>{_sentence(text.removeprefix(word))}</span>'
    return re.sub(r"--\w+", r'<code class="flag">\g<0></code>', escape(text))


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash by which a content security policy names a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
