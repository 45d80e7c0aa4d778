"""What partial scans consist of: mean, range, lattice, gaps, noise, and the rest.

Nothing in it is known of the instrument: block by block, a part of the scan is held out and
predicted from the rest. How far the prediction is off block by block says what a completion is
likely to err, and the scatter within the blocks how noisy the samples are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.bands import in_bands
from stem_complete.scan.lattice import plane_waves
from stem_complete.scan.partial_scan import PartialScan, standardise, sum_pixels
from stem_complete.scan.splines import spline_fill

DWELL_EXPONENT = 1.0
"""Electrons add up, and pixels that were only grazed repeat their neighbours."""

STIFFNESS = 15.0
"""Of splines that follow a scan's own noise [px^2], see `adaptive`."""

SMALLEST_ERROR = 1e-3
"""In units of the scan's standard deviation."""

_HELD_OUT = 5  # one block in so many
_BLOCK_GAPS = 2.0  # side of a block in units of the scan's gap
_SMALLEST_BLOCK_PX = 2.0
_LEAST_BLOCKS = 6  # along a side of the image
# Few blocks say little: so many more are taken to be predicted half as well as by the mean alone.
_PRIOR_BLOCKS, _PRIOR_ERROR = 3.0, 0.5
_POOL = 4  # side of the squares whose mean errors are compared [half-size px]

_FEW, _MOST = 0.5, 0.9  # fractions of a block's neighbours with a measurement
_NEAR, _FAR = 2.5, 5.0  # gaps between which the network's reach falls from 1 to 0
# Of a scan most of which is dense. In the middle of a gap of 20 px, completions of validation scans
# are off by 0.7 of the scan's deviation, whatever its other gaps are.
_LEAST_GAP_PX = 8.0
_OUTLIERS = 0.005  # fraction of the samples on either side that may be outliers
_RANGE_MARGIN = 2.0  # how far they may lie outside of the others' range, in units of that range
_QUANTILE_SAMPLES = 2**16


class Prediction(NamedTuple):
    """How well held-out parts of scans are predicted by the rest, each `[b, 1, 1, 1]`.

    Attributes:
        error: Root mean square error of the means of held-out blocks.
        scatter: Root mean square of what is left within the blocks: noise, and details that are
            finer than the gaps.
    """

    error: Tensor
    scatter: Tensor


class Parts(NamedTuple):
    """What partial scans consist of; all but `rest` are `[b, 1, 1, 1]` or `[b, 1, h, w]`.

    Attributes:
        rest: What is left without outliers, mean and plane waves.
        waves: Plane waves of lattices.
        mean: Mean of each scan.
        std: Standard deviation of each scan.
        low: Lowest intensity of each scan.
        high: Highest one.
        gap: See `gaps`.
        typical_gap: See `gaps`.
        predicted: How well held-out parts of `rest` are predicted, nothing being exact.
    """

    rest: PartialScan
    waves: Tensor
    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    gap: Tensor
    typical_gap: Tensor
    predicted: Prediction

    def of(self, number: int) -> Parts:
        """Those of one scan of the batch."""
        one = slice(number, number + 1)
        return Parts(
            PartialScan(*(each[one] for each in self.rest)),
            self.waves[one],
            self.mean[one],
            self.std[one],
            self.low[one],
            self.high[one],
            self.gap[one],
            self.typical_gap[one],
            Prediction(*(each[one] for each in self.predicted)),
        )


def take_apart(scan: PartialScan) -> Parts:
    """What partial scans consist of."""
    dwell = scan.dwell
    scan = PartialScan(without_outliers(scan), dwell)
    low, high = _range(scan)
    centred, mean, std = standardise(scan)
    del scan
    gap, typical = gaps(dwell)

    waves = in_bands(
        lambda gap, waves: reach_of(gap, typical) * waves,
        gap,
        plane_waves(PartialScan(centred, dwell)),
    )
    rest = PartialScan(centred - waves, dwell)
    del centred
    smallest = SMALLEST_ERROR * std
    predicted = Prediction(
        *(each.maximum(smallest) for each in self_prediction(rest, typical, std))
    )
    return Parts(rest, waves, mean, std, low, high, gap, typical, predicted)


