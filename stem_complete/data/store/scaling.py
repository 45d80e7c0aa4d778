"""Intensities -> stored numbers -> [-1, 1]: intensity = offset + scale * stored."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEVELS = 65_535  # of uint16, above 0


class Quantised(NamedTuple):
    """A crop [h, w] as it is stored.

    Attributes:
        stored: Stored numbers [h, w], uint16 or float32.
        minimum: Lowest intensity, in detector units.
        maximum: Highest intensity, in detector units.
        offset: Intensity that is stored as 0.
        scale: Intensity that a stored number is worth.
    """

    stored: NDArray[Any]
    minimum: float
    maximum: float
    offset: float
    scale: float


def quantise(pixels: NDArray[Any], dtype: str) -> Quantised:
    """The crop [h, w] as it is stored.

    uint16 is exact for whole numbers that span up to 65,535 levels, and within 1/131,070 of the
    crop's range otherwise. float32 stores the intensities themselves.
    """
    if dtype == "float32":
        stored = pixels.astype(np.float32)
        return Quantised(stored, float(stored.min()), float(stored.max()), 0.0, 1.0)
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "u" and int(high) - int(low) <= _LEVELS:
        stored = (pixels - low).astype(np.uint16, copy=False)
        return Quantised(stored, float(low), float(high), float(low), 1.0)
    values = pixels.astype(np.float64)
    minimum, maximum = float(low), float(high)
    span = maximum - minimum
    if span <= _LEVELS and (values == np.rint(values)).all():
        return Quantised((values - minimum).astype(np.uint16), minimum, maximum, minimum, 1.0)
    stored = np.rint((values - minimum) * (_LEVELS / span)).astype(np.uint16)
    return Quantised(stored, minimum, maximum, minimum, span / _LEVELS)


def to_stored(
    intensity: NDArray[Any], offset: NDArray[Any], scale: NDArray[Any], dtype: str
) -> NDArray[np.float32]:
    """Stored numbers [b] of intensities that are exactly stored, as minimum and maximum are."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a scale that is lost may read as 0
        stored: NDArray[np.float64] = (intensity - offset) / scale
    return (np.rint(stored) if dtype == "uint16" else stored).astype(np.float32)


def to_unit_range(
    stored: NDArray[Any], low: np.float32, high: np.float32, out: NDArray[np.float32]
) -> None:
    """Fills in `out` [h, w] with the crop in [-1, 1], of which `low` becomes -1 and `high` 1."""
    # Stored numbers are exact in float32, and so the ends come out as exactly -1 and 1.
    np.subtract(stored, low, out=out, dtype=np.float32)
    out /= (high - low) / 2
    out -= 1
