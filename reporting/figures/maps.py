"""Maps as figures for print: labels and errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from reporting.colours import UNLABELLED, colour_map, colour_table
from reporting.figures.style import (
    CM,
    COLUMN,
    DPI,
    PAGE,
    SMALL,
    TITLE,
    add_legend,
    class_label,
    legend_sizes,
    sheet,
    wrapped,
)

MARGIN, GAP = 0.1 * CM, 0.3 * CM  # inches: around the figure, and between map and legend
BAR = 0.55 * CM  # the strip below a map that holds its scale bar
TALLEST = 13 * CM  # of a map
LONGEST_SIDE = 4000  # pixels; a larger map is thinned out
RASTER = 4_000_000  # pixels; a small map is embedded with its pixels repeated up to about this number
MOST_IN_LEGEND = 100  # classes; more fit on no sheet, and drawing each takes 40 ms
# Of the error map; the colour-blind can distinguish them (Okabe and Ito).
RIGHT, WRONG, TRAINED, VALIDATED, OUTSIDE = "#56B4E9", "#D55E00", "#000000", "#8C8C8C", "#F2F2F2"


def save_label_map(
    path: Path,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    palette: tuple[str, ...],
    title: str,
    pixel_size: float | None = None,
    *,
    other_titles: Sequence[str] = (),
) -> None:
    """Draw a label map with a scale bar and a legend of all classes, or of the first ones if they are very many.

    The legend doesn't depend on the labels, so that all maps of a scene have the same legend and the same size.

    Args:
        path: see `style.sheet`.
        labels: (H, W) 0..K; 0 is black, "unlabelled" in the legend.
        class_names, palette: K each.
        title: above the map.
        pixel_size: metres across a pixel; None for a bar that counts pixels.
        other_titles: of the maps that are shown beside this one; the longest of all titles sets the height.
    """
    entries = [Patch(facecolor=UNLABELLED, label="unlabelled")]
    entries += [
        Patch(facecolor=colour, label=class_label(i, name))
        for i, (name, colour) in enumerate(zip(class_names[:MOST_IN_LEGEND], palette, strict=False))
    ]
    if (n_more := len(class_names) - MOST_IN_LEGEND) > 0:
        entries.append(Patch(alpha=0, label=f"and {n_more:,} more classes, see report.html"))
    image = colour_map(_thinned(labels), palette)
    _save_map(path, image, labels.shape, entries, title, pixel_size, other_titles)


def error_map(prediction: np.ndarray, train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Classify the pixels of a split.

    Args:
        prediction: (H, W) labels 1..K; 0 if a pixel was not predicted, which is wrong for a test pixel.
        train, validation, test: (H, W) label maps, 0 for pixels that are not in them.
    Returns:
        (H, W) uint8: 0 in no mask, 1 right, 2 wrong, 3 training, 4 validation.
    """
    kinds = np.where(test > 0, np.where(prediction == test, 1, 2), 0)
    return np.select([train > 0, validation > 0], [3, 4], kinds).astype(np.uint8)


def save_errors(path: Path, errors: np.ndarray, title: str, pixel_size: float | None = None) -> None:
    """Draw which test pixels are right and which are wrong, in colours that the colour-blind can distinguish.

    Args:
        path: see `style.sheet`.
        errors: see `error_map`.
        title: above the map.
        pixel_size: metres across a pixel; None for a bar that counts pixels.
    """
    colours = (OUTSIDE, RIGHT, WRONG, TRAINED, VALIDATED)
    names = ("in no mask", "right", "wrong", "training", "validation")
    n_each = np.bincount(errors.ravel(), minlength=len(names))
    n_test = n_each[1] + n_each[2]
    per_cent = [f" ({100 * n / n_test:.1f} %)" if i in (1, 2) else "" for i, n in enumerate(n_each)]
    entries = [
        Patch(facecolor=colours[i], edgecolor="#8C8C8C", linewidth=0.3, label=f"{names[i]}: {n_each[i]:,}{per_cent[i]}")
        for i in (1, 2, 3, 4, 0)
        if n_each[i] or i in (1, 2)
    ]
    _save_map(path, colour_table(colours)[_thinned(errors)], errors.shape, entries, title, pixel_size)


