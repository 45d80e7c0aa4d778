"""Scans on the scale on which their measured range is [0, 1], where classical methods work.

On this scale float64 solvers lose nothing to a detector's large offset.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.scans import RasterScan

Image = NDArray[np.float32]


def in_units(image: NDArray[np.float64], scan: RasterScan) -> Image:
    """`image` [h, w] on the unit scale -> in the units and within the range of the scan."""
    low, high = scan.measured_range
    # Clipping in float32, after the last rounding, is what keeps the range exactly.
    units = (low + (high - low) * image).astype(np.float32)
    return np.clip(units, np.float32(low), np.float32(high))


def weights(scan: RasterScan, exponent: float) -> NDArray[np.float64]:
    """dwell^exponent [h, w], with a mean of 1 over the measured pixels and 0 elsewhere."""
    measured, dwell = scan.measured, scan.dwell.astype(np.float64)
    # Relative to the largest, as high powers of small numbers vanish.
    powers = np.where(measured, dwell / dwell.max(), 0.0) ** exponent
    powers[~measured] = 0.0  # 0^0 is 1
    mean_one: NDArray[np.float64] = powers / powers[measured].mean()
    return mean_one


def fill_nearest(scan: RasterScan) -> NDArray[np.float64]:
    """Unit intensities [h, w] of the measured pixels nearest to each pixel."""
    from scipy.ndimage import distance_transform_edt

    index = distance_transform_edt(~scan.measured, return_distances=False, return_indices=True)
    nearest_values: NDArray[np.float64] = scan.unit()[tuple(index)]
    return nearest_values
