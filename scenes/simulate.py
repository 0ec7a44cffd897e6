"""Simulate a hyperspectral scene: farmland with a river, roads, a few villages and greenhouses.

The map is drawn on a grid finer than the pixels, so that pixels at borders are mixtures. Each class is a recipe over a
few building blocks (fresh leaf, straw, soil, ...), and what varies within a class is the recipe: from parcel to parcel,
smoothly over the land, and from pixel to pixel. Light, haze and sensor noise come last.
"""

from numbers import Integral

import numpy as np
from scipy import fft, ndimage

SUB = 3  # sub-pixels per pixel and axis
# Mean fraction of each building block in the first ten classes; what is missing to 1 is shade.
RECIPES = np.array(
    [  # leaf canopy straw petals soil tile bitumen water plastic
        [0.00, 0.00, 0.00, 0.00, 0.03, 0.00, 0.00, 0.95, 0.00],  # 1 water
        [0.50, 0.12, 0.16, 0.02, 0.12, 0.00, 0.00, 0.00, 0.00],  # 2 meadow
        [0.40, 0.08, 0.30, 0.00, 0.16, 0.00, 0.00, 0.00, 0.00],  # 3 wheat
        [0.38, 0.26, 0.08, 0.00, 0.22, 0.00, 0.00, 0.00, 0.00],  # 4 maize
        [0.42, 0.10, 0.08, 0.18, 0.14, 0.00, 0.00, 0.00, 0.00],  # 5 rapeseed
        [0.22, 0.42, 0.06, 0.00, 0.08, 0.00, 0.00, 0.00, 0.00],  # 6 woodland
        [0.08, 0.00, 0.20, 0.00, 0.64, 0.02, 0.04, 0.00, 0.00],  # 7 bare soil
        [0.03, 0.00, 0.06, 0.00, 0.26, 0.04, 0.56, 0.00, 0.00],  # 8 asphalt
        [0.05, 0.02, 0.02, 0.00, 0.14, 0.46, 0.22, 0.00, 0.00],  # 9 roof tiles
        [0.26, 0.06, 0.06, 0.00, 0.12, 0.00, 0.06, 0.00, 0.38],  # 10 greenhouse
    ]
)


