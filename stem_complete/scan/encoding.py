"""Partial scan -> what the network takes: channels, and the way back to intensities."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from stem_complete.scan.filters import normalised_convolution
from stem_complete.scan.lattice import plane_waves
from stem_complete.scan.partial_scan import PartialScan, sum_pixels
from stem_complete.scan.splines import MAX_STIFFNESS, spline_fill
from stem_complete.vocabulary import Encoding

NUM_CHANNELS: dict[Encoding, int] = {
    "standard": 2,
    "filled": 2,
    "splines": 4,
    "waves": 5,
    "reference": 2,
}
"""Input channels per encoding."""

CORRECTED: tuple[Encoding, ...] = ("filled", "splines", "waves")
"""Encodings with a first completion, which the network corrects."""

# The first is for scans without noise, and the floppier the sparser they are; the second for those
# with the published noise, in which a short dwell says little. Found on validation micrographs, and
# the likely error on training scans.
_TRUSTING = {"fidelity": 10.0, "dwell_exponent": 0.0}
_STIFFNESS_TIMES_PITCH = 200.0  # [px^3], the pitch being 1 / mean dwell
_WARY = {"fidelity": 0.5, "dwell_exponent": 8.0, "stiffness": 4.0}
_ERROR_TIMES_ROOT_DWELL = 0.25  # of the first, in units of its distance to the second
_SMALLEST_ERROR = 1e-3  # in units of the scan's contrast


class NetworkInput(NamedTuple):
    """A batch for the network; a completion is `offset + scale * output` in intensity units.

    Attributes:
        x: Encoded scan and dwell map `[b, c, h, w]`, with c of `NUM_CHANNELS`.
        offset: `[b, 1, 1, 1]`, or `[b, 1, h, w]` for a network that completes a difference, in
            intensity units.
        scale: `[b, 1, 1, 1]` in intensity units.
    """

    x: Tensor
    offset: Tensor
    scale: Tensor


def encode(
    scan: PartialScan, encoding: Encoding = "standard", *, sigma_px: float = 8.0
) -> NetworkInput:
    """The network's input for a partial scan.

    - `"standard"`: dwell times the intensity standardised by the scan's own dwell-weighted mean
      and deviation, 0 where nothing was measured. Scaling or shifting the intensities changes only
      `offset` and `scale`.
    - `"filled"`: the standardised normalised convolution of the scan, and on it dwell times the
      difference of what was measured; `offset` is that convolution, which the network corrects.
    - `"splines"`: a plate that trusts each measured pixel alike, which is the `offset`; dwell times
      what was measured beyond another plate, that trusts long dwells alone; the dwell; and how far
      the second plate is from the first. The second and the last are in units of the first plate's
      likely error, as told by their distance and the mean dwell, and so is what the network says:
      that is `scale`. It fits scans of any coverage and noise.
    - `"waves"`: the same of what the scan's plane waves leave over; the waves are part of the
      `offset`, and the last but one of the channels.
    - `"reference"`: the published files' `(det + 1) / (1 + max det)`, det = dwell * intensity, for
      intensities in [-1, 1], 0 where nothing was measured.

    Args:
        scan: Partial scans.
        encoding: One of these.
        sigma_px: Width of the Gaussian of `"filled"` [px], see `fill.fill_sigma_px`.

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
    if encoding == "filled":
        return _encode_filled(scan, sigma_px)
    if encoding in ("splines", "waves"):
        return _encode_splines(scan, with_waves=encoding == "waves")
    if encoding == "reference":
        return _encode_reference(scan)
    raise ValueError(f"encoding must be one of {', '.join(NUM_CHANNELS)}, got {encoding!r}")


def _encode_standard(scan: PartialScan) -> NetworkInput:
    centred, mean, scale = _standardise(scan)
    return NetworkInput(torch.cat([scan.dwell * centred / scale, scan.dwell], 1), mean, scale)


def _encode_filled(scan: PartialScan, sigma_px: float) -> NetworkInput:
    centred, mean, scale = _standardise(scan)
    fill = normalised_convolution(PartialScan(centred, scan.dwell), sigma_px)
    filled = fill + scan.dwell * (centred - fill)
    return NetworkInput(torch.cat([filled / scale, scan.dwell], 1), mean + fill, scale)


def _encode_splines(scan: PartialScan, *, with_waves: bool) -> NetworkInput:
    centred, mean, scale = _standardise(scan)
    waves = plane_waves(PartialScan(centred, scan.dwell)) if with_waves else None
    rest = centred if waves is None else centred - waves
    mean_dwell = scan.dwell.mean((1, 2, 3), keepdim=True)
    stiffness = (_STIFFNESS_TIMES_PITCH * mean_dwell).clamp(max=MAX_STIFFNESS)
    trusting = spline_fill(PartialScan(rest, scan.dwell), **_TRUSTING, stiffness=stiffness)
    wary = spline_fill(PartialScan(rest, scan.dwell), **_WARY)
    difference = wary - trusting
    distance = difference.square().mean((1, 2, 3), keepdim=True).sqrt()
    tiny = torch.finfo(mean_dwell.dtype).tiny
    error = _ERROR_TIMES_ROOT_DWELL * distance / mean_dwell.clamp(min=tiny).sqrt()
    unit = torch.maximum(error, _SMALLEST_ERROR * scale)
    fill = trusting if waves is None else trusting + waves
    beyond = scan.dwell * (rest - wary)
    x = [fill / scale, beyond / unit, scan.dwell]
    if waves is not None:
        x.append(waves / scale)
    return NetworkInput(torch.cat([*x, difference / unit], 1), mean + fill, unit)


def _standardise(scan: PartialScan) -> tuple[Tensor, Tensor, Tensor]:
    """Intensities minus the scan's mean, anything where not measured; that mean; the deviation."""
    dwell = scan.dwell
    # The dwell, as a factor, leaves out what was not measured: masks take much longer on CPUs.
    intensity = scan.intensity.nan_to_num(0.0, math.inf, -math.inf)
    share = dwell / sum_pixels(dwell).clamp(min=torch.finfo(dwell.dtype).tiny)

    # Twice, because one mean of large intensities in float32 is off by more than their rounding.
    rough_mean = sum_pixels(share * intensity)
    centred = intensity - rough_mean
    correction = sum_pixels(share * centred)
    centred = centred - correction
    std = sum_pixels(share * centred.square()).sqrt()

    # Deviations below the rounding of the intensities are those of a constant scan.
    rounding = 4 * torch.finfo(intensity.dtype).eps * intensity.abs().amax((1, 2, 3), keepdim=True)
    return centred, rough_mean + correction, torch.where(std > rounding, std, 1)


def _encode_reference(scan: PartialScan) -> NetworkInput:
    measured = scan.dwell > 0
    detected = torch.where(measured, scan.dwell * scan.intensity, -1)
    largest = 1 + detected.amax((1, 2, 3), keepdim=True)
    x = torch.cat([(detected + 1) / torch.where(largest > 0, largest, 1), scan.dwell], dim=1)
    return NetworkInput(x, torch.zeros_like(largest), torch.ones_like(largest))
