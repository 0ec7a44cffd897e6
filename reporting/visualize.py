"""Label maps, false colour and the confusion matrix as image files; nothing opens on screen."""

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from utils import write_atomically

DPI = 200


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


def _figure(size: tuple[float, float]):
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight")
    write_atomically(path, buffer.getvalue())
