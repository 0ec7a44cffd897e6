"""Label maps, false colour and the confusion matrix as image files; nothing opens on screen."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reporting.results import distance_label
from utils import write_atomically

DPI = 200
TRAINED, EMPTY = "#d62728", "#eeeeee"  # on the audit's map: training pixels, pixels out of the split
STEPS = (1, 2, 3, 4, 6, 9, 13, 21, 41)  # distances at which its colour changes


def colour_map(labels: np.ndarray, palette: tuple[str, ...]) -> np.ndarray:
    """Colour a label map: (H, W) labels 0..K to (H, W, 3) uint8, 0 black."""
    table = np.array([(0, 0, 0), *(to_rgb(colour) for colour in palette)])
    return (255 * table).round().astype(np.uint8)[labels]


def false_colour(cube: np.ndarray, bands: tuple[int, int, int]) -> np.ndarray:
    """Show three bands of a cube, (H, W, n_bands) to (H, W, 3) uint8, stretched from the 2nd to the 98th percentile."""
    image = cube[:, :, list(bands)].astype(np.float64)
    low, high = np.percentile(image, (2, 98), axis=(0, 1))
    return (255 * ((image - low) / np.maximum(high - low, 1e-12)).clip(0, 1)).round().astype(np.uint8)


def save_label_map(
    path: Path, labels: np.ndarray, class_names: tuple[str, ...], palette: tuple[str, ...], title: str
) -> None:
    """Draw a label map with a legend of the classes in it.

    Args:
        path: a .png file.
        labels: (H, W) 0..K; 0 is black, "unlabelled" in the legend.
        class_names, palette: K each.
        title: above the map.
    """
    height, width = labels.shape
    wide = width > 1.5 * height  # then the legend goes below
    entries = [Patch(facecolor="black", label="unlabelled")] if (labels == 0).any() else []
    entries += [
        Patch(facecolor=palette[i], label=f"{i + 1} {name}")
        for i, name in enumerate(class_names)
        if (labels == i + 1).any()
    ]
    if wide:
        size, n_columns = (9.0, 9.0 * height / width + 0.5 + 0.22 * -(-len(entries) // 5)), 5
        anchor = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.02)}
    else:
        size, n_columns = (6.0 * width / height + 2.6, 6.4), 1
        anchor = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    figure, axes = _figure(size)
    axes.imshow(colour_map(labels, palette), interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
    axes.legend(handles=entries, ncols=n_columns, fontsize=7, frameon=False, borderaxespad=0, **anchor)
    _save(figure, path)


def save_confusion(path: Path, confusion: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Draw a confusion matrix, (K, K) counts, rows = ground truth, as per cent of each row."""
    n_classes = len(class_names)
    support = confusion.sum(1, keepdims=True)
    share = 100 * confusion / np.maximum(support, 1)
    side = 2.8 + 0.38 * n_classes
    figure, axes = _figure((side + 0.6, side))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    labels = [f"{i + 1} {name}" for i, name in enumerate(class_names)]
    axes.set_xticks(range(n_classes), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(n_classes), labels, fontsize=7)
    axes.set_xlabel("prediction", fontsize=8)
    axes.set_ylabel("ground truth", fontsize=8)
    for row, column in zip(*np.nonzero(confusion), strict=True):
        value = share[row, column]
        text = f"{value:.0f}" if value >= 0.5 else "<1"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if value > 50 else "black")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("% of the class's test pixels", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _save(figure, path)


def save_accuracy_by_distance(path: Path, entries: list[dict], title: str) -> None:
    """Draw the accuracy of the test pixels over their distance to the nearest training pixel.

    Args:
        path: a .png file.
        entries: see `metrics.accuracy_by_distance`.
        title: above the curve.
    """
    shares = np.array([entry["n"] for entry in entries], dtype=float)
    shares *= 100 / shares.sum()
    figure, axes = _figure((6.0, 3.6))
    places = range(len(entries))
    axes.bar(places, shares, width=0.8, color="#d9d9d9", label="share of the test pixels")
    axes.plot(places, [100 * entry["accuracy"] for entry in entries], "o-", color="#1f77b4", label="accuracy")
    axes.set_xticks(places, [f"{distance_label(entry)}\n{entry['n']:,}" for entry in entries], fontsize=7)
    axes.set_xlabel("chessboard distance to the nearest training pixel, and number of test pixels", fontsize=8)
    axes.set_ylabel("%", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylim(0, 104)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, -0.36))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _save(figure, path)


def save_audit(
    path: Path, train: np.ndarray, test: np.ndarray, distance: np.ndarray, patch_size: int, title: str
) -> None:
    """Draw where a split trains and tests, the test pixels in the colour of their distance, and a histogram of that.

    Args:
        path: a .png file.
        train, test: (H, W), not 0 on their pixels.
        distance: (H, W) chessboard distance to the nearest training pixel.
        patch_size: P; lines at P // 2 and P - 1 mark what lies in a window and what overlaps one.
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

    wide = width > 1.5 * height  # then the histogram goes below
    size = (9.0, 9.0 * height / width + 3.6) if wide else (6.0 * width / height + 5.2, 6.0)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = {"height_ratios": (size[1] - 3.0, 2.4)} if wide else {"width_ratios": (size[0] - 5.0, 4.4)}
    upper, lower = figure.subplots(*((2, 1) if wide else (1, 2)), gridspec_kw=ratios)
    upper.imshow(image, interpolation="nearest")
    figure.suptitle(title, fontsize=9)
    upper.set_axis_off()
    names = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(bounds)]
    entries = [Patch(facecolor=TRAINED, label="training"), Patch(facecolor=EMPTY, label="in neither")]
    present = np.unique(norm(np.maximum(distance[test > 0], 1)))
    entries += [Patch(facecolor=colours(i), label=f"test, {names[i]} away") for i in present]
    upper.legend(handles=entries, ncols=4, fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.01))
    steps, n_at = np.unique(distance[test > 0], return_counts=True)
    lower.bar(steps, n_at, width=1.0 if farthest > 40 else 0.9, color=colours(norm(np.maximum(steps, 1))))
    for reach, style, words in ((patch_size // 2, "-", "in the window"), (patch_size - 1, "--", "windows overlap")):
        lower.axvline(reach + 0.5, color="black", linewidth=0.8, linestyle=style, label=f"to {reach}: {words}")
    lower.set_xlabel("chessboard distance to the nearest training pixel", fontsize=8)
    lower.set_ylabel("test pixels", fontsize=8)
    lower.tick_params(labelsize=7)
    lower.legend(fontsize=7, frameon=False, title=f"patch {patch_size}", title_fontsize=7)
    _save(figure, path)


def _figure(size: tuple[float, float]):
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    write_atomically(path, buffer.getvalue())