def scale_bar(width: int, pixel_size: float | None) -> tuple[float, str]:
    """Choose a scale bar of a round length, at most about a quarter of a map's width.

    Args:
        width: W, pixels.
        pixel_size: metres across a pixel, or None.
    Returns:
        Its length in pixels, and its length in words.
    """
    longest = max(0.3 * width * (pixel_size or 1), pixel_size or 1)
    power = 10.0 ** math.floor(math.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    if pixel_size is None:
        return length, f"{length:g} pixel{'s' if length > 1 else ''}"
    factor, unit = next((f, u) for f, u in ((1000, "km"), (1, "m"), (0.01, "cm"), (0, "m")) if length >= f)
    return length / pixel_size, f"{length / (factor or 1):g} {unit}"


@dataclass(frozen=True)
class Place:
    """Position of map and legend on a sheet, in inches from its upper left corner."""

    width: float
    height: float
    map_box: tuple[float, float, float, float]  # left, top, width, height
    legend: tuple[float, float]  # left, top


def place_map(shape: tuple[int, int], head: float, legends: dict[int, tuple[float, float]]) -> tuple[int, Place]:
    """Choose the width of the sheet and the place of the legend so that the map fills as much of the sheet as possible.

    Args:
        shape: (H, W) of the map, pixels.
        head: height of the title, inches.
        legends: width and height of the legend by its number of columns, inches.
    Returns:
        The number of columns of the legend, and the positions of map and legend.
    """
    height, width = shape
    page = PAGE if width > 2 * height else COLUMN
    choices = []
    for n_columns, (legend_width, legend_height) in legends.items():
        room = page - 2 * MARGIN
        if n_columns == 1 and room - legend_width - GAP > 0.2 * page:  # beside
            w, h = _map_size(shape, room - legend_width - GAP, TALLEST)
            left = _on_dot((page - w - GAP - legend_width) / 2)
            tall = head + max(h + BAR, legend_height) + MARGIN
            place = Place(page, _on_dot(tall), (left, head, w, h), (left + w + GAP, head))
            choices.append((w * h / (page * tall), n_columns, place))
        if legend_width <= room:
            w, h = _map_size(shape, room, TALLEST)
            tall = head + h + BAR + legend_height + MARGIN
            place = Place(
                page,
                _on_dot(tall),
                (_on_dot((page - w) / 2), head, w, h),
                ((page - legend_width) / 2, head + h + BAR),
            )
            choices.append((w * h / (page * tall), n_columns, place))
    return max(choices, key=lambda choice: choice[0])[1:]


def _map_size(shape, most_wide, most_tall) -> tuple[float, float]:
    """Width and height in inches; each pixel is a whole number of the PNG's dots unless that makes the map small."""
    scale = min(most_wide / shape[1], most_tall / shape[0])
    dots = scale * DPI
    if math.floor(dots) >= 0.85 * dots:
        scale = math.floor(dots) / DPI
    return scale * shape[1], scale * shape[0]


def _on_dot(length: float) -> float:
    return math.ceil(length * DPI) / DPI


def _thinned(values: np.ndarray) -> np.ndarray:
    thin = -(-max(values.shape) // LONGEST_SIDE)
    return np.array(values[::thin, ::thin])


def _save_map(path, image, shape, entries, title, pixel_size, other_titles=()) -> None:
    height, width = shape
    with sheet(path) as figure:
        sizes = legend_sizes(figure, entries)
        page = PAGE if width > 2 * height else COLUMN
        title, *others = (wrapped(each, page) for each in (title, *other_titles))
        n_lines = 1 + max(each.count("\n") for each in (title, *others))
        head = _on_dot(0.15 * CM + 1.25 * TITLE / 72 * n_lines)
        n_columns, place = place_map(shape, head, sizes)
        figure.set_size_inches(place.width, place.height)
        figure.text(0.5, 1 - 0.1 * CM / place.height, title, ha="center", va="top", fontsize=TITLE)
        left, top, wide, tall = place.map_box
        axes = figure.add_axes(
            (left / place.width, 1 - (top + tall) / place.height, wide / place.width, tall / place.height)
        )
        _show(axes, image, shape)
        _draw_scale(axes, figure, width, pixel_size)
        legend = add_legend(figure, entries, n_columns)
        legend.set_bbox_to_anchor((place.legend[0] / place.width, 1 - place.legend[1] / place.height))


def _show(axes, image: np.ndarray, shape: tuple[int, int]) -> None:
    """Show pixels as cells: PDF viewers blur what they enlarge, so each pixel is embedded several times."""
    times = max(1, math.isqrt(RASTER // (image.shape[0] * image.shape[1])))
    image = image.repeat(min(times, 8), 0).repeat(min(times, 8), 1)
    axes.imshow(image, interpolation="none", extent=(0, shape[1], shape[0], 0), aspect="auto")
    axes.set_axis_off()


def _draw_scale(axes, figure: Figure, width: int, pixel_size: float | None) -> None:
    """Draw a bar with its length in words below the left corner of the map."""
    length, words = scale_bar(width, pixel_size)
    below = ScaledTranslation(0, -0.2 * CM, figure.dpi_scale_trans)
    where = blended_transform_factory(axes.transData, axes.transAxes) + below
    line = {"color": "black", "transform": where, "clip_on": False, "solid_capstyle": "butt"}
    axes.plot([0, length], [0, 0], linewidth=1.5, **line)
    axes.annotate(words, (length, 0), (3, 0), where, textcoords="offset points", va="center", fontsize=SMALL)
    axes.set_xlim(0, width)
