"""Measured pixels in a completion: each as far as it was measured better than completed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.data.scans import RasterScan
from stem_complete.scan import PartialScan
from stem_complete.scan.adaptive import noise_of
from stem_complete.scan.bands import bands


def noise_of_measurements(scan: RasterScan) -> float:
    """Standard deviation of a full dwell's measurement, in the scan's units; see `noise_of`."""
    mean, std = scan.mean_and_std()
    unit = std or 1.0
    intensity = ((scan.intensity - mean) / unit).astype(np.float32)
    tensors = PartialScan(*(torch.from_numpy(a)[None, None] for a in (intensity, scan.dwell)))
    return unit * float(noise_of(tensors))


def blend_measured(
    image: NDArray[np.float64], error: NDArray[np.float32], scan: RasterScan
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """A completion with its measured pixels blended back, and its expected error, each [h, w]."""
    noise = noise_of_measurements(scan)
    blended, remaining = np.empty_like(image), np.empty_like(error)
    for rows in bands(torch.from_numpy(scan.dwell)[None, None]):
        # Without a calibration, a completion is taken to err as much as a full dwell's measurement.
        square = np.nan_to_num(np.square(error[rows], dtype=np.float64), nan=noise**2)
        precision = scan.dwell[rows] * square
        weight = precision / np.maximum(precision + noise**2, np.finfo(np.float64).tiny)
        moved = image[rows] + weight * (scan.intensity[rows] - image[rows])
        blended[rows] = np.where(np.isnan(moved), image[rows], moved)
        remaining[rows] = error[rows] * np.sqrt(1 - weight)
    return blended, remaining
