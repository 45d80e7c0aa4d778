"""The encoding that follows a scan's own noise, gaps and range, for any path and detector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.bands import in_bands, sums_in_bands
from stem_complete.scan.network_input import Analysis, Bound, NetworkInput
from stem_complete.scan.partial_scan import PartialScan, sum_pixels
from stem_complete.scan.parts import (
    DWELL_EXPONENT,
    SMALLEST_ERROR,
    STIFFNESS,
    halved,
    reach_of,
    take_apart,
    without_outliers,
)
from stem_complete.scan.splines import spline_fill

# Fidelity and stiffness are tuned to the mean error of first completions of validation micrographs
# along spirals, random pixels, rows, Lissajous figures and rasters, from no noise to 5 electrons a
# pixel. The error hardly depends on them near that optimum.
_FIDELITY = 0.5  # times the ratio of the scan's deviation to the scatter
_FIDELITIES = (0.3, 10.0)
_SMOOTH = {"fidelity": 0.1, "stiffness": 1.0}
# Where each pixel is measured on its own and without noise, all count alike, and are followed.
_FOLLOWING = {"fidelity": 5.0, "dwell_exponent": 0.0, "stiffness": 15.0}
_INTERPOLATING = {"fidelity": 500.0, "dwell_exponent": 0.0, "stiffness": 1.0}
# A logistic regression of the best mixture of both on what the first one leaves of the measurements
# (24 micrographs, 36 kinds of scans): correlation of neighbours, logarithm of the ratio of its
# deviation with and without weights by dwell, logarithm of its deviation in units of the scan's.
_MOST_LEFT = 4.0  # of a measurement, in units of their mean
_MIXTURE = {"correlation": -16.5, "of_dwell": 31.3, "size": -5.2, "constant": 2.9}

_MOST_DWELL = 2.0  # of a pixel, as the network sees it


def analyse_adaptive(scan: PartialScan) -> Analysis:
    """What the network's input for partial scans is made of, see `encode`."""
    parts = take_apart(scan)
    rest, std = parts.rest, parts.std
    error, scatter = parts.predicted

    fidelity = (_FIDELITY * std / scatter).clamp(*_FIDELITIES)
    first = spline_fill(rest, fidelity=fidelity, dwell_exponent=DWELL_EXPONENT, stiffness=STIFFNESS)
    following = spline_fill(rest, **_FOLLOWING)
    exactly = measured_exactly(rest, first, std)
    first = in_bands(lambda one, other: one + exactly * (other - one), first, following)
    smooth = _at_half_size(rest, **_SMOOTH)

    def compose(
        intensity: Tensor,
        dwell: Tensor,
        waves: Tensor,
        gap: Tensor,
        first: Tensor,
        following: Tensor,
        smooth: Tensor,
    ) -> NetworkInput:
        weight = dwell + exactly * ((dwell > 0).to(dwell.dtype) - dwell)
        x = [
            (first + waves) / std,
            weight * (intensity.nan_to_num(0.0) - first) / error,
            weight.clamp(max=_MOST_DWELL),
            waves / std,
            (scatter / error).log2().expand_as(dwell),
            (1 + gap).log2() / 4,
            (following - first) / error,
            (smooth - first) / error,
        ]
        bound = Bound(reach_of(gap, parts.typical_gap), parts.low - scatter, parts.high + scatter)
        offset = (parts.mean + first + waves).maximum(bound.lowest).minimum(bound.highest)
        return NetworkInput(torch.cat(x, 1), offset, error, bound)

    return Analysis((*rest, parts.waves, parts.gap, first, following, smooth), compose, parts)


def measured_exactly(scan: PartialScan, first: Tensor, std: Tensor) -> Tensor:
    """How far pixels are measured each on its own, whatever its dwell, without noise: 0 to 1.

    Of noisy samples along a path, neighbouring pixels share some, and short dwells say little.

    Args:
        scan: Partial scans, their intensities finite.
        first: Completions of them that weight pixels by their dwell `[b, 1, h, w]`.
        std: Deviation of each scan `[b, 1, 1, 1]`.

    Returns:
        `[b, 1, 1, 1]`.
    """
    tiny = torch.finfo(first.dtype).tiny
    dwell = scan.dwell
    num_measured = sums_in_bands(lambda dwell: (dwell > 0).to(first.dtype), dwell)
    left = in_bands(_left, scan.intensity, dwell, first)
    # A hot pixel must not decide.
    limit = _MOST_LEFT * sums_in_bands(torch.abs, left) / num_measured.clamp(min=tiny)
    left = in_bands(lambda left: left.maximum(-limit).minimum(limit), left)
    product, size = torch.zeros_like(std), torch.zeros_like(std)
    for dim in (2, 3):
        n = left.shape[dim] - 1
        one, other = ([each.narrow(dim, k, n) for each in (left, dwell)] for k in (0, 1))
        both = sums_in_bands(_of_neighbours, *one, *other)
        product, size = product + both[:, :1], size + both[:, 1:] / 2
    square = sums_in_bands(torch.square, left)
    mean_square = square / num_measured.clamp(min=tiny)
    weighted = sums_in_bands(lambda dwell, left: dwell * left.square(), dwell, left)
    of_dwell = weighted / sum_pixels(dwell).clamp(min=tiny)
    smallest = (SMALLEST_ERROR * std).square().clamp(min=tiny)
    mean_square, of_dwell = mean_square.maximum(smallest), of_dwell.maximum(smallest)
    return torch.sigmoid(
        _MIXTURE["constant"]
        + _MIXTURE["correlation"] * product / size.clamp(min=tiny)
        + _MIXTURE["of_dwell"] * (of_dwell / mean_square).log() / 2
        + _MIXTURE["size"] * (mean_square / std.square().clamp(min=tiny)).log() / 2
    )


def _left(intensity: Tensor, dwell: Tensor, first: Tensor) -> Tensor:
    """What completions leave of the measurements, 0 where there are none."""
    return (dwell > 0).to(first.dtype) * (intensity - first)


def _of_neighbours(left: Tensor, dwell: Tensor, next_left: Tensor, next_dwell: Tensor) -> Tensor:
    """Products of what is left `[b, 2, h, w]`: of neighbours, and of each with itself."""
    measured, next_measured = ((each > 0).to(left.dtype) for each in (dwell, next_dwell))
    itself = measured * next_left.square() + next_measured * left.square()
    return torch.cat([left * next_left, itself], 1)


def interpolate(scan: PartialScan) -> Tensor:
    """Images `[b, 1, h, w]` that pass through what was measured, outliers aside."""
    measured = PartialScan(without_outliers(scan), scan.dwell)
    return spline_fill(measured, **_INTERPOLATING)


def _at_half_size(scan: PartialScan, *, fidelity: float, stiffness: float) -> Tensor:
    """A spline that is smooth enough for half the size, where it takes a quarter of the time."""
    half = halved(scan)
    filled = spline_fill(
        half, fidelity=fidelity, dwell_exponent=DWELL_EXPONENT, stiffness=stiffness / 4
    )
    h, w = scan.dwell.shape[-2:]
    return F.interpolate(filled, scale_factor=2, mode="bilinear")[..., :h, :w]