def simulate(seed=0, *, shape=(128, 128, 64), n_classes=10):
    """Make a scene that is the same, bit for bit, for the same arguments.

    Args:
        seed: whole number >= 0.
        shape: (H, W, n_bands), H and W >= 16 pixels, n_bands >= 8, evenly spaced over 400-2500 nm.
        n_classes: 2 to 20. Class 1 is water, the last ones are roads and small objects, the others cover the land.
    Returns:
        cube, (H, W, n_bands) uint16 sensor counts, >= 1; gt, (H, W) uint8, 0 = unlabelled, 1..n_classes.
    Raises:
        ValueError: seed, shape or n_classes is not made of whole numbers, or out of range.
    """
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, not {seed!r}")
    whole = np.ndim(shape) == 1 and len(shape) == 3 and all(isinstance(n, Integral) for n in shape)
    if not whole or min(shape[:2]) < 16 or shape[2] < 8:
        raise ValueError(f"shape must be (H, W, n_bands) with H, W >= 16 and n_bands >= 8, not {shape!r}")
    if not isinstance(n_classes, Integral) or not 2 <= n_classes <= 20:
        raise ValueError(f"n_classes must be a whole number from 2 to 20, not {n_classes!r}")
    rng = np.random.default_rng(seed)
    land = np.arange(1, n_classes - min(3, (n_classes - 1) // 2))  # 0-based: not water, roads, houses, greenhouses
    labels, parcels, surveyed = _draw_land(shape[0], shape[1], n_classes, land, rng)
    _add_plots(labels, parcels, surveyed, n_classes, land, rng)
    # What a pixel sees: the land under it and, through the optics, a little of its neighbours.
    abundance = np.stack(
        [ndimage.gaussian_filter((labels == k).astype(np.float32), 0.5 * SUB)[1::SUB, 1::SUB] for k in range(n_classes)]
    )  # (K, H, W), sums to 1 in every pixel
    gt = _label(abundance, surveyed[1::SUB, 1::SUB])
    return _sense(_mix(abundance, land, parcels[1::SUB, 1::SUB], rng), shape[2], rng), gt


def _field(shape, sigma, rng):
    """Draw a random field (H, W) of zero mean and unit deviation, correlated over about `sigma` cells."""
    spectrum = ndimage.fourier_gaussian(fft.rfft2(rng.standard_normal(shape)), sigma, n=shape[1])
    field = np.asarray(fft.irfft2(spectrum, s=shape))
    return (field - field.mean()) / field.std()


def _cut(cells, y, x, area, rng):
    """Cut cells, each an array of flat indices, across their longer axis until none is larger than about `area`."""
    done, todo = [], list(cells)
    while todo:
        cell = todo.pop()
        if len(cell) <= area * rng.uniform(0.6, 1.6):
            done.append(cell)
            continue
        dy, dx = y[cell] - y[cell].mean(), x[cell] - x[cell].mean()
        angle = 0.5 * np.arctan2(2 * (dy * dx).sum(), (dx * dx).sum() - (dy * dy).sum()) + rng.normal(0, 0.15)
        along = np.cos(angle) * dx + np.sin(angle) * dy
        side = along < np.quantile(along, rng.uniform(0.35, 0.65))
        todo += [cell[side], cell[~side]]
    return done


def _number(cells, shape):
    """Return the map (H, W) of the number of the cell that each place lies in."""
    numbers = np.empty(shape[0] * shape[1], np.int64)
    for number, cell in enumerate(cells):
        numbers[cell] = number
    return numbers.reshape(shape)


def _draw_land(height, width, n_classes, land, rng):
    """Draw fields, groves, a river and roads; return 0-based classes, parcel numbers, surveyed or not, by sub-pixel."""
    shape = (height * SUB, width * SUB)
    scale = np.sqrt(height * width)  # pixels
    y, x = np.indices(shape, dtype=np.float64)
    columns = x
    # Parcels are polygons in coordinates bent a little, which makes their borders irregular.
    for sigma, bend in ((0.12 * scale * SUB, 0.03 * scale * SUB), (2.0 * SUB, 0.4 * SUB)):
        y = y + bend * _field(shape, sigma, rng)
        x = x + bend * _field(shape, sigma, rng)
    area = 2.7 * scale * SUB**2
    districts = _cut([np.arange(y.size)], y.ravel(), x.ravel(), 7 * area, rng)
    cells = _cut(districts, y.ravel(), x.ravel(), area, rng)
    parcels = _number(cells, shape)
    crops = np.concatenate([rng.permutation(land) for _ in range(len(cells) // len(land) + 1)])
    labels = crops[parcels]

    labels[_field(shape, 4.0 * SUB, rng) > 1.8] = wood = land[min(4, len(land) - 1)]
    course = shape[1] * rng.uniform(0.3, 0.7) + 0.1 * min(shape) * _field((shape[0], 1), 0.12 * shape[0], rng)
    to_river = np.abs(columns - course)
    half = SUB * (0.5 + 0.018 * scale) * (1 + 0.2 * _field(shape, 6.0 * SUB, rng))
    labels[to_river < half * (1.4 + 0.5 * _field(shape, 4.0 * SUB, rng))] = wood  # trees along the water
    labels[to_river < half] = 0
    if land[-1] + 1 < n_classes:  # the class of the roads, which run between the districts
        numbers, reach = _number(districts, shape), 2 * SUB + 3
        labels[ndimage.maximum_filter(numbers, reach) != ndimage.minimum_filter(numbers, reach)] = land[-1] + 1

    visited = rng.random(len(cells)) > 0.15
    visited[: len(land)] = True
    return labels, parcels, visited[parcels] | ~np.isin(labels, land)


def _add_plots(labels, parcels, surveyed, n_classes, land, rng):
    """Add houses along the roads and greenhouses in the fields, each a surveyed parcel, in place.

    A class too small to be found again, as happens in a small scene, gets some plots too.
    """
    shape, scale = labels.shape, np.sqrt(labels.size) / SUB
    to_road = np.asarray(ndimage.distance_transform_edt(labels != land[-1] + 1)) / SUB
    village, farm, lie = (_field(shape, extent * scale * SUB, rng) for extent in (0.06, 0.06, 0.2))
    # For each class: where plots may be, their mean width and length in pixels, and the wanted fraction of the scene.
    plots = [(np.ones(shape, bool), 4, 4, 0.0)] * (land[-1] + 2)
    by_road = (to_road > 2) & (to_road < 9)
    plots += [(by_road & (village > 0.8), 3.5, 5, 0.01), ((to_road > 5) & (farm > 1), 4, 9, 0.012)]
    counts = np.bincount(labels.ravel(), minlength=n_classes)
    least = min(60, labels.size / SUB**2 / (2.5 * n_classes)) * SUB**2
    number = parcels.max()
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for k, (where, *sides, fraction) in enumerate(plots[:n_classes]):
        sites = np.flatnonzero(where) if where.any() else np.arange(where.size)
        for site in rng.permutation(sites)[:2000]:
            if counts[k] >= max(least, fraction * labels.size):
                break
            row, column = divmod(int(site), shape[1])
            half_width, half_length = np.minimum(sides, 0.25 * scale) * rng.uniform(0.7, 1.3, 2) * SUB / 2
            reach = int(half_width + half_length)
            window = np.s_[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
            # Turned to lie along the real axis; neighbours lie nearly parallel.
            place = (columns[:, window[1]] - column + 1j * (rows[window[0]] - row)) * np.exp(-0.7j * lie[row, column])
            donor = np.isin(np.arange(n_classes), land) & (counts > 1.3 * least)  # small classes give no land
            plot = (np.abs(place.real) <= half_length) & (np.abs(place.imag) <= half_width) & donor[labels[window]]
            counts -= np.bincount(labels[window][plot], minlength=n_classes)
            counts[k] += plot.sum()
            number += 1
            labels[window][plot], parcels[window][plot], surveyed[window][plot] = k, number, True


def _label(abundance, surveyed):
    """Return the ground truth (H, W) uint8: the class that covers most of a pixel, 0 where unclear or not surveyed."""
    gt = np.where(surveyed & (abundance.max(axis=0) > 0.65), abundance.argmax(axis=0) + 1, 0).astype(np.uint8)
    for k, cover in enumerate(abundance):
        if (gt == k + 1).sum() < 4:  # in a tiny scene; no class may be lost
            gt.flat[np.argsort(cover, axis=None)[-4:]] = k + 1
    return gt


def _mix(abundance, land, parcels, rng):
    """Mix the building blocks of every pixel, (n_blocks, H, W) float64: the recipes of what it holds, and variation."""
    n_classes, *shape = abundance.shape
    others = 0.9 * rng.dirichlet(np.full(RECIPES.shape[1], 0.6), 10)
    recipes = np.vstack([np.vstack([RECIPES[:7], others])[: land[-1] + 1], RECIPES[7:]])[:n_classes]
    mixture = np.einsum("khw,kb->bhw", abundance, recipes)  # einsum: a sum in fixed order, whatever the threads
    for fraction in mixture:
        by_parcel = rng.standard_normal(parcels.max() + 1)[parcels]
        variation = 0.4 * by_parcel + 0.4 * _field(shape, 5.0, rng) + 0.9 * rng.standard_normal(shape)
        # As when plants are counted, the deviation goes with the root of the mean; a little of all grows everywhere.
        fraction += 0.14 * np.sqrt(fraction + 0.02 * (abundance[0] < 0.5)) * variation
    return np.clip(mixture, 0, None, out=mixture)


def _dips(wavelength, *dips):
    """Return the transmission (n_bands,) that absorptions leave, each a (depth, centre, width) in micrometres."""
    return np.prod([1 - depth * np.exp(-0.5 * ((wavelength - at) / width) ** 2) for depth, at, width in dips], axis=0)


def _spectra(wavelength):
    """Return the reflectance of the building blocks, (n_blocks, n_bands), at wavelengths in micrometres."""

    def rise(centre, width):
        return 1 / (1 + np.exp((centre - wavelength) / width))

    def moist(depth):
        bands = (0.15 * depth, 0.97, 0.04), (0.25 * depth, 1.2, 0.05), (depth, 1.45, 0.08), (1.1 * depth, 1.94, 0.1)
        return _dips(wavelength, *bands) * (1 - 0.6 * depth * rise(2.3, 0.15))

    green = 1 - _dips(wavelength, (1, 0.55, 0.035))
    mineral = 1 - np.exp((0.35 - wavelength) / 0.6)
    leaf = (0.05 + 0.06 * green + 0.47 * rise(0.715, 0.015)) * moist(0.6)
    canopy = (0.03 + 0.025 * green + 0.40 * rise(0.725, 0.018)) * moist(0.8)
    straw = (
        (0.08 + 0.42 * mineral) * _dips(wavelength, (0.1, 0.67, 0.04), (0.2, 2.1, 0.06), (0.2, 2.32, 0.05)) * moist(0.2)
    )
    petals = (0.04 + 0.45 * rise(0.52, 0.015)) * moist(0.5)
    soil = (0.06 + 0.38 * mineral) * _dips(wavelength, (0.1, 0.9, 0.1), (0.2, 2.2, 0.04)) * moist(0.25)
    tile = (0.06 + 0.34 * rise(0.59, 0.025)) * _dips(wavelength, (0.15, 0.88, 0.08), (0.1, 2.2, 0.04))
    bitumen = (0.08 + 0.08 * mineral) * _dips(wavelength, (0.15, 2.31, 0.05))
    water = 0.01 + 0.09 * np.exp(-0.5 * ((wavelength - 0.5) / 0.12) ** 2)
    plastic = (0.62 - 0.1 * wavelength) * _dips(wavelength, (0.2, 1.21, 0.03), (0.4, 1.73, 0.04), (0.45, 2.31, 0.05))
    return np.stack([leaf, canopy, straw, petals, soil, tile, bitumen, water, plastic])


def _sense(mixture, n_bands, rng):
    """Light the land and record it: counts, (H, W, n_bands) uint16."""
    shape = mixture.shape[1:]
    wavelength = np.linspace(0.4, 2.5, n_bands)
    sun = wavelength**-5 / np.expm1(2.48 / wavelength)  # a black body of 5800 K
    air = _dips(wavelength, (0.3, 0.94, 0.02), (0.4, 1.13, 0.03), (0.9, 1.4, 0.04), (0.95, 1.88, 0.05))
    gain = 9000 * sun / sun.max() * air  # counts per unit of reflectance
    spectra = _spectra(wavelength)

    heading = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(heading) * np.linspace(-1, 1, shape[0])[:, None] + np.sin(heading) * np.linspace(-1, 1, shape[1])
    light = 1 + 0.12 * ramp + 0.06 * _field(shape, 0.08 * max(shape), rng)
    light *= 1 + (0.03 + 0.5 * mixture[1]) * _field(shape, 0.6, rng)  # crowns of trees throw shadows
    light = np.maximum(light, 0.2)
    haze = 0.01 * (1 + 0.3 * _field(shape, 0.2 * max(shape), rng))

    cube = np.empty((*shape, n_bands), np.uint16)
    for band in range(n_bands):
        reflected = light * sum(block * part for block, part in zip(spectra[:, band], mixture, strict=True))
        counts = gain[band] * (reflected + haze * (0.5 / wavelength[band]) ** 3)
        stripes = 1 + 0.005 * rng.standard_normal(shape[1])  # one detector per column
        counts = 100 + stripes * counts + np.sqrt(15**2 + 1.2 * counts) * rng.standard_normal(shape)
        cube[..., band] = np.clip(np.rint(counts), 1, 65535)
    return cube
