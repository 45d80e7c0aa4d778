"""Units of length in the spellings that files use."""

from __future__ import annotations

import math

import pytest

from stem_complete.data.formats.pixel_size import nanometres, square


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (2, "nm", 2),
        (2, "n_m", 2),
        (2, "[n_m]", 2),
        ("0.5", b"nm", 0.5),
        (2, "µm", 2e3),
        (2, "\u03bcm", 2e3),
        (2, "\\u00B5m", 2e3),
        (2, "um", 2e3),
        (2, "micron", 2e3),
        (2, "Å", 0.2),
        (2, "\u212b", 0.2),
        (2, "Angstrom", 0.2),
        (2, "pm", 2e-3),
        (3e-10, "m", 0.3),
    ],
)
def test_converts_lengths(value: object, unit: object, expected: float) -> None:
    assert nanometres(value, unit) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (1, "px"),
        (1, ""),
        (1, None),
        (1, "1/nm"),
        (0, "nm"),
        (-1, "nm"),
        (math.nan, "nm"),
        (math.inf, "nm"),
        (None, "nm"),
        ("wide", "nm"),
    ],
)
def test_what_is_no_length_has_none(value: object, unit: object) -> None:
    assert nanometres(value, unit) is None


def test_only_square_pixels_have_one_side() -> None:
    assert square(0.1, 0.1005) == 0.1005
    assert square(0.1, 0.12) is None
    assert square(None, 0.1) is None


@pytest.mark.parametrize("size_nm", [2e16, 1e3, 352_777.8, 5e-5])
def test_what_no_electron_micrograph_has_is_unknown(size_nm: float) -> None:
    """Metres for inverse metres, 72 dpi, metres for nanometres."""
    assert square(size_nm, size_nm) is None
