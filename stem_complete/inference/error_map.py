"""Expected error of each pixel of a completion.

Errors are measured on validation scans, where the truth is known. A network of one hidden layer
learns their logarithms from what every scan and completion have: how noisy the scan is and how well
it predicts itself, how far a pixel is from the measurements, how much the completion varies around
it, and how well it agrees with what was measured there. All intensities are in units of the error
that the scan's self-prediction suggests, so that the map follows gain and offset of the detector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from stem_complete.data.scans import RasterScan
from stem_complete.scan.adaptive import measured_exactly, reach_of, take_apart
from stem_complete.scan.bands import in_bands, sums_in_bands
from stem_complete.scan.filters import gaussian, gaussian_reach_px
from stem_complete.scan.network_input import WHOLE
from stem_complete.scan.partial_scan import PartialScan

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

_NUM_HIDDEN = 16
_PIXELS_PER_SCAN = 500
_MOST_DEVIATIONS = 4.0  # of a feature from its mean over validation scans
_LOG_SQUARES = (-12.0, 10.0)
_LARGEST_SQUARE = 1e4
_WEIGHT_DECAY = 1e-3
_NUM_ITERATIONS = 200
_ROWS = 256  # that are computed at once


@dataclass(frozen=True)
class ErrorFeatures:
    """Features of the pixels of a completion, in the order of `FEATURES`.

    Attributes:
        of_scan: Those that all pixels share `[6]`.
        unit: The error that the scan's self-prediction suggests, in the units of the scan.
        std: Standard deviation of the scan, in its units.
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


