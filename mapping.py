"""Map a whole scene with a trained network."""

from collections.abc import Callable

import numpy as np
import torch

import engine
from models import PatchClassifier


def map_scene(
    model: PatchClassifier,
    cube: torch.Tensor,
    *,
    stride: int = 1,
    border: str = "mirror",
    also: np.ndarray | None = None,
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Predict the label map of a scene.

    Args:
        model: the network; left as it was found.
        cube: normalised scene, (H, W, n_bands), on the network's device.
        stride: predict every stride-th row and column; the rest takes the label of the nearest predicted of these.
        border: "mirror", or "skip" to leave the pixels 0 whose window would cross the scene's edge.
        also: (H, W) bool, pixels to predict whatever the stride.
        precision: a key of `engine.PRECISIONS`.
        progress: called with the number of pixels just predicted and the number of all.
    Returns:
        (H, W) uint8, or uint16 from 256 classes on; 1..K.
    """
    height, width, _ = cube.shape
    inside = np.ones((height, width), dtype=bool)
    if border == "skip":
        margin = model.patch_size // 2
        inside[:] = False
        inside[margin : height - margin, margin : width - margin] = True
    rows, columns = (_strided(np.flatnonzero(inside.any(axis)), stride) for axis in (1, 0))
    wanted = np.zeros_like(inside) if also is None else also & inside
    wanted[np.ix_(rows, columns)] = True
    pixels = torch.from_numpy(np.argwhere(wanted))
    report = None if progress is None else lambda n: progress(n, len(pixels))
    labels = np.zeros((height, width), dtype=np.uint8 if model.n_classes < 256 else np.uint16)
    labels[wanted] = engine.predict(model, cube, pixels=pixels, precision=precision, progress=report).numpy()
    nearest = np.ix_(_nearest(rows, height), _nearest(columns, width))
    return np.where(wanted | ~inside, labels, labels[nearest])


def _strided(indices: np.ndarray, stride: int) -> np.ndarray:
    """Every stride-th index, begun so that the gaps at both ends are alike."""
    return indices[(len(indices) - 1) % stride // 2 :: stride]


def _nearest(chosen: np.ndarray, size: int) -> np.ndarray:
    """For every index below size the nearest of the chosen."""
    return chosen[np.abs(np.arange(size)[:, None] - chosen).argmin(1)]
