"""The spectra of the classes as numbers, for the pictures of an exploration and the live view."""

import numpy as np


def class_spectra(cube: np.ndarray, labels: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and the standard deviation of the spectra of each class.

    Args:
        cube: (H, W, n_bands), in any unit.
        labels: (H, W) 1..K; 0 for pixels that are left out.
        n_classes: K.
    Returns:
        Mean and standard deviation (divided by n) of each band, both (K, n_bands) float64 in the cube's unit; NaN for
        a class without pixels.
    Raises:
        ValueError: cube and labels have different shapes, or a label is above K.
    """
    mean, std = np.full((2, n_classes, cube.shape[2]), np.nan)
    for k, pixels in enumerate(_pixels_of_classes(cube, labels, n_classes)):
        if len(pixels):
            spectra = cube[pixels[:, 0], pixels[:, 1]]
            mean[k], std[k] = spectra.mean(0, dtype=np.float64), spectra.std(0, dtype=np.float64)
    return mean, std


def random_spectra(
    cube: np.ndarray, labels: np.ndarray, n_classes: int, n_each: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw the spectra of random pixels of each class, without replacement.

    Args:
        cube, labels, n_classes: as for `class_spectra`.
        n_each: spectra of each class; of a class with fewer pixels all.
        rng: draws the pixels.
    Returns:
        K arrays (n, n_bands), n <= n_each, of the cube's type and unit.
    Raises:
        ValueError: as for `class_spectra`.
    """
    drawn = []
    for pixels in _pixels_of_classes(cube, labels, n_classes):
        chosen = pixels[rng.choice(len(pixels), min(n_each, len(pixels)), replace=False)]
        drawn.append(cube[chosen[:, 0], chosen[:, 1]])
    return drawn


def _pixels_of_classes(cube, labels, n_classes) -> list[np.ndarray]:
    """Rows and columns of each class's pixels, K arrays (n, 2)."""
    if cube.shape[:2] != labels.shape:
        raise ValueError(f"the labels are {labels.shape}, but the cube has {cube.shape[:2]} pixels")
    if labels.max(initial=0) > n_classes:
        raise ValueError(f"label {labels.max()} is above the {n_classes} classes")
    return [np.argwhere(labels == label) for label in range(1, n_classes + 1)]
