"""What the error of each pixel of a completion is expected from.

Every scan and completion have it: how noisy the scan is and how well it predicts itself, how far a
pixel is from the measurements, how much the completion varies around it, and how well it agrees
with what was measured there. All intensities are in units of the error that the scan's
self-prediction suggests, and so follow gain and offset of the detector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.adaptive import measured_exactly
from stem_complete.scan.bands import in_bands, sums_in_bands
from stem_complete.scan.filters import gaussian, gaussian_reach_px
from stem_complete.scan.network_input import WHOLE
from stem_complete.scan.partial_scan import PartialScan
from stem_complete.scan.parts import Parts, reach_of, take_apart

FEATURES = (
    "noise",
    "gap",
    "coverage",
    "contrast",
    "misfit",
    "exactness",
    "distance",
    "activity",
    "wide activity",
    "local misfit",
)
"""What an error is expected from: six features of the scan and four of each pixel."""

_ACTIVITY_SIGMAS_PX = (4.0, 12.0)
_MISFIT_SIGMA_PX = 6.0
_LITTLE_DWELL = 0.02  # in a pixel's neighbourhood, which then hardly has a misfit of its own
SMALLEST = 1e-3  # of what logarithms are taken of, in units of the likely error


@dataclass(frozen=True)
class ErrorFeatures:
    """Features of the pixels of a completion, in the order of `FEATURES`.

    Attributes:
        of_scan: Those that all pixels share `[6]`.
        unit: The error that the scan's self-prediction suggests, in the units of the scan.
        std: Standard deviation of the scan, in its units; 0 if it is constant.
        typical_gap: See `gaps` `[1, 1, 1, 1]`.
        maps: What the other features are made of, `[1, 1, h, w]` each: gap, see `gaps`, both
            activities, and the local misfit.
    """

    of_scan: Tensor
    unit: float
    std: float
    typical_gap: Tensor
    maps: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the completion [px]."""
        height, width = self.maps[0].shape[-2:]
        return height, width

    def of_pixels(self, rows: slice = WHOLE) -> Tensor:
        """Those of each pixel `[4, rows, w]`."""
        gap, *others = (each[0, 0, rows] for each in self.maps)
        distance = 1 / 3 + gap / self.typical_gap[0, 0]
        return torch.stack([distance, *others]).clamp(min=SMALLEST).log()

    def reach(self, rows: slice = WHOLE) -> Tensor:
        """How far the measurements say something of each pixel `[rows, w]`, from 1 to 0."""
        return reach_of(self.maps[0][0, 0, rows], self.typical_gap[0, 0])


def error_features(
    completion: Tensor, scan: PartialScan, parts: Parts | None = None
) -> ErrorFeatures:
    """Features of each pixel of one scan's completion.

    Args:
        completion: [1, 1, h, w], in the units of the scan.
        scan: What was measured, best on [-1, 1]: float32 keeps no small contrast on a large offset.
        parts: Those of the scan, if they are known.
    """
    parts = parts or take_apart(scan)
    dwell = parts.rest.dwell
    completed = completion.to(dwell.device)
    unit, noise = parts.predicted
    mean_completed = completed.mean()
    completed = in_bands(lambda completed: (completed - mean_completed) / unit, completed)
    activities = [
        in_bands(
            lambda images, around=around: _activity(images, around),
            completed,
            halo=around.halo_px,
            multiple=around.side_px,
        )
        for around in map(_Neighbourhood, _ACTIVITY_SIGMAS_PX)
    ]
    # Each less its own mean, as the completion.
    measured = in_bands(
        lambda rest, waves: (rest + waves) / unit, parts.rest.intensity, parts.waves
    )
    exactness = measured_exactly(PartialScan(measured, dwell), completed, parts.std / unit)
    misfit = in_bands(
        lambda dwell, *images: torch.where(dwell > 0, images[0] - images[1], 0.0),
        dwell,
        measured,
        completed,
    )
    del measured
    total = sums_in_bands(lambda dwell: dwell, dwell).clamp(min=torch.finfo(dwell.dtype).tiny)
    mean_misfit = sums_in_bands(torch.mul, dwell, misfit) / total
    square = in_bands(
        lambda dwell, misfit: dwell * ((misfit - mean_misfit) * (dwell > 0)).square(), dwell, misfit
    )
    del misfit
    overall = square.sum((2, 3), keepdim=True) / total
    near = _Neighbourhood(_MISFIT_SIGMA_PX)
    local = in_bands(
        lambda dwell, square: _local_misfit(dwell, square, overall, near),
        dwell,
        square,
        halo=near.halo_px,
        multiple=near.side_px,
    )
    of_scan = [
        noise / unit,
        parts.typical_gap,
        dwell.mean(),
        (sums_in_bands(torch.square, completed) / completed.numel()).sqrt(),
        overall.sqrt(),
        exactness,
    ]
    return ErrorFeatures(
        torch.stack([value.flatten()[0] for value in of_scan]).clamp(min=SMALLEST).log(),
        float(unit),
        float(parts.std) if float(parts.low) < float(parts.high) else 0.0,
        parts.typical_gap,
        (parts.gap, *activities, local),
    )


class _Neighbourhood(NamedTuple):
    """A Gaussian neighbourhood of a pixel, made of small squares of pixels.

    Its means take a sixth of the time of those of single pixels, and error maps by them differ by a
    thousandth in the median.
    """

    sigma_px: float

    @property
    def side_px(self) -> int:
        """Side of the squares: a quarter to half of the Gaussian's width."""
        return 1 << int(math.log2(self.sigma_px / 2))

    @property
    def _sigma(self) -> float:
        """Width of the Gaussian [squares]: squares and the interpolation between them blur, too."""
        side = self.side_px
        return math.sqrt(self.sigma_px**2 - (side**2 - 1) / 4) / side

    @property
    def halo_px(self) -> int:
        """Distance that means depend on."""
        return self.side_px * (gaussian_reach_px(self._sigma) + 1)

    def means(self, images: Tensor) -> Tensor:
        """Means of images around each pixel; beyond their borders they are 0."""
        h, w = images.shape[-2:]
        side = self.side_px
        # With one square more on each side, between which and the last one is interpolated.
        padded = F.pad(images, (side, side + -w % side, side, side + -h % side))
        blurred = gaussian(F.avg_pool2d(padded, side), self._sigma)
        enlarged = F.interpolate(blurred, scale_factor=side, mode="bilinear")
        return enlarged[..., side : side + h, side : side + w]


def _activity(images: Tensor, around: _Neighbourhood) -> Tensor:
    """Standard deviations of images around each pixel."""
    local_mean, square = around.means(torch.cat([images, images.square()], 1)).chunk(2, 1)
    return (square - local_mean.square()).clamp(min=0).sqrt()


def _local_misfit(dwell: Tensor, square: Tensor, overall: Tensor, near: _Neighbourhood) -> Tensor:
    """Root mean square misfit around each pixel, of squares weighted by the dwell."""
    sums, weight = near.means(torch.cat([square, dwell], 1)).chunk(2, 1)
    local = (sums + _LITTLE_DWELL * overall) / (weight + _LITTLE_DWELL)
    return local.clamp(min=0).sqrt()
