"""Expected error of each pixel of a completion.

Errors are measured on validation scans, where the truth is known. A network of one hidden layer
learns their logarithms from what every scan and completion have: how noisy the scan is and how well
it predicts itself, how far a pixel is from the measurements, how much the completion varies around
it, and how well it agrees with what was measured there. All intensities are in units of the error
that the scan's self-prediction suggests, so that the map follows gain and offset of the detector.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from stem_complete.data.scans import RasterScan
from stem_complete.scan.adaptive import measured_exactly, take_apart
from stem_complete.scan.filters import gaussian
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


class ErrorFeatures(NamedTuple):
    """Features of the pixels of a completion, in the order of `FEATURES`.

    Attributes:
        of_scan: Those that all pixels share `[6]`.
        of_pixels: The others `[4, h, w]`.
        unit: The error that the scan's self-prediction suggests, in the units of the scan.
        reach: How far the measurements say something of each pixel `[h, w]`, from 1 to 0.
        std: Standard deviation of the scan, in its units.
    """

    of_scan: Tensor
    of_pixels: Tensor
    unit: float
    reach: Tensor
    std: float


def error_features(completion: Image, scan: RasterScan) -> ErrorFeatures:
    """Features of each pixel of a scan's completion [h, w]."""
    mean, std = scan.mean_and_std()
    # In double precision, so that a small contrast on a large offset survives.
    scale = std or 1.0
    intensity, completed, dwell = (
        torch.from_numpy(np.asarray(array, np.float32))[None, None]
        for array in ((scan.intensity - mean) / scale, (completion - mean) / scale, scan.dwell)
    )
    parts = take_apart(PartialScan(intensity, dwell))
    unit, noise = parts.predicted
    completed = (completed - completed.mean()) / unit

    activities = []
    for sigma in _ACTIVITY_SIGMAS_PX:
        local_mean, square = gaussian(torch.cat([completed, completed.square()], 1), sigma).chunk(
            2, 1
        )
        activities.append((square - local_mean.square()).clamp(min=0).sqrt())
    measured = parts.rest.intensity + parts.waves + parts.mean
    exactness = measured_exactly(PartialScan(measured / unit, dwell), completed, parts.std / unit)
    misfit = torch.where(dwell > 0, measured / unit - completed, 0.0)
    misfit = (misfit - _weighted_mean(misfit, dwell)) * (dwell > 0)
    overall = _weighted_mean(misfit.square(), dwell)
    sums, weight = gaussian(torch.cat([dwell * misfit.square(), dwell], 1), _MISFIT_SIGMA_PX).chunk(
        2, 1
    )
    local = (sums + _LITTLE_DWELL * overall) / (weight + _LITTLE_DWELL)

    of_scan = [
        noise / unit,
        parts.typical_gap,
        dwell.mean(),
        completed.square().mean().sqrt(),
        overall.sqrt(),
        exactness,
    ]
    of_pixels = [1 / 3 + parts.gap / parts.typical_gap, *activities, local.clamp(min=0).sqrt()]
    return ErrorFeatures(
        torch.stack([value.flatten()[0] for value in of_scan]).clamp(min=_SMALLEST).log(),
        torch.stack([image[0, 0] for image in of_pixels]).clamp(min=_SMALLEST).log(),
        scale * float(unit),
        parts.reach[0, 0],
        std,
    )


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
    ) -> NDArray[np.float64]:
        """Expected RMS error of each pixel [h, w] of a completion, in the units of the scan.

        Where nothing was measured near it is at least the scan's standard deviation, as only the
        scan's mean is known there.

        Args:
            completion: Of the model [h, w].
            scan: What was measured.
            factor: On the errors where something was measured near.
        """
        features = error_features(completion, scan)
        h, w = features.reach.shape
        if features.std == 0:  # the scan says nothing but its constant
            return np.zeros((h, w))
        square = torch.empty(h, w, dtype=torch.float64)
        for start in range(0, h, _ROWS):
            rows = features.of_pixels[:, start : start + _ROWS]
            of_scan = features.of_scan[:, None, None].expand(-1, *rows.shape[1:])
            square[start : start + _ROWS] = self._log_square(torch.cat([of_scan, rows])).exp()
        square = (factor * features.unit) ** 2 * square
        known = features.reach.double()
        far = square.clamp(min=features.std**2)
        expected: NDArray[np.float64] = (known * square + (1 - known) * far).sqrt().numpy()
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
        of_pixels = each.of_pixels.flatten(1)[:, places]
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


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (weight * values).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)
