"""Expected error of each pixel of a completion.

Errors are measured on validation scans, where the truth is known, and looked up by two features
that every scan has: the distance of a pixel from the nearest measured one, and the variation of the
completion around it. Intensities are in units of the scan's own standard deviation, so that the map
follows gain and offset of the detector.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from stem_complete.data.scans import RasterScan

Image = NDArray[np.floating[Any]]

ACTIVITY_SIGMA_PX = 4.0
"""Width of the Gaussian neighbourhood in which the variation is measured."""

_DISTANCE_EDGES = (0, 0.5, 1.2, 1.8, 2.5, 3.5, 4.5, 5.5, 7, 9, 12, 16, 22, 30, 42, 58, 80, np.inf)
_ACTIVITY_EDGES = (0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75, 1, 1.4, 2, np.inf)
_NUM_ISOTONIC_SWEEPS = 200


class Features(NamedTuple):
    """Features that the expected error of a pixel is looked up by.

    Attributes:
        distance: Distance from the nearest measured pixel [px], [h, w].
        activity: Standard deviation of the completion around the pixel, in units of the scan's,
            [h, w].
    """

    distance: NDArray[np.float64]
    activity: NDArray[np.float64]


def error_features(completion: Image, scan: RasterScan) -> tuple[Features, float]:
    """Features of each pixel of a scan's completion [h, w], and the scan's standard deviation."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    _, std = scan.mean_and_std()
    # Around the mean, so that the difference of squares loses nothing to a large offset.
    centred = (completion - np.mean(completion, dtype=np.float64)) / (std or 1.0)
    mean = gaussian_filter(centred, ACTIVITY_SIGMA_PX, mode="mirror")
    square = gaussian_filter(centred**2, ACTIVITY_SIGMA_PX, mode="mirror")
    activity = np.sqrt(np.maximum(square - mean**2, 0))
    return Features(distance_transform_edt(~scan.measured), activity), std


class ErrorCalibration(BaseModel):
    """Table of root mean square errors, never falling with distance or activity.

    Attributes:
        distances: Distances of its rows [px], rising, [n].
        activities: Activities of its columns, rising, [m].
        rms_error: Errors in units of the scan's standard deviation, [n, m].
        num_images: Number of validation scans they were measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    distances: tuple[float, ...]
    activities: tuple[float, ...]
    rms_error: tuple[tuple[float, ...], ...]
    num_images: int

    @model_validator(mode="after")
    def _is_table(self) -> Self:
        table = np.array(self.rms_error, dtype=np.float64, ndmin=2)
        if table.shape != (len(self.distances), len(self.activities)) or not table.size:
            raise ValueError("a row of errors per distance and a column per activity")
        for axis in (self.distances, self.activities):
            if not np.all(np.diff(axis) > 0):
                raise ValueError("rising distances and activities")
        if not (np.isfinite(table).all() and (table >= 0).all()):
            raise ValueError("finite errors that are not negative")
        return self

    def expected_error(self, features: Features) -> NDArray[np.float64]:
        """Expected RMS error of each pixel [h, w], in units of the scan's deviation.

        Squares are interpolated linearly. Beyond the largest calibrated distance the error rises
        to the scan's standard deviation, which it reaches at twice that distance, as only the
        scan's mean is known there. Beyond the other ends of the table it is constant.
        """
        from scipy.ndimage import map_coordinates

        square = np.square(self.rms_error)
        far = 2 * max(self.distances[-1], 1.0)
        distances = [*self.distances, far]
        square = np.vstack([square, np.maximum(square[-1], 1.0)])
        places = [
            np.interp(values, nodes, np.arange(len(nodes)))
            for values, nodes in zip(features, (distances, self.activities), strict=True)
        ]
        error: NDArray[np.float64] = np.sqrt(
            map_coordinates(square, places, order=1, mode="nearest")
        )
        return error


def calibrated(completions: Iterable[tuple[Features, Image]]) -> ErrorCalibration | None:
    """Table of the root mean square errors of validation completions; None without any.

    Args:
        completions: Features of each one's pixels, and their squared errors in units of the scan's
            variance [h, w].
    """
    # Sums over pixels of 1, distance, activity and squared error in each cell of the table.
    sums = np.zeros((4, len(_DISTANCE_EDGES) - 1, len(_ACTIVITY_EDGES) - 1))
    num_images = 0
    for features, squared_error in completions:
        distance, activity, square = (v.ravel() for v in (*features, squared_error))
        for place, weights in enumerate((np.ones_like(distance), distance, activity, square)):
            sums[place] += np.histogram2d(
                distance, activity, bins=(_DISTANCE_EDGES, _ACTIVITY_EDGES), weights=weights
            )[0]
        num_images += 1
    if not num_images:
        return None
    rows, columns = (sums[0].sum(axis) > 0 for axis in (1, 0))
    count, distance, activity, square = sums[:, rows][:, :, columns]
    # Cells that were never seen take the mean of their distance, with next to no weight.
    seen = count > 0
    of_row = square.sum(1, keepdims=True) / count.sum(1, keepdims=True)
    means = np.where(seen, square / np.where(seen, count, 1), of_row)
    means = _monotone(means, np.where(seen, count, 1e-6 * count.sum()))
    return ErrorCalibration(
        distances=tuple(distance.sum(1) / count.sum(1)),
        activities=tuple(activity.sum(0) / count.sum(0)),
        rms_error=tuple(map(tuple, np.sqrt(means))),
        num_images=num_images,
    )


def _monotone(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` [n, m] pooled until none falls along either axis; their weighted sum stays.

    Pooling adjacent violators (Barlow et al. 1972) along one axis can undo the other, so the axes
    take turns.
    """
    from scipy.optimize import isotonic_regression

    for _ in range(_NUM_ISOTONIC_SWEEPS):
        before = values
        for _ in range(2):
            pooled = [
                isotonic_regression(line, weights=weight).x
                for line, weight in zip(values, weights, strict=True)
            ]
            values, weights = np.array(pooled).T, weights.T
        if np.allclose(values, before, rtol=1e-9, atol=0):
            break
    # What the last turns left is rounding.
    monotone: NDArray[np.float64] = np.maximum.accumulate(
        np.maximum.accumulate(values, axis=0), axis=1
    )
    return monotone
