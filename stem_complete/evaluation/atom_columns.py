"""Atom columns of lattices: whether a completion has them, and how precisely in their places.

trackpy (Allan et al., doi:10.5281/zenodo.34028) finds columns by the algorithm of Crocker and Grier
(1996, doi:10.1006/jcis.1996.0217): local maxima after a band-pass, refined to the centre of mass.
Its positions differ from those of Gaussian fits by far less than a pixel, and a crop takes a tenth
of a second, where fits take ten seconds or more.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]
"""y and x of columns [n, 2], in px."""

SHORTEST_PX = 5.0
"""Columns that are nearer to each other are not told apart."""

_LARGEST_SHARE = 1 / 8  # of the side: a spacing repeats that often
_LEAST_LIKENESS, _LEAST_AGAIN = 0.2, 0.1  # of an image to itself after a shift, and after two
_MOST_AROUND, _NUM_AROUND = 0.8, 16  # of that likeness, in so many directions
_LARGEST_MISS = 0.15  # of a spacing, by which two of them end elsewhere than after twice one
_DIAMETER, _SEPARATION, _NEAR = 0.75, 0.6, 1 / 3  # in spacings
_LEAST_MASS = 0.3  # of a column's median mass


class ColumnErrors(NamedTuple):
    """Columns of a completion beside those of the truth.

    Attributes:
        num: Columns of the truth.
        found: Share of them that the completion has, within a third of their spacing.
        rms_px: Root mean square distance of these from where they are in the truth; None without
            any.
    """

    num: int
    found: float
    rms_px: float | None


def spacing_px(image: NDArray[np.floating]) -> float | None:
    """Distance of neighbouring columns [px]; None if the image [h, w] shows no lattice.

    A lattice is like itself after a shift by one spacing, and by two, in two directions, and less
    so after any other near by. Particles that lie side by side are not, nor are layers.
    """
    from scipy.spatial import cKDTree

    longest = _LARGEST_SHARE * min(image.shape)
    peaks, likeness, around = _likenesses(np.asarray(image, np.float64), longest)
    distances = np.linalg.norm(peaks, axis=1)
    if not len(peaks):
        return None
    to_twice, _ = cKDTree(peaks).query(2 * peaks)
    repeated = to_twice <= _LARGEST_MISS * distances
    alike = (likeness >= _LEAST_LIKENESS) & (around <= _MOST_AROUND * likeness)
    shifts = peaks[(distances >= SHORTEST_PX) & (distances <= longest) & alike & repeated]
    if not len(shifts):
        return None
    shortest = shifts[np.argmin(np.linalg.norm(shifts, axis=1))]
    spacing = float(np.linalg.norm(shortest))
    aside = np.abs(shifts @ np.array([-shortest[1], shortest[0]])) / spacing
    return spacing if (aside > spacing / 2).any() else None


def _likenesses(
    image: NDArray[np.float64], longest: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shifts [n, 2] after which an image is like itself, to more than twice the longest [px].

    With them how much it is, and is at most after others that differ by a third [n]; 1 is without
    a shift.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.feature import peak_local_max

    values = gaussian_filter(image, 1) - gaussian_filter(image, longest / 2)
    height, width = values.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    overlap, correlation = (
        np.fft.fftshift(np.fft.ifft2(np.abs(np.fft.fft2(each)) ** 2).real)
        for each in (window, window * values)
    )
    # No shift so long that one half of the image comes back on the other one.
    reach = min(int(2.2 * longest) + 2, min(height, width) // 2 - 1)
    near = tuple(slice(side // 2 - reach, side // 2 + reach + 1) for side in (height, width))
    # Over what a shift leaves of the window, or long ones would look weak.
    correlation = correlation[near] / overlap[near]
    correlation /= max(correlation[reach, reach], 1e-30)
    peaks = peak_local_max(
        correlation,
        min_distance=2,
        threshold_abs=_LEAST_AGAIN,
        exclude_border=2,
    )
    shifts = peaks[(peaks != reach).any(axis=1)] - reach
    angles = np.linspace(0, 2 * np.pi, _NUM_AROUND, endpoint=False)[:, None]
    third = np.linalg.norm(shifts, axis=1) / 3
    beside = shifts + np.stack([np.sin(angles) * third, np.cos(angles) * third], axis=-1)
    places = np.clip(reach + beside.round().astype(int), 0, 2 * reach)
    around = correlation[places[..., 0], places[..., 1]].max(axis=0, initial=-1)
    return shifts.astype(np.float64), correlation[tuple((reach + shifts).T)], around


def find_columns(image: NDArray[np.floating], spacing: float) -> Positions:
    """Positions of the bright columns of an image [h, w].

    Args:
        image: The image.
        spacing: Distance of neighbouring columns [px].
    """
    import trackpy

    diameter = max(3, 2 * round((_DIAMETER * spacing - 1) / 2) + 1)
    with warnings.catch_warnings():
        # Of what pandas will change, and that an image has no column.
        warnings.simplefilter("ignore")
        found = trackpy.locate(
            np.asarray(image, np.float64),
            diameter,
            separation=_SEPARATION * spacing,
            characterize=False,
            engine="python",
        )
    positions: Positions = found[["y", "x"]].to_numpy(np.float64)
    mass = found["mass"].to_numpy(np.float64)
    return positions[mass >= _LEAST_MASS * np.median(mass)] if len(mass) else positions


def column_errors(truth: Positions, found: Positions, spacing: float) -> ColumnErrors:
    """Columns of a completion beside those of the truth, each of which counts once.

    Args:
        truth: Columns of the truth; at least one.
        found: Of the completion.
        spacing: Distance of neighbouring columns [px].
    """
    from scipy.spatial import cKDTree

    if not len(found):
        return ColumnErrors(len(truth), 0.0, None)
    distance, nearest = cKDTree(found).query(truth)
    _, back = cKDTree(truth).query(found)
    matched = (distance <= _NEAR * spacing) & (back[nearest] == np.arange(len(truth)))
    rms = float(np.sqrt(np.mean(distance[matched] ** 2))) if matched.any() else None
    return ColumnErrors(len(truth), float(matched.mean()), rms)