def reach_of(gap: Tensor, typical_gap: Tensor) -> Tensor:
    """How near to the measurements pixels are, from 1 to 0 where they say nothing of it.

    Args:
        gap: Of each pixel, see `gaps`.
        typical_gap: Of each scan `[b, 1, 1, 1]`.
    """
    gaps = gap / typical_gap.clamp(min=_LEAST_GAP_PX)
    return ((_FAR - gaps) / (_FAR - _NEAR)).clamp(0, 1)


def noise_of(parts: Parts) -> Tensor:
    """Standard deviation of a full dwell's measurement in each scan `[b, 1, 1, 1]`.

    It is estimated from the scan, and includes details that are finer than the scan's gaps.
    """
    # Of the mean of four pixels, weighted by their dwell.
    half = halved(parts.rest).dwell
    mean_dwell = sum_pixels(half.square()) / sum_pixels(half).clamp(
        min=torch.finfo(half.dtype).tiny
    )
    return parts.predicted.scatter * (4 * mean_dwell).sqrt()


def without_outliers(scan: PartialScan) -> Tensor:
    """Intensities `[b, 1, h, w]`, moved to the limits of plausible ones; 0 where not measured.

    Hot pixels and cosmic rays would otherwise decide the mean, the deviation and all plane waves.
    """
    intensity = scan.intensity
    measured = torch.where(scan.dwell > 0, intensity, torch.nan).flatten(1)
    step = max(measured.shape[1] // _QUANTILE_SAMPLES, 1)
    while math.gcd(step, intensity.shape[-1]) > 1:  # or some columns would never be looked at
        step += 1
    q = torch.tensor([_OUTLIERS, 1 - _OUTLIERS], device=intensity.device, dtype=intensity.dtype)
    low, high = torch.nanquantile(measured[:, ::step], q, dim=1).view(2, -1, 1, 1, 1)
    # A scan of few levels, as of few electrons, may have all of its quantiles alike.
    spread = high - low
    deviation = (intensity - low).nan_to_num(0.0).square()
    share = scan.dwell / sum_pixels(scan.dwell).clamp(min=torch.finfo(intensity.dtype).tiny)
    spread = torch.where(spread > 0, spread, 10 * sum_pixels(share * deviation).sqrt())
    margin = _RANGE_MARGIN * spread
    return intensity.nan_to_num(0.0).maximum(low - margin).minimum(high + margin)


def gaps(dwell: Tensor) -> tuple[Tensor, Tensor]:
    """About twice the distance of each pixel from the nearest measured one, and what is typical.

    The typical gap [b, 1, 1, 1] is that of the part of the image that was visited: the size [px]
    from which on blocks with a measurement have neighbours with one.

    Args:
        dwell: Dwell maps `[b, 1, h, w]`.
    """
    levels = [(dwell > 0).to(dwell.dtype)]
    while min(levels[-1].shape[-2:]) > 1:
        levels.append(F.max_pool2d(levels[-1], 2, ceil_mode=True))
    typical = torch.ones_like(dwell[:, :, :1, :1])
    open_ = torch.ones_like(typical)  # until blocks are large enough to have neighbours
    for level, visited in enumerate(levels[:-1]):
        around = F.avg_pool2d(visited, 3, 1, 1, count_include_pad=False)
        full = sum_pixels(visited * around) / sum_pixels(visited).clamp(min=1)
        joined = ((full - _FEW) / (_MOST - _FEW)).clamp(0, 1)
        typical = typical + open_ * 2.0**level * (1 - joined)
        open_ = open_ * (joined < 1)
    gap = torch.zeros_like(levels[-1])
    for level, visited in reversed(list(enumerate(levels))):
        if gap.shape != visited.shape:
            gap = F.interpolate(gap, size=visited.shape[-2:], mode="bilinear")
        # Of blocks wider than the typical gap, those with a measurement are of the part that was
        # visited: what lies beside that part, as of a scan that was stopped, is not their gap.
        inside = visited * (2.0**level / typical - 1).clamp(0, 1)
        gap = gap * (1 - inside) + 2.0**level * (1 - visited)
    return gap, typical


def self_prediction(scan: PartialScan, gap: Tensor, std: Tensor) -> Prediction:
    """How well blocks of partial scans are predicted by the rest of them, at half size.

    Args:
        scan: Partial scans, their intensities finite.
        gap: Typical gap of each scan `[b, 1, 1, 1]`, see `gaps`.
        std: Deviation of each scan `[b, 1, 1, 1]`.
    """
    half = halved(scan)
    h, w = half.dwell.shape[-2:]
    side = _block_side((h, w), gap / 2, _SMALLEST_BLOCK_PX / 2)
    held = held_out_blocks((h, w), gap / 2, smallest_px=_SMALLEST_BLOCK_PX / 2)
    seen = PartialScan(half.intensity, half.dwell * (1 - held))
    predicted = spline_fill(
        seen, fidelity=3.0, dwell_exponent=DWELL_EXPONENT, stiffness=STIFFNESS / 4
    )
    weight = half.dwell * held
    off = half.intensity - predicted
    tiny = torch.finfo(gap.dtype).tiny
    all_of_it = sum_pixels(weight * off.square()) / sum_pixels(weight).clamp(min=tiny)
    mass, moment = F.avg_pool2d(
        torch.cat([weight, weight * off], 1), _POOL, ceil_mode=True, count_include_pad=False
    ).chunk(2, 1)
    of_means = sum_pixels(moment.square() / mass.clamp(min=tiny)) / sum_pixels(mass).clamp(min=tiny)
    # A path crosses a block in about two lines of pixels.
    num_blocks = sum_pixels((weight > 0).to(gap.dtype)) / (2 * side)
    prior = _PRIOR_BLOCKS * (_PRIOR_ERROR * std).square()
    error = ((num_blocks * of_means + prior) / (num_blocks + _PRIOR_BLOCKS)).sqrt()
    return Prediction(error, (all_of_it - of_means).clamp(min=0).sqrt())


def held_out_blocks(shape: tuple[int, int], gap: Tensor, *, smallest_px: float) -> Tensor:
    """Every fifth square block of images, 1 inside, `[b, 1, h, w]`.

    No two of them touch, in any direction.

    Args:
        shape: (h, w) of the images [px].
        gap: Typical gap of each scan `[b, 1, 1, 1]` [px]; blocks are twice as wide.
        smallest_px: Smallest side of a block [px].
    """
    h, w = shape
    side = _block_side(shape, gap, smallest_px)
    row = (torch.arange(h, device=gap.device).view(1, 1, -1, 1) / side).floor()
    column = (torch.arange(w, device=gap.device).view(1, 1, 1, -1) / side).floor()
    return ((row + 2 * column) % _HELD_OUT == 0).to(gap.dtype)


def _block_side(shape: tuple[int, int], gap: Tensor, smallest_px: float) -> Tensor:
    largest = max(min(shape) / _LEAST_BLOCKS, smallest_px)
    return (_BLOCK_GAPS * gap).clamp(smallest_px, largest)


def halved(scan: PartialScan) -> PartialScan:
    """Scans at half the size: means of four pixels, of intensities by their dwell."""
    h, w = scan.dwell.shape[-2:]
    sums = torch.cat([scan.dwell, scan.dwell * scan.intensity.nan_to_num(0.0)], 1)
    weight, total = F.avg_pool2d(F.pad(sums, (0, w % 2, 0, h % 2)), 2).chunk(2, 1)
    return PartialScan(total / weight.clamp(min=torch.finfo(weight.dtype).tiny), weight)


def _range(scan: PartialScan) -> tuple[Tensor, Tensor]:
    """Lowest and highest measured intensity `[b, 1, 1, 1]`."""
    measured = scan.dwell > 0
    low = torch.where(measured, scan.intensity, torch.inf).amin((1, 2, 3), keepdim=True)
    high = torch.where(measured, scan.intensity, -torch.inf).amax((1, 2, 3), keepdim=True)
    exists = low <= high
    return torch.where(exists, low, 0.0), torch.where(exists, high, 0.0)
