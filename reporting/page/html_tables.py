"""The tables of the report, in HTML that is accessible to screen readers."""

import math
from html import escape

import numpy as np

from reporting.page.protocol import protocol_groups
from reporting.results import distance_label, interval_words
from reporting.run_folder import Run

MOST, MOST_PAIRS = 64, 200  # classes of a confusion matrix; pairs of classes in a list
NONE = '<span aria-hidden="true">–</span><span class="unseen">none</span>'  # a value that is not defined


def number(value: int | None) -> str:
    """Write a whole number with commas between thousands; a dash if it is not defined."""
    return NONE if value is None else f"{value:,}"


def per_cent(fraction: float | None) -> str:
    """Write a fraction as per cent with two digits; a dash if it is not defined."""
    return NONE if fraction is None or math.isnan(fraction) else f"{100 * fraction:.2f}"


def class_table(run: Run) -> str:
    """Make the table of the classes: colour, number, name, pixels, recall and F1; then OA, AA and kappa."""
    metrics = run.metrics
    n_classes = len(run.class_names)
    trained = np.bincount(run.maps["train"].ravel(), minlength=n_classes + 1)[1:]
    rows = "".join(
        f'<tr><td><span class="swatch c{i + 1}" aria-hidden="true"></span>{i + 1}</td>'
        f'<th scope="row">{escape(name)}</th>'
        f"<td>{number(int(trained[i]))}</td><td>{number(metrics['class_support'][i])}</td>"
        f"<td>{per_cent(metrics['class_recall'][i])}</td>{_interval(metrics, i)}"
        f'<td class="bar">{_bar(metrics["class_recall"][i])}</td>'
        f"<td>{per_cent(metrics['class_f1'][i])}</td></tr>"
        for i, name in enumerate(run.class_names)
    )
    head = (
        '<th scope="col">No.</th><th scope="col">Class</th><th scope="col">Training pixels</th>'
        '<th scope="col">Test pixels</th><th scope="col">Recall %</th>'
        + ('<th scope="col">95 % interval</th>' if "intervals" in metrics else "")
        + '<td class="bar"></td><th scope="col">F1 %</th>'
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
        + f'<td>{per_cent(metrics[key])}</td>{_interval(metrics, key)}<td class="bar"></td><td></td></tr>'
        for i, (label, key) in enumerate(totals)
    )
    return (
        '<table id="classes"><caption>Recall and F1 of each class on the test pixels</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody><tfoot>{foot}</tfoot></table>"
    )


def _interval(metrics: dict, of: int | str) -> str:
    """The cell of the interval of a score or of the recall of a class; "" for a run of an earlier version."""
    if "intervals" not in metrics:
        return ""
    ends = metrics["intervals"]["class_recall"][of] if isinstance(of, int) else metrics["intervals"][of]
    words = interval_words(ends)
    return f"<td>{NONE if words == '-' else words.replace(' to ', '–')}</td>"


def _bar(fraction: float | None) -> str:
    """A bar as long as the fraction; the number is beside it."""
    if fraction is None or math.isnan(fraction):
        return ""
    return f'<svg width="80" height="8" aria-hidden="true"><rect width="{80 * fraction:.1f}" height="8"></rect></svg>'


def confusion_section(run: Run) -> str:
    """Make the confusion matrix and what explains it; with more than MOST classes a table of the largest confusions."""
    if len(run.class_names) > MOST:
        table = _largest_confusions(run)
        return f'<div class="scroll long" tabindex="0" role="region" aria-label="Table of the confusions">{table}</div>'
    return f"""<p class="controls" hidden>
    <button type="button" id="counts" aria-pressed="false">Pixels instead of per cent</button>
  </p>
  <div class="scroll" tabindex="0" role="region" aria-label="Table of the confusion matrix">{confusion_table(run)}</div>
  <p class="help"><span class="swatch right7" aria-hidden="true"></span> right, <span class="swatch wrong7"
    aria-hidden="true"></span> wrong; the larger the fraction of the row, the darker the cell (for errors by the square
    root, so that small ones are visible). <span class="per-cent">Cells are per cent of the row.</span></p>
  <p id="pair" class="readout needs-script" role="status">Point at a cell to read its two classes.</p>"""


