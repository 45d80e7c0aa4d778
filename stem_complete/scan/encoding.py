"""Partial scan -> the network's input, and how to turn its output back into intensities."""

from __future__ import annotations

import torch
from torch import Tensor

from stem_complete.scan.adaptive import analyse_adaptive
from stem_complete.scan.bands import in_bands
from stem_complete.scan.filters import normalised_convolution
from stem_complete.scan.lattice import plane_waves
from stem_complete.scan.network_input import Analysis, NetworkInput
from stem_complete.scan.partial_scan import PartialScan, standardise
from stem_complete.scan.splines import MAX_STIFFNESS, spline_fill
from stem_complete.vocabulary import Encoding

NUM_CHANNELS: dict[Encoding, int] = {
    "standard": 2,
    "filled": 2,
    "splines": 4,
    "waves": 5,
    "adaptive": 8,
    "reference": 2,
}
"""Input channels per encoding."""

CORRECTED: tuple[Encoding, ...] = ("filled", "splines", "waves", "adaptive")
"""Encodings with a first completion, which the network corrects."""

# Tuned to the error on validation micrographs, that of `_UNIFORM` on noiseless scans, that of
# `_DWELL_WEIGHTED` on scans with the published noise, in which a short dwell says little.
_UNIFORM = {"fidelity": 10.0, "dwell_exponent": 0.0}
_UNIFORM_STIFFNESS_TIMES_PITCH = 200.0  # [px^3], the pitch being 1 / mean dwell
_DWELL_WEIGHTED = {"fidelity": 0.5, "dwell_exponent": 8.0, "stiffness": 4.0}

# Fitted to errors of the uniform spline on training scans: error * sqrt(mean dwell) / distance,
# the distance being that of both splines.
_ERROR_PER_DISTANCE = 0.25
_SMALLEST_ERROR = 1e-3  # in units of the scan's standard deviation


def encode(
    scan: PartialScan, encoding: Encoding = "standard", *, sigma_px: float = 8.0
) -> NetworkInput:
    """The network's input for partial scans.

    Scaling or shifting the intensities changes nothing but `offset` and `scale`, except with
    `"reference"`. Standardised intensities have the scan's dwell-weighted mean subtracted and are
    divided by its standard deviation. Channels of the encodings:

    `"standard"`:
        1. Dwell times standardised intensity, 0 where nothing was measured.
        2. Dwell.

    `"filled"`, whose `offset` is the normalised convolution of the scan:
        1. Standardised normalised convolution, moved towards what was measured by the dwell.
        2. Dwell.

    `"splines"`, for any coverage and noise. The spline `uniform` weights all measured pixels
    alike, the spline `dwell_weighted` follows long dwells alone. `offset` is `uniform`, `scale` its
    likely error, estimated from the distance of the splines and the mean dwell:
        1. Standardised `uniform`.
        2. Dwell times measured intensity minus `dwell_weighted`, in units of `scale`.
        3. Dwell.
        4. `dwell_weighted` minus `uniform`, in units of `scale`.

    `"waves"`, with splines through what is left of the scan without its plane waves:
        1. Standardised `uniform` plus the waves, which is the `offset`.
        2. As of the splines.
        3. Dwell.
        4. Waves, divided by the standard deviation of the scan.
        5. As the splines' last.

    `"adaptive"`, for any path and detector, as weights and stiffness follow the scan itself. The
    spline `first` weights pixels by their dwell, as far as the scan shows that this matters;
    `following` follows all alike, `smooth` hardly any. `offset` is `first` plus the plane waves,
    `scale` the error of held-out parts of the scan; outliers are cut off, and completions bounded,
    see `NetworkInput`:
        1. Standardised `first` plus the waves.
        2. Weight times measured intensity minus `first` and waves, in units of `scale`.
        3. Weight: the dwell, or nearer to 1 where short dwells say as much as long ones.
        4. Waves, divided by the standard deviation of the scan.
        5. Logarithm of the noise in units of `scale`, base 2: scatter within held-out blocks.
        6. Logarithm of the distance from what was measured, see `gaps`.
        7. `following` minus `first`, in units of `scale`.
        8. `smooth` minus `first`, in units of `scale`.

    `"reference"`, as in the published files, for intensities in [-1, 1]:
        1. `(det + 1) / (1 + max det)` with det = dwell * intensity, 0 where nothing was measured.
        2. Dwell.

    Args:
        scan: Partial scans.
        encoding: Name of the encoding.
        sigma_px: Width of the Gaussian of `"filled"` [px], see `fill_sigma_px`.

    Raises:
        ValueError: The shapes do not fit, or the encoding is unknown.
    """
    return analyse(scan, encoding, sigma_px=sigma_px).window()


