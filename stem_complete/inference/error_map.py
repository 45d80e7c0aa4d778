"""Expected error of each pixel of a completion.

Errors are measured on validation scans, where the truth is known. Their logarithms are a quadratic
function of what is known of a scan and a pixel (`error_features`). A function of nothing is a
factor on the error that the scan's self-prediction suggests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from stem_complete.inference.error_features import FEATURES, ErrorFeatures, error_features
from stem_complete.scan.partial_scan import PartialScan
from stem_complete.scan.parts import Parts

_ROWS = 256  # that are computed at once


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
        value = quadratic(x, slopes, curvatures, self.constant)
        return value.clamp(self.least, self.most)


def quadratic(x: Tensor, slopes: Tensor, curvatures: Tensor, constant: Tensor | float) -> Tensor:
    """Values [...] of the quadratic function at x [10, ...]."""
    gradient = torch.tensordot(curvatures, x, dims=1) + slopes.view(-1, *(1,) * (x.ndim - 1))
    value: Tensor = (x * gradient).sum(0) + constant
    return value
