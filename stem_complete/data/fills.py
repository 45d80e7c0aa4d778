"""The value that stands for "not measured" in an image of a partial scan."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import from_numpy

Mask = NDArray[np.bool_]

# All shares are of pixels; found on real micrographs, which have no fill, and on simulated scans.
_SMALLEST_SHARE = 0.05  # of the image: less are dead, dark or saturated pixels
_SMALLEST_PEAK = 0.25  # of the image, for a fill among whole numbers
_NUM_LOOKED_AT = 1 << 16  # pixels among which the most common value is looked for
_LARGEST_SECOND_SHARE = 0.4  # of the others: more are one value in counts of 0, 1 and 2 alone
_LARGEST_NEIGHBOUR = 0.1  # of the fill: the next level of a histogram that has no gap
_SMALLEST_GAP = 0.05  # of the range of the others: intensities that are clipped come nearer
_PATH_WIDTH_PX = 7  # no pixel of a path, or of the gaps between its turns, is so far inside
_LARGEST_THICK_SHARE = 0.1
_LARGEST_DENSITY = 0.1  # of the others within the smallest gap: intensities that are clipped
_LONGEST_SIDE = 1024  # of images whose distances are taken; larger ones in blocks
_LEAST_EDGE_CONTRAST = 0.6  # of the inside's: intensities fall to a value at which they are clipped


def find_fill(values: NDArray[np.float64]) -> float | None:
    """The one exact value that fills what the probe left out; None if there is none.

    It is the most common value [h, w] of all that are not NaN, on a twentieth of the image or more.
    Images that are measured all over have such values, too, and these are told apart:

    - Counts of few electrons, by the next value, which is as common.
    - A background at 0 or at the detector's limit, where intensities were clipped: others come near
      that value, and nearer to it in space. A fill is far from all intensities, or among them
      where hardly two are equal, or has the shape of what is between the turns of a path, or
      around a rectangle.
    """
    known = values[~np.isnan(values)]
    if known.size < 2:
        return None
    fill = _most_common(known)
    others = known[known != fill]
    if not others.size or known.size - others.size < _SMALLEST_SHARE * values.size:
        return None
    if not np.isfinite(fill):
        return fill
    others = others[np.isfinite(others)]
    if not others.size:
        return None
    if fill < 0 <= others.min():  # no detector gives one negative value
        return fill
    num = known.size - others.size
    is_peak = others.min() < fill < others.max() and not (others % 1).any() and fill % 1 == 0
    if (is_peak and num < _SMALLEST_PEAK * known.size) or _belongs_to_histogram(fill, num, others):
        return None
    if _is_far(fill, others) or _is_odd(fill, others) or _is_left_out(values, fill):
        return fill
    return None


def _most_common(known: NDArray[np.float64]) -> float:
    sample = known[:: -(-known.size // _NUM_LOOKED_AT)]
    found, counts = np.unique(sample, return_counts=True)
    return float(found[counts.argmax()])


def _belongs_to_histogram(fill: float, num: int, others: NDArray[np.float64]) -> bool:
    sample = others[:: -(-others.size // _NUM_LOOKED_AT)]
    levels, counts = np.unique(sample, return_counts=True)
    if len(levels) == 1:
        return bool(abs(levels[0] - fill) == 1)
    if counts.max() > _LARGEST_SECOND_SHARE * sample.size:
        return True
    if len(levels) < 3:
        return False
    spacing = np.median(np.diff(levels))
    near = np.abs(levels - fill) <= 2 * spacing
    scale = others.size / sample.size
    return bool(near.any() and counts[near].max() * scale > _LARGEST_NEIGHBOUR * num)


def _is_far(fill: float, others: NDArray[np.float64]) -> bool:
    low, high = np.quantile(others, (0.01, 0.99))
    nearest = np.quantile(np.abs(others - fill), 0.005)
    return bool(nearest > _SMALLEST_GAP * max(high - low, np.finfo(float).tiny))


def _is_odd(fill: float, others: NDArray[np.float64]) -> bool:
    """Whether it lies among intensities of which hardly two are equal: nothing is clipped there."""
    sample = others[:: -(-others.size // _NUM_LOOKED_AT)]
    is_inside = 0.01 < (sample < fill).mean() < 0.99
    return bool(is_inside and len(np.unique(sample)) > 0.5 * sample.size)


def _is_left_out(values: NDArray[np.float64], fill: float) -> bool:
    """Whether pixels of that value lie where a probe that moves along a path leaves them out."""
    empty = values == fill
    measured = ~empty
    if _is_rectangle(measured):
        return True
    thickness = (_eroded(mask, _PATH_WIDTH_PX).sum() / mask.sum() for mask in (measured, empty))
    if min(thickness) > _LARGEST_THICK_SHARE:
        return False
    contrast = np.abs(values - fill)
    others = contrast[measured & np.isfinite(contrast)]
    low, high = np.quantile(others, (0.01, 0.99))
    is_clipped = (others < low + _SMALLEST_GAP * (high - low)).mean() > _LARGEST_DENSITY
    if is_clipped and not _is_connected(measured):
        return False
    inside = _eroded(measured, 3)
    if inside.sum() < 0.05 * measured.sum():
        return True
    edge = np.nanmedian(contrast[measured & ~inside])
    return bool(edge > _LEAST_EDGE_CONTRAST * np.nanmedian(contrast[inside]))


def _is_connected(mask: Mask) -> bool:
    """Whether more than half of the mask is in one piece, corner to corner."""
    from scipy.ndimage import label

    pieces, _ = label(mask, np.ones((3, 3)))
    return bool(np.bincount(pieces[mask]).max() > 0.5 * mask.sum())


def _is_rectangle(mask: Mask) -> bool:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return bool(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.99)


def _eroded(mask: Mask, width: int) -> Mask:
    """Pixels whose square of `width` px lies in the mask."""
    outside = from_numpy(~mask).float()[None, None]
    near = F.max_pool2d(outside, width, stride=1, padding=width // 2)[0, 0].numpy()
    eroded: Mask = near == 0
    return eroded


def hole_share(measured: Mask) -> float:
    """Share of the image that lies much farther from the path than what is between its turns."""
    from scipy.ndimage import distance_transform_edt

    side = 1 + max(measured.shape) // _LONGEST_SIDE
    height, width = (size // side * side for size in measured.shape)
    blocks = measured[:height, :width].reshape(height // side, side, width // side, side)
    distance = side * distance_transform_edt(~blocks.any((1, 3)))
    gaps = distance[distance > 0]
    if not gaps.size:
        return 0.0
    return float((distance > max(8.0, 4 * np.quantile(gaps, 0.25))).mean())
