"""Arrays as pictures: class colours and false colour."""

import numpy as np
import pytest

from reporting.colours import colour_map, false_colour

PALETTE = ("#1f77b4", "#e13c2d", "#0f960f")
RGB = {0: (0, 0, 0), 1: (0x1F, 0x77, 0xB4), 2: (0xE1, 0x3C, 0x2D), 3: (0x0F, 0x96, 0x0F)}


def test_a_label_map_has_exactly_its_classes_colours():
    labels = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    expected = np.array([[RGB[0], RGB[1]], [RGB[2], RGB[3]]])
    image = colour_map(labels, PALETTE)
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == np.uint8
    greys = colour_map(np.arange(256)[None], tuple(f"#{value:02x}{value:02x}{value:02x}" for value in range(1, 256)))
    np.testing.assert_array_equal(greys[0, :, 1], np.arange(256))


def test_a_false_colour_picture_stretches_each_band_and_bears_a_constant_one():
    ramp = np.linspace(100, 300, 10_000, dtype=np.float32).reshape(100, 100)
    cube = np.stack([ramp, np.full_like(ramp, 7), 1000 - ramp], axis=-1)
    image = false_colour(cube, (2, 0, 1))
    assert image.shape == (100, 100, 3)
    assert image.dtype == np.uint8
    assert (image[0, 0].tolist(), image[-1, -1].tolist()) == ([255, 0, 0], [0, 255, 0])
    assert abs(int(image[50, 0, 1]) - 128) <= 1
    assert (image[..., 1] == 0).mean() == pytest.approx(0.02, abs=0.005)
