"""Regions of a label map, such as fields, and what the location of a pixel alone says about its class."""

import numpy as np
from scipy.ndimage import label
from scipy.spatial import KDTree

LEAF_SIZE = 16  # of the k-d tree, by which it chooses among pixels that are equally near


def find_regions(labels: np.ndarray) -> np.ndarray:
    """Number the regions of a label map: pixels of one class that are connected by edges or corners.

    Args:
        labels: (H, W), 0 = unlabelled.
    Returns:
        (H, W) int64, 1 to the number of regions; 0 where unlabelled.
    """
    regions = np.zeros(labels.shape, dtype=np.int64)
    for each in np.unique(labels[labels > 0]):
        of_class = np.zeros(labels.shape, dtype=np.int32)
        label(labels == each, structure=np.ones((3, 3)), output=of_class)
        regions[of_class > 0] = of_class[of_class > 0] + regions.max()
    return regions


def nearest_label(train: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Classify pixels by location alone: each takes the label of the nearest training pixel; no spectrum is used.

    Args:
        train: training pixels as a label map, (H, W), 0 = not a training pixel; at least one is.
        pixels: rows and columns, (n, 2).
    Returns:
        Labels, (n,). Distances are Euclidean; of several nearest pixels the first that SciPy's k-d tree finds counts.
    """
    places = np.argwhere(train > 0)
    _, nearest = KDTree(places, leafsize=LEAF_SIZE).query(pixels)
    return train[tuple(places[nearest].T)]


def location_accuracy(train: np.ndarray, test: np.ndarray) -> float:
    """Compute the overall accuracy that `nearest_label` has on the test pixels, a fraction.

    Args:
        train, test: label maps, (H, W), each with a labelled pixel.
    """
    return float((nearest_label(train, np.argwhere(test > 0)) == test[test > 0]).mean())


def in_trained_region(labelled: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[float, int, int]:
    """Compare the regions of the test pixels with those of the training pixels.

    Args:
        labelled: label map of all pixels of the split, (H, W), whose regions count.
        train, test: label maps of the training and the test pixels, (H, W).
    Returns:
        The fraction of test pixels whose region holds a training pixel; the number of regions that hold a test pixel;
        and of these, the number that hold a training pixel too.
    """
    regions = find_regions(labelled)
    tested, trained = regions[test > 0], np.unique(regions[train > 0])
    both = np.isin(np.unique(tested), trained)
    return float(np.isin(tested, trained).mean()), len(both), int(both.sum())
