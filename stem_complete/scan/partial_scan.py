"""Partial scans on the pixel grid, and sums over their pixels."""

from __future__ import annotations

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
