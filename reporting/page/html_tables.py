"""The tables of the report's page, in HTML that a screen reader can walk through."""

import math
from html import escape

import numpy as np

from reporting.page.protocol import protocol_groups
from reporting.results import distance_label
from reporting.run_folder import Run

NONE = '<span aria-hidden="true">–</span><span class="unseen">none</span>'  # a figure that is not defined


def number(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def per_cent(fraction: float | None) -> str:
    """A fraction as per cent, two digits; a dash where it is not defined."""
    return NONE if fraction is None or math.isnan(fraction) else f"{100 * fraction:.2f}"


def class_table(run: Run) -> str:
    """Per class: colour, number, name, training and test pixels, recall and F1; then OA, AA and kappa."""
    metrics = run.metrics
    n_classes = len(run.class_names)
    trained = np.bincount(run.maps["train"].ravel(), minlength=n_classes + 1)[1:]
    rows = "".join(
        f'<tr><td><span class="swatch c{i + 1}" aria-hidden="true"></span>{i + 1}</td>'
        f'<th scope="row">{escape(name)}</th>'
        f"<td>{number(int(trained[i]))}</td><td>{number(metrics['class_support'][i])}</td>"
        f'<td>{per_cent(metrics["class_recall"][i])}</td><td class="bar">{_bar(metrics["class_recall"][i])}</td>'
        f"<td>{per_cent(metrics['class_f1'][i])}</td></tr>"
        for i, name in enumerate(run.class_names)
    )
    head = (
        '<th scope="col">No.</th><th scope="col">Class</th><th scope="col">Training pixels</th>'
        '<th scope="col">Test pixels</th><th scope="col">Recall %</th><td class="bar"></td><th scope="col">F1 %</th>'
    )
    totals = [("Overall accuracy (OA)", "overall_accuracy"), ("Average accuracy (AA)", "average_accuracy")]
    totals += [("Kappa × 100", "kappa")]
    foot = "".join(
        f'<tr><td></td><th scope="row">{label}</th>'
        + (
            f"<td>{number(metrics['n_train'])}</td><td>{number(metrics['n_test'])}</td>"
            if not i
            else "<td></td><td></td>"
        )
        + f'<td>{per_cent(metrics[key])}</td><td class="bar"></td><td></td></tr>'
        for i, (label, key) in enumerate(totals)
    )
    return (
        '<table id="classes"><caption>Recall and F1 of each class on the test pixels</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody><tfoot>{foot}</tfoot></table>"
    )


def _bar(fraction: float | None) -> str:
    """A bar as long as the fraction; the figure stands beside it."""
    if fraction is None or math.isnan(fraction):
        return ""
    return f'<svg width="80" height="8" aria-hidden="true"><rect width="{80 * fraction:.1f}" height="8"></rect></svg>'


def confusion_table(run: Run) -> str:
    """Rows = ground truth, columns = prediction; each cell holds the count and the per cent of its row."""
    confusion = np.array(run.metrics["confusion"])
    names = [escape(name) for name in run.class_names]
    head = "".join(f'<th scope="col">{i}<span class="unseen"> {name}</span></th>' for i, name in enumerate(names, 1))
    rows = "".join(
        f'<tr><th scope="row"><span class="number">{i + 1}</span> {name}</th>'
        + "".join(_cell(i, j, int(count), int(confusion[i].sum())) for j, count in enumerate(confusion[i]))
        + "</tr>"
        for i, name in enumerate(names)
    )
    return (
        '<table id="confusion"><caption><span>Confusion matrix of the test pixels: rows are the ground truth, columns '
        f'the prediction</span></caption><thead><tr><td class="corner">truth ↓ prediction →</td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _cell(row: int, column: int, count: int, total: int) -> str:
    """Shaded by the share of the row: what is right evenly, what is not by the root, so that the small is seen too."""
    if not count:
        return "<td>0</td>"
    share = count / total
    shade = f"right{math.ceil(10 * share)}" if row == column else f"wrong{math.ceil(10 * math.sqrt(share))}"
    said = f"{100 * share:.1f}"
    if said in ("0.0", "100.0") and share < 1:
        said = "<0.1" if share < 0.5 else ">99.9"
    return f'<td class="{shade}"><span class="n">{count}</span><span class="p">{escape(said)}</span></td>'


def epoch_table(records: list[dict], scale_names: tuple[str, ...]) -> str:
    """Losses, learning rate, accuracies and seconds of every epoch."""
    scales = [f"Loss, {name}" for name in scale_names] if len(scale_names) > 1 else []
    columns = ["Epoch", "Loss", *scales, "Learning rate", "Training accuracy %", "Validation accuracy %", "Seconds"]
    rows = "".join(
        f'<tr><th scope="row">{record["epoch"]}</th>'
        + "".join(f"<td>{_figure(value)}</td>" for value in (record["loss"], *record["scale_losses"][: len(scales)]))
        + f"<td>{record['lr']:.3g}</td><td>{per_cent(record['train_accuracy'])}</td>"
        f"<td>{per_cent(record['val_accuracy'])}</td><td>{record['seconds']:.2f}</td></tr>"
        for record in records
    )
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    return f"<table><caption>Every epoch</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _figure(value: float | None) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:.4f}"


def distance_table(entries: list[dict]) -> str:
    """Accuracy of the test pixels by their distance to the nearest training pixel."""
    rows = "".join(
        f'<tr><th scope="row">{distance_label(entry)}</th><td>{number(entry["n"])}</td>'
        f"<td>{per_cent(entry['accuracy'])}</td></tr>"
        for entry in entries
    )
    return (
        "<table><caption>Accuracy by chessboard distance to the nearest training pixel</caption>"
        '<thead><tr><th scope="col">Distance (pixels)</th><th scope="col">Test pixels</th><th scope="col">Right %</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def protocol_sections(run: Run) -> str:
    """The protocol, group by group."""
    return "".join(
        f"<section><h3>{escape(title)}</h3><dl>"
        + "".join(f"<div><dt>{escape(label)}</dt><dd>{_told(words)}</dd></div>" for label, words in entries)
        + "</dl></section>"
        for title, entries in protocol_groups(run).items()
    )


def _told(words: str | list[str]) -> str:
    if isinstance(words, list):
        return "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in words) + "</ul>"
    return f"<code>{words}</code>" if len(words) >= 40 and words.isalnum() else escape(words)
