"""Arrays of a user -> partial scans that can be completed, or one line on why not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_complete.errors import DataError

MIN_SIDE_PX = 32


class Measurement(NamedTuple):
    """Partial scans of one shape.

    Attributes:
        intensity: [b, h, w] in detector units, NaN where not measured.
        dwell: [b, h, w] in full pixel dwells, 0 where not measured.
    """

    intensity: NDArray[np.float64]
    dwell: NDArray[np.float32]

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Where the scans measured, [b, h, w]."""
        return self.dwell > 0

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Dwell-weighted mean and standard deviation of each scan's intensities, [b] each."""
        weight = self.dwell / self.dwell.sum((1, 2), keepdims=True, dtype=np.float64)
        intensity = np.where(self.measured, self.intensity, 0)
        mean = (weight * intensity).sum((1, 2))
        deviation = np.where(self.measured, self.intensity - mean[:, None, None], 0)
        return mean, np.sqrt((weight * deviation**2).sum((1, 2)))


def check_scans(intensity: ArrayLike, dwell: ArrayLike | None, num_axes: int) -> Measurement:
    """The scans [h, w] or [b, h, w] as a checked batch.

    A pixel is measured where its intensity is not NaN and its dwell not 0. Without dwell times,
    pixels that are NaN are not measured, or, if none is, those that are 0; the others have dwell 1.

    Args:
        intensity: Mean over the dwell in each pixel, in detector units.
        dwell: Time in each pixel in full pixel dwells, or None.
        num_axes: 2 for one scan, 3 for a batch.

    Raises:
        DataError: The scans cannot be completed.
    """
    intensity = _real(intensity, "partial scan")
    axes = "[h, w]" if num_axes == 2 else "[b, h, w]"
    sides = intensity.shape[-2:]
    if intensity.ndim != num_axes or not intensity.size or min(sides) < MIN_SIDE_PX:
        raise DataError(
            expected=f"{axes} with sides of at least {MIN_SIDE_PX} px",
            found=f"shape {intensity.shape}",
            where="partial scan",
        )
    if np.isinf(intensity).any():
        raise DataError(
            expected="finite intensities, or NaN where not measured",
            found=f"{int(np.isinf(intensity).sum())} infinite ones",
            where="partial scan",
        )
    missing = np.isnan(intensity)
    if dwell is None:
        dwell = ~missing if missing.any() else intensity != 0
    dwell = _real(dwell, "dwell map")
    _check_dwell(dwell, intensity.shape)

    measured = ~missing & (dwell > 0)
    batch = (-1, *intensity.shape[-2:])
    unmeasured = [i for i, scan in enumerate(measured.reshape(batch)) if not scan.any()]
    if unmeasured:
        which = f" in scan {unmeasured[0]} of the batch" if num_axes == 3 else ""
        raise DataError(
            expected="at least one measured pixel", found=f"none{which}", where="partial scan"
        )
    return Measurement(
        np.where(measured, intensity, np.nan).reshape(batch),
        np.where(measured, dwell, 0).astype(np.float32).reshape(batch),
    )


def _real(values: ArrayLike, where: str) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(expected="real numbers", found=f"{array.dtype} values", where=where)
    return array.astype(np.float64)


def _check_dwell(dwell: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    found, fix = "", ""
    expected = "finite dwell times of 0 or more"
    if dwell.shape != shape:
        expected, found = f"the scan's shape {shape}", f"{dwell.shape}"
        fix = "give the dwell map that belongs to this scan"
    elif not np.isfinite(dwell).all():
        found = f"{int((~np.isfinite(dwell)).sum())} NaN or infinite ones"
    elif (dwell < 0).any():
        found = f"{int((dwell < 0).sum())} negative ones"
    elif dwell.mean() > 1:
        # A mask of 0 and 255, or a map in seconds or counts.
        expected = "dwell times in units of a full pixel dwell, their mean (the coverage) at most 1"
        found = f"a mean of {dwell.mean():.3g}"
        fix = "divide the map by the dwell time that a full scan spends in a pixel"
    if found:
        raise DataError(expected=expected, found=found, where="dwell map", fix=fix)
