"""Error maps of models that were made before noise was estimated from the scan.

A table of errors on validation scans by two features: the distance of a pixel from the nearest
measured one, and the variation of the completion around it, in units of the scan's own standard
deviation. `error_map` has what is calibrated now.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from stem_complete.scan import PartialScan
from stem_complete.scan.parts import Parts

ACTIVITY_SIGMA_PX = 4.0
"""Width of the Gaussian neighbourhood in which the variation is measured."""

_TRUNCATE = 4.0  # deviations at which scipy's Gaussian ends
_ROWS = 256  # that are computed at once


class Features(NamedTuple):
    """Features that the expected error of a pixel is looked up by.

    Attributes:
        distance: Distance from the nearest measured pixel [px], [h, w].
        activity: Standard deviation of the completion around the pixel, in units of the scan's,
            [h, w].
    """

    distance: NDArray[np.float64]
    activity: NDArray[np.float64]


def error_features(completion: NDArray[np.float64], measured: NDArray[np.bool_]) -> Features:
    """Features of each pixel of a completion.

    Args:
        completion: [h, w] in units of the scan's standard deviation, its mean near 0, so that the
            difference of squares loses nothing to a large offset.
        measured: Where the scan measured, [h, w].
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    mean = gaussian_filter(completion, ACTIVITY_SIGMA_PX, mode="mirror")
    square = gaussian_filter(completion**2, ACTIVITY_SIGMA_PX, mode="mirror")
    activity = np.sqrt(np.maximum(square - mean**2, 0))
    if not measured.any():
        return Features(np.full(completion.shape, np.inf), activity)
    return Features(distance_transform_edt(~measured), activity)


class ErrorTable(BaseModel):
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

    def expected_error(
        self,
        completion: Tensor,
        scan: PartialScan,
        parts: Parts | None = None,
        factor: float = 1.0,
    ) -> NDArray[np.float32]:
        """See `error_map.ExpectedErrors`; it needs no parts."""
        del parts
        image, intensity, dwell = (each[0, 0].double().numpy() for each in (completion, *scan))
        measured = dwell > 0
        of_scan, weight = intensity[measured], dwell[measured]
        off = of_scan - np.average(of_scan, weights=weight)
        std = float(np.sqrt(np.average(off**2, weights=weight)))
        mean = image.mean()
        # Farther pixels change nothing: the activity does not see them, and errors do not rise.
        halo = math.ceil(max(self._far, _TRUNCATE * ACTIVITY_SIGMA_PX + 1))
        expected = np.empty(image.shape, np.float32)
        for start in range(0, len(expected), _ROWS):
            above, below = max(start - halo, 0), start + _ROWS + halo
            features = error_features(
                (image[above:below] - mean) / (std or 1.0), measured[above:below]
            )
            inner = slice(start - above, start - above + _ROWS)
            error = self.of_features(Features(*(each[inner] for each in features)))
            expected[start : start + _ROWS] = factor * std * error
        return expected

    @property
    def _far(self) -> float:
        """Distance at which nothing is known of a pixel [px]."""
        return 2 * max(self.distances[-1], 1.0)

    def of_features(self, features: Features) -> NDArray[np.float64]:
        """Expected RMS error of each pixel [h, w], in units of the scan's deviation.

        Squares are interpolated linearly. Beyond the largest calibrated distance the error rises
        to the scan's standard deviation, which it reaches at twice that distance, as only the
        scan's mean is known there. Beyond the other ends of the table it is constant.
        """
        from scipy.ndimage import map_coordinates

        square = np.square(self.rms_error)
        distances = [*self.distances, self._far]
        square = np.vstack([square, np.maximum(square[-1], 1.0)])
        places = [
            np.interp(values, nodes, np.arange(len(nodes)))
            for values, nodes in zip(features, (distances, self.activities), strict=True)
        ]
        error: NDArray[np.float64] = np.sqrt(
            map_coordinates(square, places, order=1, mode="nearest")
        )
        return error
