"""Physical pixel sizes: a number and whatever unit a file states -> nm."""

from __future__ import annotations

import math

import numpy as np

from stem_complete.data.formats.units import parse_unit

# Beyond these [nm] nothing is the pixel of an electron micrograph: a file then holds a printing
# default such as 72 dpi, or names another unit than it has.
_SMALLEST_NM, _LARGEST_NM = 1e-4, 1e3


def nanometres(value: object, unit: object) -> float | None:
    """`value` [unit] in nm; None if it is no positive number or the unit is no length.

    Pixels and reciprocal lengths are no length: `nanometres(1, "px")` is None.
    """
    factor = parse_unit(unit).nm
    try:
        size = float(np.asarray(value).item()) * (factor or math.nan)
    except (TypeError, ValueError):
        return None
    return size if math.isfinite(size) and size > 0 else None


def square(y_nm: float | None, x_nm: float | None) -> float | None:
    """The side [nm] of a square pixel.

    None if a side is unknown, if they differ by over 1%, or if it is no pixel of an electron
    micrograph: smaller than 0.1 pm or larger than 1 um.
    """
    if y_nm is None or x_nm is None or abs(y_nm - x_nm) > 0.01 * max(y_nm, x_nm):
        return None
    return x_nm if _SMALLEST_NM <= x_nm < _LARGEST_NM else None
