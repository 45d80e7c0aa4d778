"""Partial scan -> what the network takes: two channels, and the way back to intensities."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stem_complete.scan.acquire import PartialScan


class NetworkInput(NamedTuple):
    """A batch for the network; a completion is `offset + scale * output` in intensity units.

    Attributes:
        x: Encoded scan and dwell map `[b, 2, h, w]`.
        offset: `[b, 1, 1, 1]` in intensity units.
        scale: `[b, 1, 1, 1]` in intensity units.
    """

    x: Tensor
    offset: Tensor
    scale: Tensor


def encode(scan: PartialScan, encoding: str = "standard") -> NetworkInput:
    """The network's input for a partial scan, 0 where nothing was measured.

    - `"standard"`: dwell times the intensity standardised by the scan's own dwell-weighted mean
      and deviation. Scaling or shifting the intensities changes only `offset` and `scale`.
    - `"reference"`: the published files' `(det + 1) / (1 + max det)`, det = dwell * intensity, for
      intensities in [-1, 1].

    Raises:
        ValueError: The shapes do not fit, or the encoding is unknown.
    """
    if scan.intensity.ndim != 4 or scan.intensity.shape != scan.dwell.shape:
        raise ValueError(
            "intensity and dwell must both be [b, 1, h, w], got "
            f"{list(scan.intensity.shape)} and {list(scan.dwell.shape)}"
        )
    if encoding == "standard":
        return _encode_standard(scan)
    if encoding == "reference":
        return _encode_reference(scan)
    raise ValueError(f'encoding must be "standard" or "reference", got {encoding!r}')


def _encode_standard(scan: PartialScan) -> NetworkInput:
    dwell = scan.dwell
    measured = dwell > 0
    intensity = torch.where(measured, scan.intensity, 0)
    share = dwell / _sum(dwell).clamp(min=torch.finfo(dwell.dtype).tiny)

    # Twice, because one mean of large intensities in float32 is off by more than their rounding.
    rough_mean = _sum(share * intensity)
    centred = torch.where(measured, intensity - rough_mean, 0)
    correction = _sum(share * centred)
    centred = torch.where(measured, centred - correction, 0)
    std = _sum(share * centred.square()).sqrt()

    # Deviations below the rounding of the intensities are those of a constant scan.
    rounding = 4 * torch.finfo(intensity.dtype).eps * intensity.abs().amax((1, 2, 3), keepdim=True)
    scale = torch.where(std > rounding, std, 1)
    x = torch.cat([dwell * centred / scale, dwell], dim=1)
    return NetworkInput(x, rough_mean + correction, scale)


def _encode_reference(scan: PartialScan) -> NetworkInput:
    measured = scan.dwell > 0
    detected = torch.where(measured, scan.dwell * scan.intensity, -1)
    largest = 1 + detected.amax((1, 2, 3), keepdim=True)
    x = torch.cat([(detected + 1) / torch.where(largest > 0, largest, 1), scan.dwell], dim=1)
    return NetworkInput(x, torch.zeros_like(largest), torch.ones_like(largest))


def _sum(images: Tensor) -> Tensor:
    return images.sum((1, 2, 3), keepdim=True)
