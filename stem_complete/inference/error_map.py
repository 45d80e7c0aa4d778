"""Expected error of each pixel of a completion.

Errors are measured on validation scans, where the truth is known. Their logarithms are a quadratic
function of what every scan and completion have: how noisy the scan is and how well it predicts
itself, how far a pixel is from the measurements, how much the completion varies around it, and how
well it agrees with what was measured there. All intensities are in units of the error that the
scan's self-prediction suggests, so that the map follows gain and offset of the detector, and a
function of nothing is a factor on that error.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from stem_complete.scan.adaptive import measured_exactly
from stem_complete.scan.bands import in_bands, sums_in_bands
from stem_complete.scan.filters import gaussian, gaussian_reach_px
from stem_complete.scan.network_input import WHOLE
from stem_complete.scan.partial_scan import PartialScan
from stem_complete.scan.parts import Parts, reach_of, take_apart

Image = NDArray[np.floating[Any]]

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
_SMALLEST = 1e-3  # of what logarithms are taken of, in units of the likely error

_PIXELS_PER_SCAN = 500
_OUTSIDE = 0.005  # fraction of the pixels on either side that a range leaves out
_LEAST_DEVIATION = 0.1
_LOG_SQUARES = (-12.0, 10.0)
_LARGEST_SQUARE = 1e4
# Of the coefficients, in units of one scan. The pixels of a scan share what is wrong with it, so
# that coefficients are as certain as the number of scans makes them. Of 1, 10 and 50, 10 had the
# highest likelihood on fields of view that were left out, for 80 to 480 scans; a little more holds
# what whole scans add to it.
_PENALTY = 13.0
# Of a scan's logarithmic error beside the likelihood of its pixels, which a few scans with large
# errors decide: expected errors of the others were a tenth too high. Of 0, 1 and 10 the errors of
# 212 kinds of scans were expected best with 10, on fields of view that were left out.
_OF_SCANS = 10.0
_NUM_ITERATIONS = 200
_ROWS = 256  # that are computed at once


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
        return torch.stack([distance, *others]).clamp(min=_SMALLEST).log()

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
        torch.stack([value.flatten()[0] for value in of_scan]).clamp(min=_SMALLEST).log(),
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


class ExpectedErrors(BaseModel, ABC):
    """What expects errors from features of scans and pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def log_square(self, features: Tensor) -> Tensor:
        """Expected logarithms [h, w] of squared errors, in units of the likely one.

        Args:
            features: In the order of `FEATURES` [10, h, w].
        """

    def expected_error(
        self,
        completion: Tensor,
        scan: PartialScan,
        parts: Parts | None = None,
        factor: float = 1.0,
    ) -> NDArray[np.float32]:
        """Expected RMS error of each pixel [h, w] of a completion, in the units of the scan.

        Where nothing was measured near it is the scan's standard deviation, as only the scan's mean
        is known there.

        Args:
            completion: Of the model [1, 1, h, w].
            scan: What was measured, see `error_features`.
            parts: Those of the scan, if they are known.
            factor: On the errors, which it raises to the scan's standard deviation at most, as that
                is what its mean errs by.
        """
        return self.expected(error_features(completion, scan, parts), factor)

    def expected(self, features: ErrorFeatures, factor: float = 1.0) -> NDArray[np.float32]:
        """The same from features."""
        h, w = features.shape
        if features.std == 0:  # the scan says nothing but its constant
            return np.zeros((h, w), np.float32)
        expected = np.empty((h, w), np.float32)
        for start in range(0, h, _ROWS):
            rows = slice(start, start + _ROWS)
            of_pixels = features.of_pixels(rows)
            of_scan = features.of_scan[:, None, None].expand(-1, *of_pixels.shape[1:])
            square = self.log_square(torch.cat([of_scan, of_pixels])).double().exp()
            square = features.unit**2 * square
            square = (factor**2 * square).clamp(max=features.std**2).maximum(square)
            known = features.reach(rows).double()
            far = features.std**2
            expected[rows] = (known * square + (1 - known) * far).sqrt().cpu().numpy()
        return expected