def analyse(
    scan: PartialScan, encoding: Encoding = "standard", *, sigma_px: float = 8.0
) -> Analysis:
    """What is needed to encode partial scans window by window; see `encode`."""
    if scan.intensity.ndim != 4 or scan.intensity.shape != scan.dwell.shape:
        raise ValueError(
            "intensity and dwell must both be [b, 1, h, w], got "
            f"{list(scan.intensity.shape)} and {list(scan.dwell.shape)}"
        )
    if encoding == "standard":
        return _standard(scan)
    if encoding == "reference":
        return _reference(scan)
    if encoding == "filled":
        return _filled(scan, sigma_px)
    if encoding == "adaptive":
        return analyse_adaptive(scan)
    if encoding in ("splines", "waves"):
        return _splines(scan, with_waves=encoding == "waves")
    raise ValueError(f"encoding must be one of {', '.join(NUM_CHANNELS)}, got {encoding!r}")


def _standard(scan: PartialScan) -> Analysis:
    centred, mean, std = standardise(scan)

    def compose(centred: Tensor, dwell: Tensor) -> NetworkInput:
        return NetworkInput(torch.cat([dwell * centred / std, dwell], 1), mean, std)

    return Analysis((centred, scan.dwell), compose)


def _filled(scan: PartialScan, sigma_px: float) -> Analysis:
    centred, mean, std = standardise(scan)
    fill = normalised_convolution(PartialScan(centred, scan.dwell), sigma_px)

    def compose(centred: Tensor, dwell: Tensor, fill: Tensor) -> NetworkInput:
        filled = fill + dwell * (centred - fill)
        return NetworkInput(torch.cat([filled / std, dwell], 1), mean + fill, std)

    return Analysis((centred, scan.dwell, fill), compose)


def _splines(scan: PartialScan, *, with_waves: bool) -> Analysis:
    dwell = scan.dwell
    centred, mean, std = standardise(scan)
    waves = plane_waves(PartialScan(centred, dwell)) if with_waves else None
    rest = PartialScan(centred if waves is None else centred - waves, dwell)
    del centred

    mean_dwell = dwell.mean((1, 2, 3), keepdim=True)
    stiffness = (_UNIFORM_STIFFNESS_TIMES_PITCH * mean_dwell).clamp(max=MAX_STIFFNESS)
    uniform = spline_fill(rest, **_UNIFORM, stiffness=stiffness)
    dwell_weighted = spline_fill(rest, **_DWELL_WEIGHTED)

    square = in_bands(lambda one, other: (one - other).square(), dwell_weighted, uniform)
    distance = square.mean((1, 2, 3), keepdim=True).sqrt()
    tiny = torch.finfo(mean_dwell.dtype).tiny
    error = _ERROR_PER_DISTANCE * distance / mean_dwell.clamp(min=tiny).sqrt()
    error = torch.maximum(error, _SMALLEST_ERROR * std)

    def compose(
        intensity: Tensor,
        dwell: Tensor,
        uniform: Tensor,
        dwell_weighted: Tensor,
        waves: Tensor | None = None,
    ) -> NetworkInput:
        first = uniform if waves is None else uniform + waves
        x = [first / std, dwell * (intensity - dwell_weighted) / error, dwell]
        if waves is not None:
            x.append(waves / std)
        x.append((dwell_weighted - uniform) / error)
        return NetworkInput(torch.cat(x, 1), mean + first, error)

    maps = (rest.intensity, dwell, uniform, dwell_weighted)
    return Analysis(maps if waves is None else (*maps, waves), compose)


def _reference(scan: PartialScan) -> Analysis:
    detected = torch.where(scan.dwell > 0, scan.dwell * scan.intensity, -1)
    largest = 1 + detected.amax((1, 2, 3), keepdim=True)
    unit = torch.where(largest > 0, largest, 1)

    def compose(detected: Tensor, dwell: Tensor) -> NetworkInput:
        x = torch.cat([(detected + 1) / unit, dwell], dim=1)
        return NetworkInput(x, torch.zeros_like(largest), torch.ones_like(largest))

    return Analysis((detected, scan.dwell), compose)
