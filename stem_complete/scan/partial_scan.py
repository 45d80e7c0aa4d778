"""Partial scans on the pixel grid, and sums over their pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class PartialScan(NamedTuple):
    """Partial scans of a batch, on the device.

    Attributes:
        intensity: Mean over the dwell in each pixel `[b, 1, h, w]`, NaN where not measured.
        dwell: `[b, 1, h, w]` [full pixel dwells], 0 where not measured.
    """

    intensity: Tensor
    dwell: Tensor


def dwell_weights(dwell: Tensor, exponent: float) -> Tensor:
    """`dwell^exponent`, at most 1 and 0 where nothing was measured, of the shape of `dwell`."""
    # Without a mask, which takes much longer on CPUs.
    measured = dwell / dwell.clamp(min=torch.finfo(dwell.dtype).tiny)
    return measured * dwell.clamp(max=1) ** exponent


def sum_pixels(images: Tensor) -> Tensor:
    """Sums `[b, 1, 1, 1]` of images `[b, c, h, w]`."""
    return images.sum((1, 2, 3), keepdim=True)


def standardise(scan: PartialScan) -> tuple[Tensor, Tensor, Tensor]:
    """Intensities minus the scan's mean, that mean, and the standard deviation (1 if it is 0).

    The first are arbitrary where nothing was measured.
    """
    dwell = scan.dwell
    # The dwell as a factor leaves out pixels without a measurement; masks are slower on CPUs.
    intensity = scan.intensity.nan_to_num(0.0, math.inf, -math.inf)
    share = dwell / sum_pixels(dwell).clamp(min=torch.finfo(dwell.dtype).tiny)

    # In two steps, as the mean of large intensities in float32 is off by more than their rounding.
    rough_mean = sum_pixels(share * intensity)
    centred = intensity - rough_mean
    correction = sum_pixels(share * centred)
    centred = centred - correction
    std = sum_pixels(share * centred.square()).sqrt()

    # Smaller deviations than the rounding of the intensities are those of a constant scan.
    rounding = 4 * torch.finfo(intensity.dtype).eps * intensity.abs().amax((1, 2, 3), keepdim=True)
    return centred, rough_mean + correction, torch.where(std > rounding, std, 1)
