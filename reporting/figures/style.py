"""Common to all figures for print: sizes, style, and their two files, PNG and PDF. Nothing opens on screen."""

import functools
import io
import logging
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from utils import write_atomically

log = logging.getLogger("mim")
DPI = 300  # of the PNG
CM = 1 / 2.54
COLUMN, PAGE = 9 * CM, 18 * CM  # inches: the width of a journal's column, and of both
TITLE, TEXT, SMALL = 8.0, 7.0, 6.0  # font sizes, points
COLUMN_SPACING, LABEL_SPACING = 1.2, 0.35  # of a legend, in font sizes
LABEL_LENGTH = 34  # characters of a class's name in one line
# Colours of Okabe and Ito, which the colour-blind can distinguish.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLE = {
    "pdf.fonttype": 42,  # TrueType: the text stays text
    "text.parse_math": False,  # a dollar sign in a name is not mathematics
    "font.size": TEXT,
    "axes.titlesize": TITLE,
    "figure.titlesize": TITLE,
    "legend.fontsize": TEXT,
    "legend.title_fontsize": TEXT,
    "legend.frameon": False,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "figure.labelsize": TEXT,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.labelpad": 2.0,
    "axes.titlepad": 4.0,
    "lines.linewidth": 1.0,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
}


@contextmanager
def sheet(
    path: Path, width: float = COLUMN, height: float = COLUMN, layout: Literal["constrained"] | None = None
) -> Iterator[Figure]:
    """Give an empty figure in the common style; if the block ends without an error, write it as PNG and PDF.

    The files depend on the drawing alone: the same drawing gives the same bytes.

    Args:
        path: of the files, without the endings .png and .pdf; each is written whole or not at all.
        width, height: inches.
        layout: of `matplotlib.figure.Figure`; None if everything is placed by hand.
    """
    with style.context(["default", STYLE]), _one_line_for_missing_glyphs():
        figure = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        contents = {}
        for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix[1:], dpi=DPI, metadata=metadata)
            contents[suffix] = buffer.getvalue()
            if layout is not None:
                figure.set_layout_engine("none")  # the PNG has placed everything
    for suffix, content in contents.items():
        write_atomically(path.with_name(path.name + suffix), content)


@contextmanager
def _one_line_for_missing_glyphs() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    if any("missing from font" in str(each.message) for each in caught):
        _note_once("the font of the pictures lacks some characters of the names and draws boxes; report.html has them")


@functools.cache
def _note_once(sentence: str) -> None:
    log.info("note: %s", sentence)


def class_label(index: int, name: str) -> str:
    """Name a class in a legend: its label, 1..K for the 0-based index, and its name, wrapped if it is long."""
    return textwrap.fill(f"{index + 1} {name}", LABEL_LENGTH, subsequent_indent="   ")


def wrapped(title: str, width: float) -> str:
    """Break a title into lines that fit into `width` inches."""
    return textwrap.fill(title, max(10, int(width / (0.0087 * TITLE))))


def add_legend(figure: Figure, entries: list, n_columns: int) -> Legend:
    """Add a legend to a figure; `set_bbox_to_anchor` places its upper left corner."""
    return figure.legend(
        handles=entries,
        ncols=n_columns,
        loc="upper left",
        borderaxespad=0,
        borderpad=0,
        handlelength=1.1,
        handleheight=1.1,
        handletextpad=0.5,
        columnspacing=COLUMN_SPACING,
        labelspacing=LABEL_SPACING,
    )


def legend_sizes(figure: Figure, entries: list) -> dict[int, tuple[float, float]]:
    """Return the width and height, inches, of a legend by its number of columns, 1 to 6."""
    legend = add_legend(figure, entries, 1)
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    extents = [text.get_window_extent(renderer) for text in legend.get_texts()]
    widths, heights = (np.array([getattr(e, side) for e in extents]) / figure.dpi for side in ("width", "height"))
    whole = legend.get_window_extent(renderer)
    legend.remove()
    handle = whole.width / figure.dpi - widths.max()
    column_gap, row_gap = (spacing * TEXT / 72 for spacing in (COLUMN_SPACING, LABEL_SPACING))
    heights *= (whole.height / figure.dpi - (len(entries) - 1) * row_gap) / heights.sum()
    sizes = {}
    for n_columns in range(1, min(len(entries), 6) + 1):
        columns = np.array_split(np.arange(len(entries)), n_columns)  # as the legend distributes them
        width = sum(handle + widths[column].max() for column in columns) + (n_columns - 1) * column_gap
        sizes[n_columns] = width, max(heights[column].sum() + (len(column) - 1) * row_gap for column in columns)
    return sizes


def plain_axes(axes) -> None:
    """Remove the upper and the right line of a plot."""
    axes.spines[["top", "right"]].set_visible(False)