class ErrorCalibration(ExpectedErrors):
    """A quadratic function of the features, whose values are logarithms of expected squares.

    Nothing is continued beyond what it was fitted to: features count as at the ends of their
    ranges, and so do the function's values, which features that are seldom together could take
    anywhere.

    Attributes:
        means: Mean of each feature, see `FEATURES` [10].
        deviations: Standard deviation of each feature [10].
        lowest: Lowest value of each feature [10].
        highest: Highest value of each feature [10].
        slopes: Coefficients of the features, in deviations from their means [10].
        curvatures: Coefficients of their products, symmetric [10, 10].
        constant: Value at the means.
        least: Lowest value of the function.
        most: Highest value of the function.
        num_images: Number of validation scans it was fitted to.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    slopes: tuple[float, ...]
    curvatures: tuple[tuple[float, ...], ...]
    constant: float
    least: float
    most: float
    num_images: int

    @model_validator(mode="after")
    def _is_function(self) -> Self:
        vectors = (self.means, self.deviations, self.lowest, self.highest, self.slopes)
        num = len(FEATURES)
        if {len(self.curvatures), *map(len, [*vectors, *self.curvatures])} != {num}:
            raise ValueError(f"{num} features everywhere")
        numbers = [v for row in [*vectors, *self.curvatures] for v in row]
        if not np.isfinite([*numbers, self.constant, self.least, self.most]).all():
            raise ValueError("finite numbers")
        if min(self.deviations) <= 0:
            raise ValueError("positive deviations")
        ends = zip((*self.lowest, self.least), (*self.highest, self.most), strict=True)
        if any(low > high for low, high in ends):
            raise ValueError("ranges that begin below their ends")
        return self

    def log_square(self, features: Tensor) -> Tensor:
        """See `ExpectedErrors`."""
        mean, deviation, low, high = (
            features.new_tensor(each)[:, None, None]
            for each in (self.means, self.deviations, self.lowest, self.highest)
        )
        x = (features.maximum(low).minimum(high) - mean) / deviation
        slopes, curvatures = map(features.new_tensor, (self.slopes, self.curvatures))
        value = _quadratic(x, slopes, curvatures, self.constant)
        return value.clamp(self.least, self.most)


def _quadratic(x: Tensor, slopes: Tensor, curvatures: Tensor, constant: Tensor | float) -> Tensor:
    """Values [...] of the quadratic function at x [10, ...]."""
    gradient = torch.tensordot(curvatures, x, dims=1) + slopes.view(-1, *(1,) * (x.ndim - 1))
    value: Tensor = (x * gradient).sum(0) + constant
    return value


def calibrated(completions: Iterable[tuple[ErrorFeatures, Image]]) -> ErrorCalibration | None:
    """The function that best expects the errors of validation completions; None without any.

    Best is the highest likelihood of normal errors with these deviations, on pixels drawn from each
    scan, and of log-normal errors of whole scans, less a penalty on coefficients: few scans give
    little more than a constant.

    Args:
        completions: Features of each one's pixels, and their squared errors in units of the
            features' `unit`, squared [h, w].
    """
    features, squares, reaches, of_nothing, of_scans = [], [], [], [], []
    generator = torch.Generator().manual_seed(0)
    for each, error in completions:
        places = torch.randint(error.size, (_PIXELS_PER_SCAN,), generator=generator)
        of_pixels = each.of_pixels().flatten(1)[:, places]
        of_scan = each.of_scan[:, None].expand(-1, len(places))
        features.append(torch.cat([of_scan, of_pixels]))
        square = torch.from_numpy(np.asarray(error, np.float64)).flatten()
        squares.append(square[places])
        reaches.append(each.reach().flatten()[places])
        of_nothing.append((each.std / each.unit) ** 2)
        of_scans.append(square.mean())
    if not features:
        return None
    reach, far = torch.stack(reaches).double(), torch.tensor(of_nothing, dtype=torch.float64)
    of_scan = torch.stack(of_scans).clamp(min=_SMALLEST**2).log()
    inputs = torch.cat(features, 1).double()
    square = torch.cat(squares).clamp(max=_LARGEST_SQUARE)
    low, high = _range_of(inputs)
    mean = inputs.mean(1, keepdim=True)
    deviation = inputs.std(1, keepdim=True).clamp(min=_LEAST_DEVIATION)
    x = (inputs.maximum(low).minimum(high) - mean) / deviation

    num = len(FEATURES)
    slopes = torch.zeros(num, dtype=torch.float64, requires_grad=True)
    curvatures = torch.zeros(num, num, dtype=torch.float64, requires_grad=True)
    constant = square.mean().clamp(min=1e-6).log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [slopes, curvatures, constant], max_iter=_NUM_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_square = _quadratic(x, slopes, curvatures, constant).clamp(*_LOG_SQUARES)
        likelihood = (log_square + square * (-log_square).exp()).mean() / 2
        near = reach * log_square.exp().view_as(reach)
        off = (near + (1 - reach) * far[:, None]).mean(1).log() - of_scan
        size = slopes.square().sum() + curvatures.square().sum()
        total: Tensor = likelihood + _OF_SCANS * (off / 2).square().mean() / 2
        total = total + _PENALTY / len(features) * size / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        least, most = _range_of(_quadratic(x, slopes, curvatures, constant).clamp(*_LOG_SQUARES))
    return ErrorCalibration(
        means=tuple(mean.flatten().tolist()),
        deviations=tuple(deviation.flatten().tolist()),
        lowest=tuple(low.flatten().tolist()),
        highest=tuple(high.flatten().tolist()),
        slopes=tuple(slopes.tolist()),
        curvatures=tuple(map(tuple, curvatures.tolist())),
        constant=constant.item(),
        least=least.item(),
        most=most.item(),
        num_images=len(features),
    )


def _range_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of the range [..., 1] of values [..., n], but for a few on either side."""
    ends = np.quantile(values.numpy(), [_OUTSIDE, 1 - _OUTSIDE], axis=-1, keepdims=True)
    low, high = torch.from_numpy(ends)
    return low, high
