"""The panes of the live view, as messages for a visdom server: plotly figures, pictures, HTML.

A pane is a dict with "data", "opts" and, if it is a figure, "layout"; making one needs no server.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from metrics import Scores
from reporting.colours import colour_map, rgb
from reporting.results import scale_names

SMALL, WIDE = (434, 320), (656, 420)  # width and height of panes: three or two fit side by side on 1400 pixels
MAP_SIDE = 440  # pixels to which small scenes are scaled up, about
MAP_BOX = (640, 900)  # height and width; larger scenes are thinned
LINES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22")
BLUES = ((0.0, "#f7fbff"), (0.25, "#c6dbef"), (0.5, "#6baed6"), (0.75, "#2171b5"), (1.0, "#08306b"))
REMOVED_BUTTONS = ["zoom", "pan", "zoomIn", "zoomOut", "autoScale", "select2d", "lasso2d"]  # of a figure
TABLE = "border-collapse:collapse;font:12px sans-serif;color:#222;margin:6px 10px"
CELL = "padding:1px 7px 1px 0;font-weight:normal;white-space:nowrap"


def loss(records: Sequence[dict], scales: Sequence[int]) -> dict:
    """Make the curves of the training loss, of each scale and in total.

    Args:
        records: one per epoch, see `engine.History`.
        scales: see `results.scale_names`.
    """
    epochs = [record["epoch"] for record in records]
    losses = list(zip(*(record["scale_losses"] for record in records), strict=True))
    lines = [
        _line(name, epochs, values, color=LINES[i % len(LINES)], width=1.2)
        for i, (name, values) in enumerate(zip(scale_names(scales, len(losses)), losses, strict=True))
    ]
    total = _line("total", epochs, [record["loss"] for record in records], color="#000000", width=2)
    return _figure("training loss", [total, *(lines if len(lines) > 1 else ())], x="epoch", legend="top")


def accuracy(records: Sequence[dict]) -> dict:
    """Make the curves of the training accuracy, in training mode, and of the validation accuracy if there is one."""
    lines = []
    for name, key, colour in (("train", "train_accuracy", LINES[0]), ("validation", "val_accuracy", LINES[1])):
        if key == "train_accuracy" or any(record[key] is not None for record in records):
            epochs, values = [r["epoch"] for r in records], [_percent(r[key]) for r in records]
            lines.append(_line(name, epochs, values, color=colour, width=2))
    return _figure("accuracy, %", lines, x="epoch", legend="top", yaxis={"range": [0, 101]})


def learning_rate(records: Sequence[dict]) -> dict:
    """Make the curve of the learning rate at the first step of each epoch."""
    line = _line("learning rate", [r["epoch"] for r in records], [r["lr"] for r in records], color=LINES[2], width=2)
    return _figure("learning rate", [line], x="epoch", yaxis={"exponentformat": "e", "rangemode": "tozero"})


def label_map(labels: np.ndarray, palette: Sequence[str], title: str) -> dict:
    """Make a picture of a label map, (H, W) 0..K, in the class colours; 0 is black."""
    return picture(colour_map(labels, palette), title, labels > 0)


def picture(image: np.ndarray, title: str, kept: np.ndarray | None = None) -> dict:
    """Make a picture of the scene, scaled up by a whole number or thinned.

    Args:
        image: (H, W, 3) uint8.
        title: of the pane.
        kept: (H, W) bool, pixels that thinning prefers to the others of their block, or None.
    """
    height, width = image.shape[:2]
    up = max(1, MAP_SIDE // max(height, width))
    every = max(1, -(-height // MAP_BOX[0]), -(-width // MAP_BOX[1]))
    image = thin(image, every, kept) if every > 1 else image.repeat(up, 0).repeat(up, 1)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    # The page draws a picture about a pixel wider than its pane, so the pane is a little smaller than the picture.
    size = {"width": image.shape[1] - 1.5, "height": image.shape[0] - 1.5}
    return {"data": [{"type": "image", "content": {"src": source}}], "opts": {"title": title, **size}}


def thin(image: np.ndarray, every: int, kept: np.ndarray | None = None) -> np.ndarray:
    """Take one pixel of each block: the first one that is in `kept`, else the first of the block.

    Args:
        image: (H, W, ...).
        every: side of a block, in pixels.
        kept: (H, W) bool, or None.
    Returns:
        (ceil(H / every), ceil(W / every), ...).
    """
    height, width = image.shape[:2]
    rows, columns = -(-height // every), -(-width // every)
    row, column = (start[:, None] * every for start in (np.arange(rows), np.arange(columns)))
    row, column = np.broadcast_arrays(row, column.T)
    if kept is not None:
        padded = np.zeros((rows * every, columns * every), dtype=bool)
        padded[:height, :width] = kept
        blocks = padded.reshape(rows, every, columns, every).swapaxes(1, 2).reshape(rows, columns, -1)
        down, right = np.divmod(blocks.argmax(2), every)
        row, column = row + down, column + right
    return image[row, column]


def legend(
    class_names: Sequence[str],
    palette: Sequence[str],
    counts: Mapping[str, Sequence[int]],
    result: Scores | None = None,
) -> dict:
    """Make a table of the classes with their colours and pixel counts, and at the end of the run with their scores.

    Args:
        class_names, palette: K each.
        counts: pixels per class, (K,), by heading.
        result: scores of the test pixels; None during the run.
    """
    heads = ["class", *counts] + (["recall", "F1"] if result else [])
    rows = []
    for i, (name, colour) in enumerate(zip(class_names, palette, strict=True)):
        cells = [f"{column[i]:,}" for column in counts.values()]
        if result:
            cells += [_shown(result.recall[i]), _shown(result.f1[i])]
        swatch = f'<span style="display:inline-block;width:11px;height:11px;background:{colour}"></span>'
        rows.append(f"{_cell(f'{swatch} {i + 1} {html.escape(name)}')}{''.join(map(_number, cells))}")
    black = '<span style="display:inline-block;width:11px;height:11px;background:#000"></span> unlabelled'
    rows.append(_cell(black))
    table = _table(["".join(map(_head, heads)), *rows])
    title = "classes"
    if result:
        title = "classes and scores, %"
        totals = (result.overall_accuracy, result.average_accuracy, result.kappa)
        names = ("overall accuracy", "average accuracy", "kappa × 100")
        table = (
            _table(
                [f"{_cell(f'<b>{n}</b>')}{_number(f'<b>{_shown(f)}</b>')}" for n, f in zip(names, totals, strict=True)]
            )
            + table
        )
    return _text(table, title, *WIDE)


def settings(entries: dict[str, object]) -> dict:
    """Make a table of the settings of a run."""
    rows = [f"{_cell(html.escape(name))}{_cell(html.escape(str(value)), wrap=True)}" for name, value in entries.items()]
    return _text(_table(rows), "settings", *WIDE)


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> dict:
    """Make a heat map of the confusion matrix in per cent of each row, the first class at the top.

    Args:
        matrix: (K, K) counts, rows = ground truth.
        class_names: K.
    """
    per_cent = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    labels = [f"{i + 1} {name}" for i, name in enumerate(class_names)]
    texts = np.where(matrix == 0, "", np.where(per_cent < 0.5, "<1", np.char.mod("%.0f", per_cent)))
    trace = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": per_cent.tolist(),
        "customdata": matrix.tolist(),
        "text": texts.tolist(),
        "texttemplate": "%{text}",
        "textfont": {"size": 10},
        "hovertemplate": "ground truth %{y}<br>prediction %{x}<br>%{customdata:,} pixels, %{z:.1f} %<extra></extra>",
        "colorscale": BLUES,
        "zmin": 0,
        "zmax": 100,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "% of the class's test pixels", "side": "right"}, "thickness": 12},
    }
    side = 260 + 26 * len(labels)
    axes = {"tickfont": {"size": 10}, "automargin": True, "showgrid": False, "type": "category"}
    pane = _figure("confusion matrix, %", [trace], x="prediction", size=(max(440, side + 80), max(400, side)))
    pane["layout"]["xaxis"] |= axes | {"tickangle": -90}
    pane["layout"]["yaxis"] |= axes | {"autorange": "reversed", "title": {"text": "ground truth", "standoff": 8}}
    return pane


def spectra(
    mean: np.ndarray,
    std: np.ndarray,
    class_names: Sequence[str],
    palette: Sequence[str],
    bands: Sequence[float],
    unit: str,
) -> dict:
    """Make the curves of the mean spectra of the classes, each with a band of one standard deviation.

    Args:
        mean, std: (K, n_bands), NaN for a class without pixels.
        class_names, palette: K each.
        bands: (n_bands,) wavelengths or numbers.
        unit: of `bands`.
    """
    traces, x = [], list(bands)
    for i in map(int, np.flatnonzero(~np.isnan(mean).any(1))):
        low, high = _short(mean[i] - std[i]), _short(mean[i] + std[i])
        red, green, blue = rgb(palette[i])
        group = {"legendgroup": str(i), "type": "scatter", "mode": "lines"}
        spread = {"x": x + x[::-1], "y": high + low[::-1], "fill": "toself", "line": {"width": 0}}
        spread |= {"fillcolor": f"rgba({red},{green},{blue},0.15)", "showlegend": False, "hoverinfo": "skip"}
        line = _line(f"{i + 1} {class_names[i]}", x, _short(mean[i]), color=palette[i], width=1.8)
        traces += [group | spread | {"name": f"{i + 1} spread"}, line | group]
    return _figure("spectra: mean and standard deviation of each class", traces, x=unit, size=WIDE, legend="right")


def sample_spectra(
    samples: Sequence[np.ndarray], class_names: Sequence[str], palette: Sequence[str], bands: Sequence[float], unit: str
) -> dict:
    """Make the curves of single pixels: K arrays (n, n_bands); the other arguments are as for `spectra`."""
    traces = []
    for i, rows in enumerate(samples):
        x = [*bands, None] * len(rows)  # one line for all, with gaps between
        y = [value for row in rows for value in (*_short(row), None)]
        if len(rows):
            traces.append(_line(f"{i + 1} {class_names[i]}", x, y, color=palette[i], width=0.8))
    return _figure("spectra of random training pixels", traces, x=unit, size=WIDE, legend="right")


def shared_curve(title: str, run: str, about: str, records: Sequence[dict], key: str, factor: float = 1) -> dict:
    """Make the line of a run in a figure that it shares with other runs.

    Args:
        title: of the pane.
        run: the run's name, for the legend.
        about: shown while the pointer is on the line.
        records: one per epoch, see `engine.History`.
        key, factor: the entry of a record, and the factor by which it is multiplied.
    """
    known = [record for record in records if record[key] is not None]
    line = _line(run, [r["epoch"] for r in known], [factor * r[key] for r in known], width=1.8)
    line["hovertemplate"] = f"%{{y:.4g}} in epoch %{{x}}<br>{html.escape(about)}"
    return _figure(title, [line], x="epoch", size=WIDE, legend="right")


def shared_scores(run: str, result: Scores) -> dict:
    """Make the row of a run in the table of all runs: OA, AA and kappa, in per cent."""
    values = (result.overall_accuracy, result.average_accuracy, result.kappa)
    trace = {
        "type": "scatter",
        "mode": "markers+text",
        "name": run,
        "x": ["OA", "AA", "kappa × 100"],
        "y": [run] * 3,
        "text": [_shown(value) for value in values],
        "textfont": {"size": 13, "color": "#000000"},
        "marker": {"symbol": "square", "size": 1, "opacity": 0},
        "hoverinfo": "skip",
    }
    pane = _figure("final scores, %", [trace], size=WIDE)
    pane["layout"]["margin"]["t"] = 60
    pane["layout"]["xaxis"] |= {"type": "category", "side": "top", "showgrid": False, "range": [-0.5, 2.5]}
    order = {"categoryorder": "category descending", "automargin": True, "type": "category", "showgrid": False}
    pane["layout"]["yaxis"] |= order
    return pane


def _line(name: str, x, y, **style) -> dict:
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "line": style}


def _figure(title: str, traces: list, *, x: str = "", size=SMALL, legend: str | None = None, yaxis=None) -> dict:
    """A figure with its legend at the "top" or at the "right", or without a legend."""
    places = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    layout = {
        "title": {"text": title, "font": {"size": 13}, "x": 0.02, "xanchor": "left", "y": 0.97},
        "font": {"family": "sans-serif", "size": 11, "color": "#222222"},
        "margin": {"l": 52, "r": 16, "t": 56 if legend == "top" else 34, "b": 42},
        "xaxis": {"title": {"text": x, "standoff": 6}, "zeroline": False},
        "yaxis": {"zeroline": False, **(yaxis or {})},
        "showlegend": legend is not None,
        "legend": {"font": {"size": 11}, "tracegroupgap": 0, **(places if legend == "top" else {})},
        "modebar": {"remove": REMOVED_BUTTONS},
    }
    return {"data": traces, "layout": layout, "opts": {"title": title, "width": size[0], "height": size[1]}}


def _text(content: str, title: str, width: int, height: int) -> dict:
    return {"data": [{"type": "text", "content": content}], "opts": {"title": title, "width": width, "height": height}}


def _table(rows: list[str]) -> str:
    return f'<table style="{TABLE}">{"".join(f"<tr>{row}</tr>" for row in rows)}</table>'


def _cell(content: str, wrap: bool = False) -> str:
    style = CELL + (";white-space:normal;overflow-wrap:anywhere" if wrap else "")
    return f'<td style="{style}">{content}</td>'


def _head(content: str) -> str:
    return (
        f'<th style="{CELL};text-align:{"left" if content == "class" else "right"}"><b>{html.escape(content)}</b></th>'
    )


def _number(content: str) -> str:
    return f'<td style="{CELL};text-align:right">{content}</td>'


def _short(values: np.ndarray) -> list[float]:
    """Round to five digits, which are enough for a curve."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _shown(fraction: float) -> str:
    return "–" if np.isnan(fraction) else f"{100 * fraction:.2f}"
