"""The bar of writing that microscopes put below an exported image, found by its pixels alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FEWEST_ROWS = 12
_LARGEST_SHARE = 0.25  # of the image's height
_BACKGROUND = 0.35  # share of it in each row of a bar, but for its frame
_IN_IMAGE = 0.2  # share of the same value in the rows above
_ROWS_ABOVE = 8
_FEWEST_LEVELS = 8  # in these rows, or it is a mask that goes on
_LEAST_INK, _MOST_INK = 0.003, 0.4
_FULL_INK = 0.05  # share of one value in the ink, the rest being smooth edges
_FEWEST_STROKES = 100


def num_bar_rows(image: NDArray[np.generic]) -> int:
    """How many rows at the bottom are a bar of writing; 0 if there is none.

    Most of a bar has one value, its writing one that is far from it, and it begins at a row all
    at once. Micrographs end otherwise, even if they are clipped or have counts of few electrons.

    Args:
        image: Grey values [h, w], or colours [h, w, 3 or 4].
    """
    grey = image if image.ndim == 2 else image[..., :3].max(axis=-1)
    num = int(_LARGEST_SHARE * len(grey))
    if num < _FEWEST_ROWS or grey.dtype.kind not in "iuf":
        return 0
    below = grey[-num:]
    background = _most_common(below[-_FEWEST_ROWS:])
    is_background = below == background
    share = is_background.mean(axis=1)
    is_line = (below == np.median(below, axis=1, keepdims=True)).mean(axis=1) > 0.9
    others = np.flatnonzero(~((share >= _BACKGROUND) | is_line))
    if not len(others):
        return 0
    rows = num - 1 - int(others[-1])
    bar, above = below[num - rows :], grey[len(grey) - rows - _ROWS_ABOVE : len(grey) - rows]
    ink = bar[bar != background]
    if rows < _FEWEST_ROWS or not _LEAST_INK < ink.size / bar.size < _MOST_INK:
        return 0
    starts_at_once = (above == background).mean(axis=1).max() < _IN_IMAGE
    goes_on = len(np.unique(above)) < _FEWEST_LEVELS
    if not starts_at_once or goes_on:
        return 0
    distance = np.abs(ink.astype(np.float64) - float(background))
    contrast = distance.max()
    is_far = contrast >= 0.5 * float(np.ptp(above.astype(np.float64)))
    num_strokes = np.count_nonzero(np.diff((bar == background).astype(np.int8), axis=1) == -1)
    is_ink = np.count_nonzero(distance == contrast) > _FULL_INK * ink.size
    return rows if is_far and is_ink and num_strokes >= _FEWEST_STROKES else 0


def _most_common(values: NDArray[np.generic]) -> np.generic:
    found, numbers = np.unique(values, return_counts=True)
    most: np.generic = found[numbers.argmax()]
    return most
