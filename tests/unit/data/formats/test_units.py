"""Units in the spellings that files use."""

from __future__ import annotations

import numpy as np
import pytest

from stem_complete.data.formats.units import Unit, parse_unit

LENGTHS: dict[float, list[object]] = {
    1e9: ["m", "meter", "Meters", "metre"],
    2.54e7: ["inch", "inches", "in", '"inch"'],
    1e7: ["cm", "centimeter"],
    1e6: ["mm", "millimetre"],
    1e3: [
        "µm",
        "\u03bcm",
        "um",
        "\\u00B5m",
        "[u_m]",
        "micron",
        "microns",
        "micrometer",
        "\\mu m",
        "$\\mu$m",
        "{\\mu}m",
        "Âµm",
        b"\xb5m",
        b"\xc2\xb5m",
        "µm/pixel",
    ],
    1.0: [
        "nm",
        " nm ",
        "[nm]",
        "(nm)",
        "n_m",
        "[n_m]",
        "NM",
        "nanometer",
        "nanometres",
        b"nm",
        "nm\0",
        np.array(["nm"]),
        np.bytes_(b"nm"),
        "nm per pixel",
        "nm px^-1",
        "nm·px⁻¹",
        "\\mathrm{nm}",
        "\\si{\\nano\\metre}",
    ],
    0.1: [
        "Å",
        "\u212b",
        "A\u030a",
        "A",
        "[A]",
        "Ang",
        "Angstrom",
        "angstroms",
        "Ångström",
        "\\AA",
        "$\\AA$",
        "\\u00C5",
        "Ã…",
        "AA",
        "Angstroem",
        "&Aring;",
    ],
    1e-3: ["pm", "picometer"],
}


@pytest.mark.parametrize(
    ("unit", "nm"), [(unit, nm) for nm, spellings in LENGTHS.items() for unit in spellings]
)
def test_lengths(unit: object, nm: float) -> None:
    quantity, found = parse_unit(unit)
    assert quantity == "length"
    assert found == pytest.approx(nm, rel=1e-12)


@pytest.mark.parametrize(
    "length", ["nm", "Å", "A", "µm", "um", "pm", "m", "u", "\\AA", "n_m", "px"]
)
@pytest.mark.parametrize(
    "spelling",
    [
        "1/{}",
        "1 / {}",
        "[1/{}]",
        "1/({})",
        "{}^-1",
        "{} ^ -1",
        "{}^(-1)",
        "{}^{{-1}}",
        "{}-1",
        "{}⁻¹",
        "{}**-1",
        "${}^{{-1}}$",
        "$\\mathrm{{{}}}^{{-1}}$",
        "1 per {}",
        "reciprocal {}",
        "inverse {}",
        "inv. {}",
        "2π/{}",
        "cycles/{}",
        "1\u2044{}",
        "1 \u2215 {}",
        "{}^\u22121",
        "{}\u20111",
    ],
)
def test_reciprocal_lengths(length: str, spelling: str) -> None:
    assert parse_unit(spelling.format(length)) == Unit("reciprocal")


@pytest.mark.parametrize(
    "unit",
    [
        "rad",
        "mrad",
        "µrad",
        "urad",
        "radians",
        "milliradian",
        "millirads",
        "deg",
        "degree",
        "degrees",
        "°",
        "2theta",
        "2θ",
        "2 theta",
        "2-theta",
        "2\\theta",
        "theta",
        "two theta",
        "[mrad]",
        "arcsec",
    ],
)
def test_angles(unit: str) -> None:
    assert parse_unit(unit) == Unit("angle")


@pytest.mark.parametrize(
    ("unit", "quantity"),
    [("eV", "energy"), ("keV", "energy"), ("s", "time"), ("ms", "time"), ("sec", "time")],
)
def test_what_spectra_and_series_are_measured_in(unit: str, quantity: str) -> None:
    assert parse_unit(unit) == Unit(quantity)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unit",
    [
        "",
        "px",
        "pixel",
        "pixels",
        "None",
        None,
        "n/a",
        "a.u.",
        "arb. units",
        "counts",
        "px/nm",
        "pixels per nm",
        "unknown",
        "<undefined>",
        "1/s",
        [],
        ["nm", "nm"],
        3,
    ],
)
def test_all_else_is_unknown(unit: object) -> None:
    assert parse_unit(unit) == Unit("unknown")
