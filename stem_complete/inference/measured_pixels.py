"""Measured pixels in a completion: each as far as it was measured better than completed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.data.scans import RasterScan
from stem_complete.inference.scaled_scans import ScaledScans
from stem_complete.scan.bands import bands
from stem_complete.scan.parts import Parts, noise_of, take_apart


def noise_of_measurements(scan: ScaledScans, parts: Parts | None) -> float:
    """Standard deviation of a full dwell's measurement, in one scan's units; see `noise_of`.

    Args:
        scan: The scan.
        parts: Its parts, if they are known.
    """
    return scan.half.item() * float(noise_of(parts or take_apart(scan.scan)))


def blend_measured(
    image: NDArray[np.float32], error: NDArray[np.float32], scan: RasterScan, noise: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A completion with its measured pixels blended back, and its expected error, each [h, w].

    Args:
        image: The completion [h, w].
        error: Its error map [h, w].
        scan: What was measured.
        noise: See `noise_of_measurements`.
    """
    blended, remaining = np.empty_like(image), np.empty_like(error)
    for rows in bands(torch.from_numpy(scan.dwell)[None, None]):
        # Without a calibration, a completion is taken to err as much as a full dwell's measurement.
        square = np.nan_to_num(np.square(error[rows], dtype=np.float64), nan=noise**2)
        precision = scan.dwell[rows] * square
        weight = precision / np.maximum(precision + noise**2, np.finfo(np.float64).tiny)
        completed = image[rows].astype(np.float64)
        moved = completed + weight * (scan.intensity[rows] - completed)
        blended[rows] = np.where(np.isnan(moved), completed, moved)
        remaining[rows] = error[rows] * np.sqrt(1 - weight)
    return blended, remaining
