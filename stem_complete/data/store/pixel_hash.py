"""Crops are known by the order of their pixels, whatever file they come from, and way up."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 0
"""In place of the hash of a crop that was stored before there were hashes."""

_MOST_LEVELS = 2**16


def pixel_hashes(pixels: NDArray[Any]) -> tuple[int, ...]:
    """Hashes of 64 bits of a crop [h, w], all finite: its own, then those of it flipped and turned.

    What is hashed is which pixels are brighter than which. So an image has the same hash in another
    number format, with an offset or multiplied: a training example of it is the same, too. Formats
    begin with the top row or the bottom one, with rows or columns, so that a copy may be flipped.
    None is `UNKNOWN`.
    """
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        pixels = pixels.astype(np.float32)  # as others would save it
    ranks: NDArray[Any] | None = _ranks_of_whole_numbers(pixels)
    if ranks is None:
        levels, places = np.unique(pixels, return_inverse=True)
        ranks = places.astype(np.uint16 if len(levels) <= _MOST_LEVELS else np.uint32)
    ranks = ranks.reshape(pixels.shape)
    flipped = [each[rows] for each in (ranks, ranks.T) for rows in (slice(None), np.s_[::-1])]
    return tuple(map(_hash, chain.from_iterable((each, each[:, ::-1]) for each in flipped)))


def _hash(ranks: NDArray[Any]) -> int:
    digest = hashlib.blake2b(str(ranks.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(ranks).data)
    return int.from_bytes(digest.digest()) or 1


def _ranks_of_whole_numbers(pixels: NDArray[Any]) -> NDArray[np.uint16] | None:
    """The place of each pixel among the levels that are there; in a tenth of the time of sorting.

    None if the pixels are no whole numbers or span too many.
    """
    low, high = pixels.min(), pixels.max()
    if float(high) - float(low) >= _MOST_LEVELS:
        return None
    if pixels.dtype.kind == "f":
        if (pixels != np.rint(pixels)).any():
            return None
        levels = (pixels - low).astype(np.uint16)
    else:
        levels = np.subtract(pixels, low, dtype=np.int32).astype(np.uint16)
    is_there = np.zeros(_MOST_LEVELS, bool)
    is_there[levels] = True
    ranks: NDArray[np.uint16] = (np.cumsum(is_there) - 1).astype(np.uint16)[levels]
    return ranks
