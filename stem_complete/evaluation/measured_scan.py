"""A raster partial scan as the classical completions see it: checked, and on [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_complete.errors import DataError

Image = NDArray[np.float32]


@dataclass(frozen=True)
class MeasuredScan:
    """A scan on the scale in which the measured intensities span [0, 1].

    On this scale float64 solvers lose nothing to a detector's large offset.

    Attributes:
        values: [h, w] in [0, 1]; 0 where not measured.
        dwell: [h, w]; 0 where not measured.
        measured: [h, w], where both the intensity is not NaN and the dwell not 0.
        low, high: Measured range, in detector units.
    """

    values: NDArray[np.float64]
    dwell: NDArray[np.float64]
    measured: NDArray[np.bool_]
    low: float
    high: float

    @classmethod
    def read(cls, intensity: ArrayLike, dwell: ArrayLike) -> MeasuredScan:
        """The scan of intensities and dwell [h, w], see `baselines`.

        Raises:
            DataError: It cannot be used.
        """
        intensity = np.asarray(intensity, dtype=np.float64)
        dwell = np.asarray(dwell, dtype=np.float64)
        _check(intensity, dwell)
        measured = ~np.isnan(intensity) & (dwell > 0)
        if not measured.any():
            raise DataError(
                expected="at least one measured pixel", found="none", where="partial scan"
            )
        low, high = float(intensity[measured].min()), float(intensity[measured].max())
        values = np.where(measured, (intensity - low) / ((high - low) or 1.0), 0.0)
        return cls(values, np.where(measured, dwell, 0.0), measured, low, high)

    def weights(self, exponent: float) -> NDArray[np.float64]:
        """dwell^exponent [h, w], with a mean of 1 over the measured pixels and 0 elsewhere."""
        # Against the largest, as high powers of small numbers vanish.
        powers = np.where(self.measured, self.dwell / self.dwell.max(), 0.0) ** exponent
        powers[~self.measured] = 0.0  # 0^0 is 1
        weights: NDArray[np.float64] = powers / powers[self.measured].mean()
        return weights

    def to_input_units(self, image: NDArray[np.float64]) -> Image:
        """`image` [h, w] in detector units, within the measured range."""
        # Clipping in float32, after the last rounding, is what keeps the range exactly.
        units = (self.low + (self.high - self.low) * image).astype(np.float32)
        return np.clip(units, np.float32(self.low), np.float32(self.high))


def _check(intensity: NDArray[np.float64], dwell: NDArray[np.float64]) -> None:
    if intensity.ndim != 2:
        raise DataError(
            expected="one scan [h, w]", found=f"shape {intensity.shape}", where="partial scan"
        )
    if dwell.shape != intensity.shape:
        raise DataError(
            expected=f"the scan's shape {intensity.shape}",
            found=f"{dwell.shape}",
            where="dwell map",
            fix="give the dwell map that belongs to this scan",
        )
    if np.isinf(intensity).any():
        raise DataError(
            expected="finite intensities, or NaN where not measured",
            found=f"{int(np.isinf(intensity).sum())} infinite pixels",
            where="partial scan",
        )
    if not (np.isfinite(dwell) & (dwell >= 0)).all():
        raise DataError(
            expected="finite dwell times of 0 or more",
            found="NaN, Inf or negative ones",
            where="dwell map",
        )


def fill_nearest(scan: MeasuredScan) -> NDArray[np.float64]:
    """Values [h, w] of the measured pixels nearest to each, on [0, 1]."""
    from scipy.ndimage import distance_transform_edt

    index = distance_transform_edt(~scan.measured, return_distances=False, return_indices=True)
    nearest_values: NDArray[np.float64] = scan.values[tuple(index)]
    return nearest_values
