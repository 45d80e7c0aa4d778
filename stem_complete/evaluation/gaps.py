"""Errors by the distance from what was measured: what a completion makes of gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FARTHEST_PX = (0, 1, 2, 4, 8, 16, 32)
"""Upper ends of all bins but the last, which has no end."""

BINS = ("0", "1", "1 to 2", "2 to 4", "4 to 8", "8 to 16", "16 to 32", "over 32")
"""Distances from the nearest measured pixel [px]; 0 is measured."""


def bins_of(measured: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The bin of each pixel [h, w] by its distance from the nearest measured one.

    Args:
        measured: Which pixels were [h, w]; at least one.
    """
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(~measured)
    bins: NDArray[np.int64] = np.digitize(distance, FARTHEST_PX, right=True)
    return bins


def rmse_by_bin(error: NDArray[np.floating], bins: NDArray[np.int64]) -> tuple[float | None, ...]:
    """Root mean square of `error` [h, w] in each bin; None in those without a pixel."""
    numbers = bins.ravel()
    count = np.bincount(numbers, minlength=len(BINS))
    squares = np.bincount(numbers, np.square(error, dtype=np.float64).ravel(), len(BINS))
    return tuple(
        float(np.sqrt(total / number)) if number else None
        for total, number in zip(squares, count, strict=True)
    )
