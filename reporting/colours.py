"""Arrays as pictures: label maps in the colours of their classes, and false colour. NumPy only."""

from collections.abc import Sequence

import numpy as np

UNLABELLED = "#000000"  # label 0


def rgb(colour: str) -> tuple[int, int, int]:
    """Split "#rrggbb" into red, green and blue, each 0..255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def colour_table(colours: Sequence[str]) -> np.ndarray:
    """Give n colours "#rrggbb" as (n, 3) uint8, so that `table[values]` is a picture of the values."""
    return np.array([rgb(colour) for colour in colours], dtype=np.uint8)


def colour_map(labels: np.ndarray, palette: Sequence[str]) -> np.ndarray:
    """Colour a label map: (H, W) labels 0..K to (H, W, 3) uint8, 0 black."""
    return colour_table((UNLABELLED, *palette))[labels]


def false_colour(cube: np.ndarray, bands: tuple[int, int, int]) -> np.ndarray:
    """Show three bands of a cube, (H, W, n_bands) to (H, W, 3) uint8, stretched from the 2nd to the 98th percentile."""
    image = cube[:, :, list(bands)].astype(np.float64)
    low, high = np.percentile(image, (2, 98), axis=(0, 1))
    return (255 * ((image - low) / np.maximum(high - low, 1e-12)).clip(0, 1)).round().astype(np.uint8)
