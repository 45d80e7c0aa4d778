"""Classical completions of a raster partial scan, which a network has to beat.

A scan is `intensity` [h, w] in detector units (the mean over the dwell in each pixel, NaN where
nothing was measured) and `dwell` [h, w] in full pixel dwells (0 where nothing was measured). Every
baseline returns a finite float32 image [h, w] in the units and within the range of the measured
intensities. All commute with a change of the detector's gain and offset; all but
`normalised_convolution` keep the measured pixels as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_complete.errors import ConfigError, DataError

Image = NDArray[np.float32]
Baseline = Callable[[ArrayLike, ArrayLike], Image]


def nearest(intensity: ArrayLike, dwell: ArrayLike) -> Image:
    """Each pixel takes the intensity of the measured pixel nearest to it (Euclidean distance).

    The fill of the published code's coverage series.
    """
    scan = _Measured.read(intensity, dwell)
    return scan.to_input_units(_nearest(scan))


def linear(intensity: ArrayLike, dwell: ArrayLike) -> Image:
    """Linear interpolation on the Delaunay triangles of the measured pixels.

    Planes are reproduced. Outside the convex hull of the measured pixels, and where they all lie
    on one line, the nearest one is taken.
    """
    from scipy.interpolate import LinearNDInterpolator
    from scipy.ndimage import binary_erosion
    from scipy.spatial import QhullError

    scan = _Measured.read(intensity, dwell)
    filled = _nearest(scan)
    # A measured pixel whose four neighbours are measured too is in no triangle with a gap in it:
    # its Voronoi cell is its own square. Leaving these out saves a third of the time.
    rim = scan.measured & ~binary_erosion(scan.measured)
    gaps = np.argwhere(~scan.measured)
    if len(gaps):
        try:
            interpolate = LinearNDInterpolator(np.argwhere(rim), scan.values[rim])
        except QhullError:
            return scan.to_input_units(filled)
        values = interpolate(gaps)
        inside = np.isfinite(values)
        filled[tuple(gaps[inside].T)] = values[inside]
    return scan.to_input_units(filled)


def normalised_convolution(
    intensity: ArrayLike, dwell: ArrayLike, *, sigma_px: float = 8.0
) -> Image:
    """Local mean of the measured intensities, `G * (d I) / G * d`, dwell as certainty.

    Knutsson and Westin (1993, doi:10.1109/CVPR.1993.341081) with a Gaussian G, cut off at
    4 sigma. Pixels with no measurement that near take the nearest one. The only baseline here that
    averages noise away: it smooths measured pixels too.
    """
    from scipy.ndimage import gaussian_filter

    scan = _Measured.read(intensity, dwell)
    weight = gaussian_filter(scan.dwell, sigma_px, mode="constant")
    total = gaussian_filter(scan.dwell * scan.values, sigma_px, mode="constant")
    # No term is negative, so a weight is either exactly 0 or accurate, however small.
    near = weight > 0
    return scan.to_input_units(np.where(near, total / np.where(near, weight, 1.0), _nearest(scan)))


def harmonic(intensity: ArrayLike, dwell: ArrayLike) -> Image:
    """The membrane through the measured pixels: the Laplacian vanishes in all others.

    Five-point Laplacian with no flux through the image border, solved directly.
    """
    from scipy import sparse
    from scipy.sparse.linalg import splu

    scan = _Measured.read(intensity, dwell)
    height, width = scan.values.shape
    laplacian = sparse.kronsum(_laplacian_1d(width), _laplacian_1d(height), format="csr")
    known, gaps = np.flatnonzero(scan.measured), np.flatnonzero(~scan.measured)
    filled = scan.values.copy()
    if len(gaps):
        rows = laplacian[gaps]
        # Symmetric and positive definite: no pivoting needed, and the ordering for such matrices.
        solver = splu(
            rows[:, gaps].tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        filled.flat[gaps] = solver.solve(-(rows[:, known] @ filled.flat[known]))
    return scan.to_input_units(filled)


def biharmonic(intensity: ArrayLike, dwell: ArrayLike) -> Image:
    """The thin plate through the measured pixels: the squared Laplacian vanishes in all others.

    scikit-image's `inpaint_biharmonic` (Damelin and Hoang 2018, doi:10.1155/2018/3950312), which
    cuts off what overshoots the measured range.
    """
    from skimage.restoration import inpaint_biharmonic

    scan = _Measured.read(intensity, dwell)
    if scan.measured.all():
        return scan.to_input_units(scan.values)
    return scan.to_input_units(inpaint_biharmonic(scan.values, ~scan.measured))


BASELINES: dict[str, Baseline] = {
    "nearest": nearest,
    "linear": linear,
    "normalised_convolution": normalised_convolution,
    "harmonic": harmonic,
    "biharmonic": biharmonic,
}


class BaselineResult(NamedTuple):
    """A baseline's completion `image` [h, w] and how long it took [s]."""

    image: Image
    seconds: float


def run_baselines(
    intensity: ArrayLike, dwell: ArrayLike, names: Iterable[str] = tuple(BASELINES)
) -> dict[str, BaselineResult]:
    """Completions of one scan by the named baselines, with the time each took.

    Raises:
        ConfigError: A name is not in `BASELINES`.
        DataError: The scan cannot be used.
    """
    names = list(names)
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ConfigError(
            expected=f"baselines among {', '.join(BASELINES)}",
            found=", ".join(map(repr, unknown)),
            where="baselines",
        )
    results = {}
    for name in names:
        start = time.perf_counter()
        image = BASELINES[name](intensity, dwell)
        results[name] = BaselineResult(image, time.perf_counter() - start)
    return results


@dataclass(frozen=True)
class _Measured:
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
    def read(cls, intensity: ArrayLike, dwell: ArrayLike) -> _Measured:
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

    def to_input_units(self, image: NDArray[np.float64]) -> Image:
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


def _nearest(scan: _Measured) -> NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    index = distance_transform_edt(~scan.measured, return_distances=False, return_indices=True)
    nearest_values: NDArray[np.float64] = scan.values[tuple(index)]
    return nearest_values


def _laplacian_1d(length: int) -> Any:
    """Second difference [length, length], sign positive definite, with no flux at the ends."""
    from scipy import sparse

    difference = sparse.diags_array(
        [-np.ones(length - 1), np.ones(length - 1)], offsets=[0, 1], shape=(length - 1, length)
    )
    return difference.T @ difference
