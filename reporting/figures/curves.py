"""Curves, tables and histograms of a run as figures for print."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reporting.figures.style import (
    CM,
    COLUMN,
    LABEL_LENGTH,
    OKABE_ITO,
    PAGE,
    SMALL,
    class_label,
    plain_axes,
    sheet,
    wrapped,
)
from reporting.results import distance_label

TRAINED, EMPTY = "#d62728", "#eeeeee"  # training pixels, and pixels outside the split, on the map of an audit
MOST_LABELS = 64  # classes of a confusion matrix that are all named, with numbers in the cells
STEPS = (1, 2, 3, 4, 6, 9, 13, 21, 41)  # distances at which the colour of that map changes
LEGEND_COLUMNS = 3  # entries side by side in the column of a journal


def save_curves(path: Path, records: list[dict], scale_names: tuple[str, ...], title: str) -> None:
    """Draw losses, accuracies and learning rate over the epochs.

    Args:
        path: see `style.sheet`.
        records: one per epoch, see `engine.History`.
        scale_names: of the rows of "scale_losses"; if there is one, only the total loss is drawn.
        title: above the curves.
    """
    epochs = [record["epoch"] for record in records]
    dots = {"marker": "o", "markersize": 2} if len(epochs) < 30 else {}
    losses = np.array(
        [record["scale_losses"] for record in records], dtype=float
    )  # null in the file, None here, becomes NaN
    with sheet(path, COLUMN, 11 * CM, "constrained") as figure:
        figure.suptitle(wrapped(title, COLUMN))
        upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.6))
        upper.plot(epochs, _numbers(records, "loss"), color="black", label="total", **dots)
        if len(scale_names) > 1:
            colours = colormaps["viridis"](np.linspace(0, 0.9, len(scale_names)))
            for name, values, colour in zip(scale_names, losses.T, colours, strict=True):
                upper.plot(epochs, values, color=colour, linewidth=0.8, label=name, **dots)
        upper.set_ylabel("training loss")
        shown = np.append(losses, _numbers(records, "loss"))
        upper.set_ylim(0, 1.05 * shown[np.isfinite(shown)].max(initial=0.1))
        middle.plot(epochs, 100 * _numbers(records, "train_accuracy"), color=OKABE_ITO[0], label="training", **dots)
        validated = 100 * _numbers(records, "val_accuracy")
        if np.isfinite(validated).any():
            middle.plot(epochs, validated, color=OKABE_ITO[1], linestyle="--", label="validation", **dots)
        middle.set_ylabel("accuracy (%)")
        middle.set_ylim(0, 102)
        rates = _numbers(records, "lr")
        power = math.floor(math.log10(np.nanmax(rates)))
        lower.plot(epochs, rates / 10.0**power, color="black", **dots)
        lower.set_ylabel(f"learning rate\n(1e{power})")
        lower.set_ylim(bottom=0)
        lower.set_xlabel("epoch")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10), min_n_ticks=1))
        lower.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        for axes in (upper, middle, lower):
            plain_axes(axes)
        _legend_above(upper)
        _legend_above(middle)
        figure.align_ylabels()


def save_confusion(path: Path, confusion: np.ndarray, class_names: tuple[str, ...], title: str) -> None:
    """Draw a confusion matrix as per cent of each row.

    Args:
        path: see `style.sheet`.
        confusion: (K, K) counts, rows = ground truth.
        class_names: K.
        title: above the matrix.
    """
    n_classes = len(class_names)
    support = confusion.sum(1, keepdims=True)
    per_cent = 100 * confusion / np.maximum(support, 1)
    names = [name if len(name) <= LABEL_LENGTH else f"{name[: LABEL_LENGTH - 1]}…" for name in class_names]
    labels = [f"{i} {name}" for i, name in enumerate(names, start=1)]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    beside = (0.13 * longest + 2.6) * CM  # names, axis, and bar
    cell = min(max(0.75 * CM, (COLUMN - beside) / n_classes), 1.2 * CM, (PAGE - beside) / n_classes)
    width = beside + n_classes * cell
    with sheet(path, width, n_classes * cell + 1.8 * CM, "constrained") as figure:
        figure.suptitle(wrapped(title, width))
        axes = figure.add_subplot()
        image = axes.imshow(per_cent, cmap="Blues", vmin=0, vmax=100, interpolation="none")
        step = -(-n_classes // MOST_LABELS)
        axes.set_xticks(range(0, n_classes, step), [str(label) for label in range(1, n_classes + 1, step)])
        axes.set_yticks(range(0, n_classes, step), labels[::step])
        axes.tick_params(length=0)
        if step == 1:
            axes.set_xticks(np.arange(n_classes + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(n_classes + 1) - 0.5, minor=True)
            axes.grid(which="minor", color="#d9d9d9", linewidth=0.3)
            axes.tick_params(which="minor", length=0)
        axes.set_xlabel("prediction")
        axes.set_ylabel("ground truth")
        size = min(SMALL, 0.42 * cell * 72)
        for row, column in zip(*np.nonzero(confusion), strict=True) if step == 1 else ():
            value = per_cent[row, column]
            text = f"{value:.0f}" if value >= 0.5 else "<1"
            colour = "white" if value > 50 else "black"
            words = axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
            words.set_in_layout(False)  # it lies inside the axes, and measuring it is slow
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label("% of the class's test pixels")


def save_accuracy_by_distance(path: Path, entries: list[dict], title: str) -> None:
    """Draw the accuracy of the test pixels against their distance to the nearest training pixel.

    Args:
        path: see `style.sheet`.
        entries: see `metrics.accuracy_by_distance`.
        title: above the curve.
    """
    per_cent = np.array([entry["n"] for entry in entries], dtype=float)
    per_cent *= 100 / per_cent.sum()
    places = range(len(entries))
    with sheet(path, COLUMN, 6 * CM, "constrained") as figure:
        axes = figure.add_subplot()
        axes.bar(places, per_cent, width=0.8, color="#d9d9d9", label="fraction of the test pixels")
        accuracy = [100 * entry["accuracy"] for entry in entries]
        axes.plot(places, accuracy, "o-", markersize=3, color=OKABE_ITO[0], label="accuracy", clip_on=False)
        axes.set_xticks(places, [f"{distance_label(entry)}\n{entry['n']:,}" for entry in entries])
        axes.set_xlabel("chessboard distance to the nearest training pixel (pixels),\nand number of test pixels")
        axes.set_ylabel("%")
        axes.set_ylim(0, 100)
        axes.set_title(wrapped(title, COLUMN))
        figure.legend(ncols=2, loc="outside lower center")
        plain_axes(axes)


def save_calibration(path: Path, calibration: dict, by_coverage: list[dict], title: str) -> None:
    """Draw the reliability diagram, and the accuracy if only the most certain pixels are kept.

    Args:
        path: see `style.sheet`.
        calibration: see `certainty.calibration`.
        by_coverage: see `certainty.accuracy_by_coverage`.
        title: above both.
    """
    with sheet(path, PAGE, 7 * CM, "constrained") as figure:
        reliability, coverage = figure.subplots(1, 2)
        bins = calibration["bins"]
        n = np.array([each["n"] for each in bins], dtype=float)
        middles = [50 * (each["from"] + each["to"]) for each in bins]
        widths = [100 * (each["to"] - each["from"]) for each in bins]
        reliability.bar(middles, 100 * n / n.sum(), width=widths, color="#d9d9d9", label="fraction of the test pixels")
        reliability.plot([0, 100], [0, 100], "--", color="#767676", linewidth=0.8, label="accuracy = confidence")
        points = [[100 * each[name] for each in bins] for name in ("confidence", "accuracy")]
        reliability.plot(*points, "o-", markersize=3, color=OKABE_ITO[0], label="accuracy", clip_on=False)
        reliability.set(xlabel="confidence (%)", ylabel="%", xlim=(0, 100), ylim=(0, 100))
        error = 100 * calibration["expected_calibration_error"]
        reliability.set_title(f"expected calibration error {error:.2f} %")
        reliability.legend(loc="upper left")
        points = [[100 * each[name] for each in by_coverage] for name in ("coverage", "accuracy")]
        coverage.plot(*points, "o-", markersize=3, color=OKABE_ITO[0], clip_on=False)
        coverage.set(xlabel="test pixels kept, most certain first (%)", ylabel="overall accuracy (%)", xlim=(0, 100))
        coverage.set_title("accuracy of the most certain pixels")
        for axes in (reliability, coverage):
            plain_axes(axes)
        figure.suptitle(wrapped(title, PAGE))


def save_spectra(
    path: Path,
    spectra: tuple[np.ndarray, np.ndarray],
    drawn: list[np.ndarray],
    class_names: tuple[str, ...],
    palette: tuple[str, ...],
    wavelengths: tuple[float, ...] | None,
    title: str,
) -> None:
    """Draw the spectra of the classes, a plot for each class that has pixels.

    Args:
        path: see `style.sheet`.
        spectra: see `spectra.class_spectra`.
        drawn: see `spectra.random_spectra`.
        class_names, palette: K each.
        wavelengths: of the bands, nm; None if they are unknown, for the numbers of the bands.
        title: above the plots.
    """
    present = [k for k, some in enumerate(drawn) if len(some)]
    n_columns = min(4, len(present))
    n_rows = -(-len(present) // n_columns)
    bands = np.arange(1, spectra[0].shape[1] + 1) if wavelengths is None else np.array(wavelengths)
    width = PAGE if n_columns > 2 else COLUMN
    with sheet(path, width, (3.3 * n_rows + 2) * CM, "constrained") as figure:
        figure.suptitle(wrapped(title, width))
        plots = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in plots[len(present) :]:
            axes.set_visible(False)
        for axes, k in zip(plots, present, strict=False):
            mean, std = spectra[0][k], spectra[1][k]
            axes.plot(bands, drawn[k].T, color="#9a9a9a", linewidth=0.3)
            axes.fill_between(bands, mean - std, mean + std, color=palette[k], alpha=0.35, linewidth=0)
            axes.plot(bands, mean, color=palette[k])
            axes.set_title(class_label(k, class_names[k]), fontsize=SMALL)
            axes.margins(x=0)
            plain_axes(axes)
        for axes in plots[: len(present)][-n_columns:]:  # the lowest of each column
            axes.set_xlabel("band" if wavelengths is None else "wavelength (nm)")
            axes.tick_params(labelbottom=True)
        figure.supylabel("value in the cube")
        grey = Patch(facecolor="#7f7f7f", alpha=0.35, label="mean, and one standard deviation to either side")
        lines = Line2D([], [], color="#9a9a9a", linewidth=0.5, label="random pixels")
        figure.legend(handles=[grey, lines], ncols=2, loc="outside lower center")


def save_audit(
    path: Path, train: np.ndarray, test: np.ndarray, distance: np.ndarray, patch_size: int, title: str
) -> None:
    """Draw the training and test pixels of a split, coloured by distance, and a histogram of the distances.

    Args:
        path: see `style.sheet`.
        train, test: (H, W) label maps, 0 for pixels that are not in them.
        distance: (H, W) chessboard distance to the nearest training pixel.
        patch_size: P; lines at P // 2 and P - 1 mark the distances at which a training pixel lies in the window of a
            test pixel, and at which the windows overlap.
        title: above the map.
    """
    height, width = train.shape
    farthest = int(distance[test > 0].max())
    bounds = [step for step in STEPS if step <= farthest] or [1]
    bounds.append(max(farthest, bounds[-1]) + 1)
    colours, norm = colormaps["viridis"].resampled(len(bounds) - 1), BoundaryNorm(bounds, len(bounds) - 1)
    image = np.full((height, width, 3), to_rgb(EMPTY))
    image[test > 0] = colours(norm(np.maximum(distance, 1)))[test > 0][:, :3]
    image[train > 0] = to_rgb(TRAINED)
    names = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(bounds)]
    entries = [Patch(facecolor=TRAINED, label="training"), Patch(facecolor=EMPTY, label="in neither")]
    present = np.unique(norm(np.maximum(distance[test > 0], 1)))
    entries += [Patch(facecolor=colours(i), label=f"test, {names[i]} away") for i in present]

    wide = width > 1.5 * height  # then the histogram is below the map
    tall = PAGE * height / width if wide else min(9 * CM * height / width, 16 * CM)
    with sheet(path, PAGE, tall + (7.5 * CM if wide else 2.5 * CM), "constrained") as figure:
        ratios = {"height_ratios": (tall, 5 * CM)} if wide else {"width_ratios": (1, 0.9)}
        upper, lower = figure.subplots(*((2, 1) if wide else (1, 2)), gridspec_kw=ratios)
        upper.imshow((255 * image).round().astype(np.uint8), interpolation="none")
        figure.suptitle(wrapped(title, PAGE))
        upper.set_axis_off()
        figure.legend(handles=entries, ncols=5, loc="outside lower center", handlelength=1.1, handleheight=1.1)
        steps, n_at = np.unique(distance[test > 0], return_counts=True)
        lower.bar(steps, n_at, width=1.0 if farthest > 40 else 0.9, color=colours(norm(np.maximum(steps, 1))))
        for reach, style, words in ((patch_size // 2, "-", "in the window"), (patch_size - 1, "--", "windows overlap")):
            lower.axvline(reach + 0.5, color="black", linewidth=0.8, linestyle=style, label=f"to {reach}: {words}")
        lower.set_xlabel("chessboard distance to the nearest training pixel (pixels)")
        lower.set_ylabel("test pixels")
        _legend_above(lower, title=f"patch {patch_size}")
        plain_axes(lower)


def _legend_above(axes: Axes, title: str | None = None) -> None:
    """Put a legend of the lines above the axes, where it covers none of them."""
    n_rows = math.ceil(len(axes.lines) / LEGEND_COLUMNS)
    n_columns = math.ceil(len(axes.lines) / n_rows)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=n_columns, borderaxespad=0.2, title=title)


def _numbers(records: list[dict], name: str) -> np.ndarray:
    """One value per epoch, NaN if it is missing."""
    return np.array([record.get(name) for record in records], dtype=float)
