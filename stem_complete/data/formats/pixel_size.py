"""Physical pixel sizes: whatever unit a file states -> nm."""

from __future__ import annotations

import math

# Spellings met in ImageJ, OME, DigitalMicrograph, EMD, SER, Velox and Bruker files, lower case.
_NANOMETRES = {
    "m": 1e9,
    "cm": 1e7,
    "centimeter": 1e7,
    "centimetre": 1e7,
    "mm": 1e6,
    "millimeter": 1e6,
    "millimetre": 1e6,
    "µm": 1e3,
    "um": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "å": 0.1,
    "a": 0.1,
    "ang": 0.1,
    "angstrom": 0.1,
    "angstroms": 0.1,
    "pm": 1e-3,
    "picometer": 1e-3,
    "picometre": 1e-3,
}


def nanometres(value: object, unit: object) -> float | None:
    """`value` [unit] in nm, or None if it is no positive number or the unit is no length.

    Pixels and reciprocal lengths are no length: `nanometres(1, "px")` is None.
    """
    factor = _NANOMETRES.get(_plain(unit))
    try:
        size = float(value) * factor if factor else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return size if math.isfinite(size) and size > 0 else None


def is_reciprocal(unit: object) -> bool:
    """Whether the unit is an inverse length or an angle, as the pixels of a diffraction pattern."""
    plain = _plain(unit)
    return plain.startswith("1/") or plain.endswith(("^-1", "-1", "⁻¹")) or plain in {"mrad", "rad"}


def square(y_nm: float | None, x_nm: float | None) -> float | None:
    """The side [nm] of a square pixel; None if a side is unknown or they differ by over 1%."""
    if y_nm is None or x_nm is None or abs(y_nm - x_nm) > 0.01 * max(y_nm, x_nm):
        return None
    return x_nm


def _plain(unit: object) -> str:
    if isinstance(unit, bytes):
        unit = unit.decode("utf-8", "replace")
    text = str(unit).strip().strip("[]")
    # Berkeley EMD writes n_m and u_m, ImageJ the escape \u00B5m; there are two code points for µ.
    text = text.replace("\\u00B5", "µ").replace("\\u00C5", "å").replace("_", "")
    return text.replace("\u03bc", "µ").replace("\u212b", "å").lower()