def error_features(completion: Image, scan: RasterScan) -> ErrorFeatures:
    """Features of each pixel of a scan's completion [h, w]."""
    mean, std = scan.mean_and_std()
    scale = std or 1.0
    intensity, completed, dwell = (
        torch.from_numpy(array)[None, None]
        for array in (
            _standardised(scan.intensity, mean, scale),
            _standardised(completion, mean, scale),
            scan.dwell,
        )
    )
    parts = take_apart(PartialScan(intensity, dwell))
    del intensity
    unit, noise = parts.predicted
    mean_completed = completed.mean()
    completed = in_bands(lambda completed: (completed - mean_completed) / unit, completed)
    activities = [
        in_bands(
            lambda images, sigma=sigma: _activity(images, sigma),
            completed,
            halo=gaussian_reach_px(sigma),
        )
        for sigma in _ACTIVITY_SIGMAS_PX
    ]
    measured = in_bands(
        lambda rest, waves: (rest + waves + parts.mean) / unit, parts.rest.intensity, parts.waves
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
    local = in_bands(
        lambda dwell, square: _local_misfit(dwell, square, overall),
        dwell,
        square,
        halo=gaussian_reach_px(_MISFIT_SIGMA_PX),
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
        scale * float(unit),
        std,
        parts.typical_gap,
        (parts.gap, *activities, local),
    )


def _standardised(image: Image, mean: float, scale: float) -> NDArray[np.float32]:
    # In double precision, so that a small contrast on a large offset survives.
    result = np.empty(image.shape, np.float32)
    for start in range(0, len(image), _ROWS):
        rows = slice(start, start + _ROWS)
        result[rows] = (image[rows] - mean) / scale
    return result


def _activity(images: Tensor, sigma_px: float) -> Tensor:
    """Standard deviations of images around each pixel."""
    local_mean, square = gaussian(torch.cat([images, images.square()], 1), sigma_px).chunk(2, 1)
    return (square - local_mean.square()).clamp(min=0).sqrt()


def _local_misfit(dwell: Tensor, square: Tensor, overall: Tensor) -> Tensor:
    """Root mean square misfit around each pixel, of squares weighted by the dwell."""
    sums, weight = gaussian(torch.cat([square, dwell], 1), _MISFIT_SIGMA_PX).chunk(2, 1)
    local = (sums + _LITTLE_DWELL * overall) / (weight + _LITTLE_DWELL)
    return local.clamp(min=0).sqrt()


class ErrorCalibration(BaseModel):
    """The network that expects errors; one row of weights for each of its hidden units.

    Attributes:
        means: Mean of each feature, see `FEATURES`.
        deviations: Standard deviation of each feature.
        weights: Of the features, in each hidden unit [n, 10].
        biases: Of the hidden units [n].
        outputs: Weights of the hidden units [n].
        constant: Added to their sum, which is the logarithm of the mean squared error.
        num_images: Number of validation scans they were fitted to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]
    outputs: tuple[float, ...]
    constant: float
    num_images: int

    @model_validator(mode="after")
    def _is_network(self) -> Self:
        num, sizes = len(FEATURES), {len(self.biases), len(self.outputs), len(self.weights)}
        rows = {len(self.means), len(self.deviations), *map(len, self.weights)}
        if len(sizes) != 1 or rows != {num}:
            raise ValueError(f"{num} features, and as many hidden units everywhere")
        values = [*self.means, *self.deviations, *self.biases, *self.outputs, self.constant]
        if not np.isfinite([*values, *(v for row in self.weights for v in row)]).all():
            raise ValueError("finite weights")
        if min(self.deviations) <= 0:
            raise ValueError("positive deviations")
        return self

    def expected_error(
        self, completion: Image, scan: RasterScan, factor: float = 1.0
    ) -> NDArray[np.float32]:
        """Expected RMS error of each pixel [h, w] of a completion, in the units of the scan.

        Where nothing was measured near it is at least the scan's standard deviation, as only the
        scan's mean is known there.

        Args:
            completion: Of the model [h, w].
            scan: What was measured.
            factor: On the errors where something was measured near.
        """
        features = error_features(completion, scan)
        h, w = features.shape
        if features.std == 0:  # the scan says nothing but its constant
            return np.zeros((h, w), np.float32)
        expected = np.empty((h, w), np.float32)
        for start in range(0, h, _ROWS):
            rows = slice(start, start + _ROWS)
            of_pixels = features.of_pixels(rows)
            of_scan = features.of_scan[:, None, None].expand(-1, *of_pixels.shape[1:])
            square = self._log_square(torch.cat([of_scan, of_pixels])).exp()
            square = (factor * features.unit) ** 2 * square
            known = features.reach(rows).double()
            far = square.clamp(min=features.std**2)
            expected[rows] = (known * square + (1 - known) * far).sqrt().numpy()
        return expected

    def _log_square(self, features: Tensor) -> Tensor:
        """Expected logarithms [h, w] of squared errors, in units of the likely one."""
        as_column = torch.tensor([self.means, self.deviations])[:, :, None, None]
        mean, deviation = as_column
        x = ((features - mean) / deviation).clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        hidden = torch.einsum("nf,fhw->nhw", torch.tensor(self.weights), x)
        hidden = (hidden + torch.tensor(self.biases)[:, None, None]).tanh_()
        log_square = torch.einsum("n,nhw->hw", torch.tensor(self.outputs), hidden) + self.constant
        bounded: Tensor = log_square.clamp(*_LOG_SQUARES).double()
        return bounded


def calibrated(completions: Iterable[tuple[ErrorFeatures, Image]]) -> ErrorCalibration | None:
    """The network that best expects the errors of validation completions; None without any.

    Best is the highest likelihood of normal errors with these deviations, on pixels drawn from each
    scan.

    Args:
        completions: Features of each one's pixels, and their squared errors in units of the
            features' `unit`, squared [h, w].
    """
    features, squares = [], []
    generator = torch.Generator().manual_seed(0)
    for each, error in completions:
        places = torch.randint(error.size, (_PIXELS_PER_SCAN,), generator=generator)
        of_pixels = each.of_pixels().flatten(1)[:, places]
        of_scan = each.of_scan[:, None].expand(-1, len(places))
        features.append(torch.cat([of_scan, of_pixels]).T)
        squares.append(torch.from_numpy(np.asarray(error, np.float64)).flatten()[places])
    if not features:
        return None
    inputs = torch.cat(features).double()
    square = torch.cat(squares).clamp(max=_LARGEST_SQUARE)
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=0.1)
    x = ((inputs - mean) / deviation).clamp(-_MOST_DEVIATIONS, _MOST_DEVIATIONS)

    def drawn(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.div_(shape[-1] ** 0.5).requires_grad_()

    weights, biases, outputs = (
        drawn(_NUM_HIDDEN, len(FEATURES)),
        drawn(_NUM_HIDDEN),
        drawn(_NUM_HIDDEN),
    )
    constant = square.mean().clamp(min=1e-6).log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights, biases, outputs, constant],
        max_iter=_NUM_ITERATIONS,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_square = (x @ weights.T + biases).tanh() @ outputs + constant
        log_square = log_square.clamp(*_LOG_SQUARES)
        likelihood = (log_square + square * (-log_square).exp()).mean() / 2
        decay = weights.square().mean() + outputs.square().mean()
        total: Tensor = likelihood + _WEIGHT_DECAY * decay
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return ErrorCalibration(
        means=tuple(mean.tolist()),
        deviations=tuple(deviation.tolist()),
        weights=tuple(map(tuple, weights.tolist())),
        biases=tuple(biases.tolist()),
        outputs=tuple(outputs.tolist()),
        constant=constant.item(),
        num_images=len(features),
    )
