"""Scans as networks take them, with intensities on [-1, 1], and images back in the scans' units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stem_complete.data.scans import RasterScan
from stem_complete.scan import PartialScan
from stem_complete.scan.bands import bands


class ScaledScans(NamedTuple):
    """Scans of one shape, their intensities on [-1, 1].

    Attributes:
        scan: All of them.
        middle: Of the range of each one [b, 1, 1, 1], in its units.
        half: Half of that range, likewise.
    """

    scan: PartialScan
    middle: NDArray[np.float64]
    half: NDArray[np.float64]

    def on(self, device: torch.device) -> PartialScan:
        """The scans on a device."""
        return PartialScan(*(each.to(device) for each in self.scan))

    def of(self, number: int) -> ScaledScans:
        """One of the scans."""
        one = slice(number, number + 1)
        return ScaledScans(
            PartialScan(*(each[one] for each in self.scan)), self.middle[one], self.half[one]
        )

    def in_units(self, images: Tensor) -> NDArray[np.float64]:
        """Images [b, c, h, w] on [-1, 1] in the units of the scans."""
        in_units: NDArray[np.float64] = self.middle + self.half * images.double().numpy()
        return in_units

    def as_float32(self, images: Tensor) -> NDArray[np.float32]:
        """The same in single precision, for which large images need little memory beside."""
        result = np.empty(images.shape, np.float32)
        for band in bands(images):
            result[..., band, :] = self.in_units(images[..., band, :])
        return result


def scaled(scans: Sequence[RasterScan]) -> ScaledScans:
    """Scans of one shape; the range of each, told or else measured, becomes [-1, 1]."""
    # In double precision, so that a small contrast on a large offset survives.
    ranges = np.array([scan.intensity_range or scan.measured_range for scan in scans])
    low, high = ranges.T[:, :, None, None, None]
    middle, half = (high + low) / 2, (high - low) / 2
    unit = np.where(half > 0, half, 1.0)
    dwells = [torch.from_numpy(scan.dwell)[None, None] for scan in scans]
    dwell = torch.cat(dwells) if len(dwells) > 1 else dwells[0]
    intensities = torch.empty_like(dwell)
    for band in bands(dwell):
        intensity = np.stack([scan.intensity[band] for scan in scans])[:, None]
        intensities[..., band, :] = torch.from_numpy((intensity - middle) / unit)
    return ScaledScans(PartialScan(intensities, dwell), middle, half)
