"""Wavelengths: one rule for all formats, and their order where detectors overlap."""

import numpy as np
import pytest

from scenes.wavelengths import detectors, in_nanometres, in_order


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *((unit, 1) for unit in ("nm", "Nanometers", "nanometer", "NANOMETRES", "Nanometre", "nano-meters")),
        *((unit, 1000) for unit in ("um", "µm", "μm", "Micrometers", "micrometre", "Microns", "micron")),
        ("Angstroms", 0.1),
        ("millimeter", 1e6),
        ("meters", 1e9),
    ],
)
def test_units_are_known_in_any_form(unit, factor):
    values = [450.0 / factor, 900.0 / factor]
    assert in_nanometres(values, unit, "file") == pytest.approx((450, 900))


@pytest.mark.parametrize("unit", [None, "", "Unknown", "none"])
def test_without_a_unit_the_size_of_the_values_tells_it(unit, caplog):
    caplog.set_level("INFO")
    assert in_nanometres([0.45, 2.4], unit, "file") == pytest.approx((450, 2400))
    assert in_nanometres([450, 2400], unit, "file") == (450, 2400)
    assert "file does not say the unit of its wavelengths, which is taken to be um" in caplog.text


def test_micrometres_that_are_called_nanometres_are_taken_for_what_they_are(caplog):
    caplog.set_level("INFO")
    assert in_nanometres([0.45, 2.4], "Nanometers", "file") == pytest.approx((450, 2400))
    assert "all are below 100" in caplog.text


@pytest.mark.parametrize("values", [[], [450, 0], [450, -1], [450, float("nan")]])
def test_values_that_are_no_wavelengths_are_not_used(values):
    assert in_nanometres(values, "nm", "file") is None


def test_an_unknown_unit_is_named(caplog):
    caplog.set_level("INFO")
    assert in_nanometres([1, 2], "GHz", "file") is None
    assert "wavelengths in GHz are not used" in caplog.text


VNIR, SWIR = np.arange(420, 1000, 20), np.arange(902, 2400, 30)


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("vnir_first", [True, False])
def test_two_detectors_are_told_apart_and_put_in_order(falling, vnir_first):
    vnir, swir = (VNIR[::-1], SWIR[::-1]) if falling else (VNIR, SWIR)
    wavelengths = np.concatenate([vnir, swir] if vnir_first else [swir, vnir])
    found = [sorted(wavelengths[part].tolist()) for part in detectors(wavelengths.tolist())]
    assert found == [VNIR.tolist(), SWIR.tolist()]
    for overlap in ("both", "vnir", "swir"):
        kept = wavelengths[in_order(wavelengths.tolist(), overlap)]
        assert (np.diff(kept) >= 0).all()
        expected = {*VNIR.tolist(), *SWIR.tolist()}
        if overlap == "vnir":
            expected = {*VNIR.tolist(), *(value for value in SWIR.tolist() if value > VNIR.max())}
        if overlap == "swir":
            expected = {*SWIR.tolist(), *(value for value in VNIR.tolist() if value < SWIR.min())}
        assert {*kept.tolist()} == expected


def test_bands_in_order_stay_and_falling_ones_are_turned():
    assert in_order((400, 500, 600)).tolist() == [0, 1, 2]
    assert in_order((600, 500, 400)).tolist() == [2, 1, 0]
    assert len(detectors((600, 500, 400))) == 1
    assert in_order((500,)).tolist() == [0]
