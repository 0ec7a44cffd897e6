"""Figures of a network's activations: features, scan orders and weights, decay masks, token attention."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reporting.figures.style import CM, COLUMN, OKABE_ITO, PAGE, SMALL, class_label, plain_axes, sheet, wrapped

MARKERS = "osD^v<>P"  # to distinguish classes of similar colours
SCAN_NAMES = {
    1: "1: rows from the top left",
    2: "2: columns from the top left",
    3: "3: rows from the top right",
    4: "4: columns from the bottom left",
}
TALLEST = 22 * CM


def save_features(
    path: Path,
    places: np.ndarray,
    targets: np.ndarray,
    class_names: tuple[str, ...],
    palette: tuple[str, ...],
    perplexity: float,
    title: str,
) -> None:
    """Draw features embedded in the plane, a mark per pixel in its class's colour.

    Args:
        path: see `figures.sheet`.
        places: (n, 2).
        targets: (n,) classes 0..K-1.
        class_names, palette: K each.
        perplexity: of the t-SNE.
        title: above the drawing.
    """
    present = np.unique(targets).tolist()
    rows = -(-len(present) // 2)
    with sheet(path, COLUMN, COLUMN + (0.36 * rows + 0.9) * CM, "constrained") as figure:
        figure.suptitle(wrapped(f"{title}, t-SNE of {len(places):,} test pixels, perplexity {perplexity:g}", COLUMN))
        axes = figure.add_subplot()
        for k in present:
            of_class = places[targets == k]
            marks = {"color": palette[k], "marker": MARKERS[k % len(MARKERS)], "markersize": 2.2, "linestyle": ""}
            axes.plot(*of_class.T, markeredgewidth=0, label=class_label(k, class_names[k]), **marks)
        axes.set_xticks([])
        axes.set_yticks([])
        low, high = places.min(0), places.max(0)
        reach = 0.53 * max(high - low)
        axes.set_xlim((low + high)[0] / 2 - reach, (low + high)[0] / 2 + reach)
        axes.set_ylim((low + high)[1] / 2 - reach, (low + high)[1] / 2 + reach)
        axes.set_aspect("equal")
        figure.legend(ncols=2, loc="outside lower center", markerscale=2, handletextpad=0.2)


def save_scan_orders(path: Path, paths: dict[int, np.ndarray], halves: bool, title: str) -> None:
    """Draw scan orders as paths over the patch.

    Args:
        path: see `figures.sheet`.
        paths: (P * P, 2) rows and columns in scan order, by scan type.
        halves: whether each order is cut at its centre into two sequences that end there; else it runs both ways.
        title: above the drawing.
    """
    side = round(len(next(iter(paths.values()))) ** 0.5)
    width = COLUMN if len(paths) <= 2 else PAGE
    with sheet(path, width, width / len(paths) + 1.6 * CM, "constrained") as figure:
        figure.suptitle(wrapped(f"{title}: scan orders", width))
        for axes, (scan_type, scan_path) in zip(np.ravel(figure.subplots(1, len(paths))), paths.items(), strict=True):
            middle = len(scan_path) // 2
            legs = (scan_path[: middle + 1], scan_path[middle:][::-1]) if halves else (scan_path,)
            for leg, colour in zip(legs, OKABE_ITO, strict=False):
                (rows, columns), (down, right) = leg[:-1].T, np.diff(leg, axis=0).T
                axes.quiver(
                    columns, rows, right, down, color=colour, angles="xy", scale_units="xy", scale=1, **_arrow(side)
                )
                axes.plot(leg[0, 1], leg[0, 0], "o", color=colour, markersize=3.5)
            axes.plot(scan_path[middle, 1], scan_path[middle, 0], "*", color="black", markersize=6)
            _grid(axes, side)
            axes.set_title(SCAN_NAMES[scan_type], fontsize=SMALL)
        names = ("first half", "second half") if halves else ("the whole order, also run backwards",)
        entries = [Line2D([], [], color=c, label=name) for name, c in zip(names, OKABE_ITO, strict=False)]
        entries += [
            Line2D([], [], color="#7f7f7f", marker="o", markersize=3.5, linestyle="", label="start"),
            Line2D([], [], color="black", marker="*", markersize=6, linestyle="", label="centre"),
        ]
        figure.legend(handles=entries, ncols=4 if width == PAGE else 2, loc="outside lower center")


def save_scan_weights(path: Path, blocks: Sequence, scan_types: tuple[int, ...], title: str) -> None:
    """Draw the learned weights of the scan types, block by block (see `interpret.BlockActivations`)."""
    shown = [block for block in blocks if block.scan_weights is not None]
    width = COLUMN if len(shown) <= 5 else PAGE
    with sheet(path, width, 6.5 * CM, "constrained") as figure:
        axes = figure.add_subplot()
        axes.set_title(wrapped(f"{title}: weights of the scan types", width))
        thick = 0.8 / len(scan_types)
        for i, scan_type in enumerate(scan_types):
            places = np.arange(len(shown)) + (i + 0.5) * thick - 0.4
            heights = [block.scan_weights[i] for block in shown]
            axes.bar(places, heights, 0.9 * thick, color=OKABE_ITO[i], label=SCAN_NAMES[scan_type])
        axes.axhline(1 / len(scan_types), color="black", linewidth=0.6, linestyle=":", label="all equal")
        axes.set_xticks(range(len(shown)), [block.name.replace(", ", "\n") for block in shown])
        axes.set_ylabel("weight, softmax(k)")
        figure.legend(ncols=2, loc="outside lower center", fontsize=SMALL)
        plain_axes(axes)


def save_decay(path: Path, blocks: Sequence, scan_types: tuple[int, ...], title: str) -> None:
    """Draw the decay masks along the sequence and on the grid, a row per block (see `interpret.BlockActivations`)."""
    shown = [block for block in blocks if block.decay is not None]
    tall = min(3.6 * CM, TALLEST / len(shown))
    with sheet(path, PAGE, tall * len(shown) + 2.4 * CM, "constrained") as figure:
        figure.suptitle(wrapped(f"{title}: Gaussian decay masks", PAGE))
        rows = figure.subplots(
            len(shown), 1 + len(scan_types), squeeze=False, width_ratios=(1.5, *[1] * len(scan_types))
        )
        for (curve, *grids), block in zip(rows, shown, strict=True):
            steps = np.arange(len(block.index_factor)) - block.centre
            curve.plot(steps, block.decay_curve, color=OKABE_ITO[0], label="mask, mean")
            curve.plot(steps, block.index_factor, color="black", linestyle="--", linewidth=0.8, label="index factor")
            curve.set_ylim(0, 1.05)
            curve.set_ylabel(block.name.replace(", ", "\n"))
            curve.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            plain_axes(curve)
            for axes, mask in zip(grids, block.decay, strict=True):
                axes.imshow(mask, vmin=0, vmax=1, cmap="viridis", interpolation="none")
                axes.plot(*[len(mask) // 2] * 2, "*", color="#d62728", markersize=4)
                axes.set_xticks([])
                axes.set_yticks([])
        rows[-1, 0].set_xlabel("tokens from the centre")
        rows[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=SMALL)
        for axes, scan_type in zip(rows[0, 1:], scan_types, strict=True):
            axes.set_title(SCAN_NAMES[scan_type].replace(" from", "\nfrom"), fontsize=SMALL)
        bar = figure.colorbar(rows[0, 1].images[0], ax=rows, location="bottom", fraction=0.03, aspect=50, shrink=0.6)
        bar.set_label("weight; the centre, which is marked, has 1")


def save_attention(path: Path, blocks: Sequence, weights: np.ndarray, title: str) -> None:
    """Draw the attention of each learned token to the positions, a mosaic per block with a tile per token.

    Args:
        path: see `figures.sheet`.
        blocks: see `interpret.BlockActivations`.
        weights: of the classes, (K,), with sum 1.
        title: above the drawing.
    """
    shown = [block for block in blocks if block.attention is not None]
    n_columns = min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    width = PAGE if n_columns > 1 else COLUMN
    tall = min(width / n_columns + 0.9 * CM, TALLEST / n_rows)
    with sheet(path, width, n_rows * tall + 1.2 * CM, "constrained") as figure:
        figure.suptitle(wrapped(f"{title}: attention of each token to the positions", width))
        places = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes in places[len(shown) :]:
            axes.set_axis_off()
        for axes, block in zip(places, shown, strict=False):
            mean = np.nansum(block.attention * weights.reshape(-1, 1, 1, 1), 0)  # (S, grid, grid)
            image = axes.imshow(_mosaic(mean * mean[0].size), vmin=0, cmap="viridis", interpolation="none")
            axes.set_title(f"{block.name}: {len(mean)} token{'s' * (len(mean) > 1)}", fontsize=SMALL)
            axes.set_axis_off()
            bar = figure.colorbar(image, ax=axes, location="bottom", fraction=0.05, pad=0.02, aspect=30)
            bar.set_label("attention, in multiples of a uniform one", fontsize=SMALL)


def save_attention_by_class(path: Path, blocks: Sequence, class_names: tuple[str, ...], title: str) -> None:
    """Draw the attention to the positions for the patches of each class, the mean of all tokens, a row per block."""
    shown = [block for block in blocks if block.attention is not None]
    present = np.flatnonzero(np.isfinite(shown[0].attention).all((1, 2, 3))).tolist()
    cell = min(1.6 * CM, (PAGE - 4 * CM) / len(present))
    width = max(COLUMN, len(present) * cell + 4 * CM)
    names = [class_label(k, class_names[k]) for k in present]
    deep = 0.13 * CM * max(len(line) for name in names for line in name.split("\n"))
    with sheet(path, width, cell * len(shown) * 1.05 + deep + 1 * CM, "constrained") as figure:
        figure.suptitle(wrapped(f"{title}: attention to the positions, in multiples of a uniform one", width))
        rows = figure.subplots(len(shown), len(present), squeeze=False)
        for line, block in zip(rows, shown, strict=True):
            means = block.attention[present].mean(1)  # (classes, grid, grid)
            means = means * means[0].size
            low, high = means.min(), means.max()
            for axes, mean in zip(line, means, strict=True):
                axes.imshow(mean, vmin=low, vmax=high, cmap="viridis", interpolation="none")
                axes.set_xticks([])
                axes.set_yticks([])
            words = {"rotation": 0, "ha": "right", "va": "center", "fontsize": SMALL}
            line[0].set_ylabel(block.name.replace(", ", "\n"), **words)
            figure.colorbar(line[0].images[0], ax=list(line), fraction=0.05, pad=0.01, aspect=8).ax.tick_params(
                labelsize=5
            )
        for axes, name in zip(rows[-1], names, strict=True):
            axes.set_xlabel(name, rotation=90, fontsize=SMALL)


def _mosaic(tiles: np.ndarray) -> np.ndarray:
    """(S, grid, grid) tiles side by side, row by row as the tokens stand in their grid, one empty line between two."""
    n_tiles, grid, _ = tiles.shape
    side = round(n_tiles**0.5)
    step = grid + 1
    image = np.full((side * step - 1, side * step - 1), np.nan)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, side)
        image[row * step : row * step + grid, column * step : column * step + grid] = tile
    return image


def _arrow(side: int) -> dict:
    """Sizes of a step's arrow, in parts of the axes' width."""
    thick = 0.06 / side
    return {"width": thick, "units": "width", "headwidth": 5, "headlength": 5, "headaxislength": 4.5}


def _grid(axes, side: int) -> None:
    """The cells of a patch, the first row on top."""
    lines = np.arange(side + 1) - 0.5
    axes.hlines(lines, -0.5, side - 0.5, color="#d9d9d9", linewidth=0.4)
    axes.vlines(lines, -0.5, side - 0.5, color="#d9d9d9", linewidth=0.4)
    axes.set_xlim(-0.6, side - 0.4)
    axes.set_ylim(side - 0.4, -0.6)
    axes.set_aspect("equal")
    axes.set_axis_off()