def _largest_confusions(run: Run) -> str:
    """Make a table of the pairs of classes that are most often confused, at most MOST_PAIRS."""
    confusion = np.array(run.metrics["confusion"])
    support = confusion.sum(1)
    np.fill_diagonal(confusion, 0)
    order = np.argsort(-confusion, axis=None, kind="stable")[:MOST_PAIRS]
    names = [f'<span class="number">{i}</span> {escape(name)}' for i, name in enumerate(run.class_names, 1)]
    rows = "".join(
        f'<tr><th scope="row">{names[row]}</th><th scope="row">{names[column]}</th>'
        f"<td>{number(int(confusion[row, column]))}</td><td>{per_cent(confusion[row, column] / support[row])}</td></tr>"
        for row, column in zip(*np.unravel_index(order, confusion.shape), strict=True)
        if confusion[row, column]
    )
    return (
        f"<table><caption>The largest of the {np.count_nonzero(confusion):,} confusions of the test pixels</caption>"
        '<thead><tr><th scope="col">Ground truth</th><th scope="col">Prediction</th><th scope="col">Test pixels</th>'
        f'<th scope="col">of the class %</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def confusion_table(run: Run) -> str:
    """Make the confusion matrix: rows = ground truth; cells hold the count and the per cent of the row."""
    confusion = np.array(run.metrics["confusion"])
    support, names = confusion.sum(1), [escape(name) for name in run.class_names]
    head = "".join(f'<th scope="col">{i}<span class="unseen"> {name}</span></th>' for i, name in enumerate(names, 1))
    rows = "".join(
        f'<tr><th scope="row"><span class="number">{i + 1}</span> {name}</th>'
        + "".join(_cell(i, j, int(count), int(support[i])) for j, count in enumerate(confusion[i]))
        + "</tr>"
        for i, name in enumerate(names)
    )
    return (
        '<table id="confusion"><caption><span>Confusion matrix of the test pixels: rows are the ground truth, columns '
        f'the prediction</span></caption><thead><tr><td class="corner">truth ↓ prediction →</td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _cell(row: int, column: int, count: int, total: int) -> str:
    """A cell shaded by its fraction of the row; errors are shaded by the root, so that small ones are visible."""
    if not count:
        return "<td>0</td>"
    fraction = count / total
    shade = f"right{math.ceil(10 * fraction)}" if row == column else f"wrong{math.ceil(10 * math.sqrt(fraction))}"
    shown = f"{100 * fraction:.1f}"
    if shown in ("0.0", "100.0") and fraction < 1:
        shown = "<0.1" if fraction < 0.5 else ">99.9"
    return f'<td class="{shade}"><span class="n">{count}</span><span class="p">{escape(shown)}</span></td>'


def epoch_table(records: list[dict], scale_names: tuple[str, ...]) -> str:
    """Make the table of the epochs: losses, learning rate, accuracies and seconds."""
    scales = [f"Loss, {name}" for name in scale_names] if len(scale_names) > 1 else []
    columns = ["Epoch", "Loss", *scales, "Learning rate", "Training accuracy %", "Validation accuracy %", "Seconds"]
    rows = "".join(
        f'<tr><th scope="row">{record["epoch"]}</th>'
        + "".join(f"<td>{_loss(value)}</td>" for value in (record["loss"], *record["scale_losses"][: len(scales)]))
        + f"<td>{record['lr']:.3g}</td><td>{per_cent(record['train_accuracy'])}</td>"
        f"<td>{per_cent(record['val_accuracy'])}</td><td>{record['seconds']:.2f}</td></tr>"
        for record in records
    )
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    return f"<table><caption>Every epoch</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _loss(value: float | None) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:.4f}"


def distance_table(entries: list[dict]) -> str:
    """Make the table of the accuracy by distance to the nearest training pixel."""
    rows = "".join(
        f'<tr><th scope="row">{escape(distance_label(entry))}</th><td>{number(entry["n"])}</td>'
        f"<td>{per_cent(entry['accuracy'])}</td></tr>"
        for entry in entries
    )
    return (
        "<table><caption>Accuracy by chessboard distance to the nearest training pixel</caption>"
        '<thead><tr><th scope="col">Distance (pixels)</th><th scope="col">Test pixels</th><th scope="col">Right %</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def protocol_sections(run: Run) -> str:
    """Make the sections of the protocol, one per group."""
    return "".join(
        f"<section><h3>{escape(title)}</h3><dl>"
        + "".join(f"<div><dt>{escape(label)}</dt><dd>{_description(words)}</dd></div>" for label, words in entries)
        + "</dl></section>"
        for title, entries in protocol_groups(run).items()
    )


def _description(words: str | list[str]) -> str:
    if isinstance(words, list):
        return "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in words) + "</ul>"
    return f"<code>{words}</code>" if len(words) >= 40 and words.isalnum() else escape(words)
