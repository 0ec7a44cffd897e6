"""Tables and pictures of docs/why.md, from what `benchmarks.why` measured."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from reporting.figures.style import CM, OKABE_ITO, PAGE, plain_axes, sheet
from reporting.results import distance_label

DOCS = Path(__file__).resolve().parent.parent / "docs"
NETWORKS = ("CNN", "MiM-v1", "MiM-v2", "MiM-v3")
SPECTRAL = {"none": "z-score", "snv": "SNV"}
PER_CENT = ("overall_accuracy", "average_accuracy", "with_context", "mean_confidence", "calibration_error")
Rows = list[dict]  # what was measured of one subject, a fold each


def write_page(measured: Rows) -> None:
    """Make the tables of docs/why.md again, each between two comments, and its pictures."""
    by_subject: dict[str, Rows] = {}
    for row in measured:
        by_subject.setdefault(row["subject"], []).append(row)
    networks = {
        (name, spectral): by_subject[subject]
        for spectral in SPECTRAL
        for name in NETWORKS
        if (subject := f"--model {name} --spectral {spectral}") in by_subject
    }
    start = "--model MiM-v1 --spectral snv"
    parts = {
        subject.removeprefix(start).strip(): rows for subject, rows in by_subject.items() if subject.startswith(start)
    }
    tables = {"networks": networks_table(networks), "parts": parts_table(parts)}
    path = DOCS / "why.md"
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = rf"(<!-- {name} of benchmarks/results/why.json -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
    path.write_text(text, encoding="utf-8")
    draw_curves(DOCS / "why_curves", networks)
    draw_errors(DOCS / "why_errors", {name: rows for (name, spectral), rows in networks.items() if spectral == "snv"})
    draw_influence(
        DOCS / "why_influence", {name: rows for (name, spectral), rows in networks.items() if spectral == "snv"}
    )


def mean(rows: Rows, *names: str) -> float:
    """Average a value over the folds; names lead to it through nested dicts."""
    values: list[Any] = list(rows)
    for name in names:
        values = [value[name] for value in values]
    return float(np.mean(values))


def centre_share(rows: Rows) -> float:
    """Give the fraction of the influence that the centre pixel of a patch has."""
    patches = np.array([row["influence"] for row in rows])
    centre = patches.shape[1] // 2
    return float(patches[:, centre, centre].mean())


def networks_table(networks: dict[tuple[str, str], Rows]) -> str:
    """Make the table of all networks and pre-treatments; per cent."""
    lines = [
        "| network | input | folds | OA | AA | OA with context | mean confidence | calibration error | correlation of "
        "errors of neighbours | influence of the centre | OA of the centre alone | OA without the centre |",
        f"|{'---|' * 12}",
    ]
    for (name, spectral), rows in networks.items():
        values = [f"{100 * mean(rows, each):.1f}" for each in PER_CENT]
        values.append(f"{np.mean([row['error_correlation'][0] for row in rows]):.2f}")
        values.append(f"{100 * centre_share(rows):.0f}")
        values += [f"{100 * mean(rows, 'without', each):.1f}" for each in ("centre_alone", "without_centre")]
        lines.append(f"| {' | '.join([name, SPECTRAL[spectral], str(len(rows)), *values])} |")
    return "\n".join(lines)


def parts_table(parts: dict[str, Rows]) -> str:
    """Make the table of MiM-v1 with one part changed at a time; per cent."""
    lines = ["| MiM-v1, SNV | folds | OA | difference | AA | OA with context |", f"|{'---|' * 6}"]
    usual = {row["fold"]: row["overall_accuracy"] for row in parts.get("", [])}
    for flags, rows in parts.items():
        both = [row for row in rows if row["fold"] in usual]
        gains = [100 * (row["overall_accuracy"] - usual[row["fold"]]) for row in both]
        gain = f"{np.mean(gains):+.1f} ± {np.std(gains, ddof=1):.1f}" if flags and len(gains) > 1 else ""
        values = [f"{100 * mean(rows, each):.1f}" for each in ("overall_accuracy", "average_accuracy", "with_context")]
        name = f"`{flags}`" if flags else "the paper's"
        lines.append(f"| {' | '.join([name, str(len(rows)), values[0], gain, *values[1:]])} |")
    return "\n".join(lines)


def draw_curves(path: Path, networks: dict[tuple[str, str], Rows]) -> None:
    """Draw accuracy against epochs, of training pixels and of pixels that were not seen."""
    with sheet(path, PAGE, 7 * CM, "constrained") as figure:
        for axes, (spectral, title) in zip(figure.subplots(1, 2, sharey=True), SPECTRAL.items(), strict=True):
            for name, colour in zip(NETWORKS, OKABE_ITO, strict=False):
                if rows := networks.get((name, spectral)):
                    epochs, seen, unseen = np.mean([row["curve"] for row in rows], axis=0).T
                    axes.plot(epochs, 100 * unseen, "o-", markersize=2, color=colour, label=name)
                    axes.plot(epochs, 100 * seen, ":", color=colour)
            axes.set(title=title, xlabel="epoch", ylim=(0, 100))
            axes.set_ylabel("accuracy (%): solid unseen land, dotted training" if spectral == "none" else "")
            axes.legend(loc="lower right")
            plain_axes(axes)


def draw_errors(path: Path, networks: dict[str, Rows]) -> None:
    """Draw how the errors hang together in space, and the accuracy inside fields and far from the training pixels."""
    with sheet(path, PAGE, 7 * CM, "constrained") as figure:
        lags, edge, training = figure.subplots(1, 3)
        for (name, rows), colour in zip(networks.items(), OKABE_ITO, strict=False):
            correlation = np.nanmean([row["error_correlation"] for row in rows], axis=0)
            lags.plot(np.arange(len(correlation)) + 1, correlation, "o-", markersize=2, color=colour, label=name)
            for axes, kind in ((edge, "by_edge"), (training, "by_training")):
                labels, accuracy = pooled([row[kind] for row in rows])
                axes.plot(range(len(labels)), accuracy, "o-", markersize=2, color=colour)
                axes.set_xticks(range(len(labels)), labels)
        lags.set(xlabel="pixels apart", ylabel="correlation of errors", ylim=(0, 1))
        edge.set(xlabel="pixels to the edge of the field", ylabel="accuracy (%)", ylim=(0, 100))
        training.set(xlabel="pixels to the nearest training pixel", ylim=(0, 100))
        lags.legend()
        for axes in (lags, edge, training):
            plain_axes(axes)


def pooled(folds: list[list[dict]]) -> tuple[list[str], list[float]]:
    """Pool `metrics.accuracy_by_distance` over the folds: the names of the distances, and per cent right."""
    found: dict[tuple, list[dict]] = {}
    for entry in (entry for fold in folds for entry in fold):
        found.setdefault((entry["from"], entry["to"]), []).append(entry)
    entries = [found[key] for key in sorted(found)]
    right = [100 * np.average([e["accuracy"] for e in each], weights=[e["n"] for e in each]) for each in entries]
    return [distance_label(each[0]) for each in entries], right


def draw_influence(path: Path, networks: dict[str, Rows]) -> None:
    """Draw how much each pixel of a patch moves the answer."""
    with sheet(path, PAGE, 5.5 * CM, "constrained") as figure:
        shown = [np.mean([row["influence"] for row in rows], axis=0) for rows in networks.values()]
        image = None
        for axes, name, patch in zip(figure.subplots(1, len(shown), squeeze=False)[0], networks, shown, strict=True):
            image = axes.imshow(100 * patch, vmin=0, vmax=100 * np.max(shown), cmap="viridis")
            axes.set(
                xticks=[],
                yticks=[],
                title=f"{name}\ncentre {100 * patch[patch.shape[0] // 2, patch.shape[1] // 2]:.0f} %",
            )
        if image is not None:
            figure.colorbar(image, ax=figure.axes, label="% of the influence", shrink=0.8)
