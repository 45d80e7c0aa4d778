"""A micrograph -> the crops that are worth storing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.data.formats.micrographs import Micrograph
from stem_complete.data.store.layout import LeftOut, StoredDtype

_MAX_SATURATED = 0.2  # share of the pixels that may hold the highest value
_MIN_CONTRAST = 0.01  # share of the crop's range that its middle 99% must span
_TINY, _HUGE = 1e-30, 1e30  # beyond these, float32 cannot scale a crop to [-1, 1]


class Crop(NamedTuple):
    """A crop [h, w] and its place in its source."""

    pixels: NDArray[Any]
    frame: int
    row: int
    column: int


def cut(
    micrograph: Micrograph, crop_size: int, dtype: StoredDtype
) -> tuple[list[Crop], list[LeftOut]]:
    """Crops of a grid centred on the image, and those left out with the reason.

    Left out are crops of which the file does not hold all, with NaN or Inf, without contrast (99%
    of the pixels within 1% of the crop's range) or saturated (over 20% of the pixels at the highest
    value), and all of an image that is smaller than a crop.
    """
    height, width = micrograph.pixels.shape
    crops: list[Crop] = []
    left_out: list[LeftOut] = []

    def leave_out(row: int, column: int, reason: str) -> None:
        left_out.append(
            LeftOut(str(micrograph.path), micrograph.name, micrograph.frame, row, column, reason)
        )

    if min(height, width) < crop_size:
        leave_out(0, 0, f"smaller than a crop of {crop_size}, {height} x {width} px")
    for row in range(height % crop_size // 2, height - crop_size + 1, crop_size):
        for column in range(width % crop_size // 2, width - crop_size + 1, crop_size):
            # In a row in memory, all that follows takes half the time.
            pixels = np.ascontiguousarray(
                micrograph.pixels[row : row + crop_size, column : column + crop_size]
            )
            if dtype == "float32":
                with np.errstate(over="ignore"):  # becomes Inf, which is a fault
                    pixels = pixels.astype(np.float32)
            reason = _hole(micrograph, row, column, crop_size) or fault(pixels)
            if reason:
                leave_out(row, column, reason)
            else:
                crops.append(Crop(pixels, micrograph.frame, row, column))
    return crops, left_out


def _hole(micrograph: Micrograph, row: int, column: int, crop_size: int) -> str | None:
    """What the file does not hold of a crop; None if it holds all."""
    if not micrograph.holes:
        return None
    is_there = np.ones((crop_size, crop_size), bool)
    for rows, columns in micrograph.holes:
        is_there[
            max(rows.start - row, 0) : max(rows.stop - row, 0),
            max(columns.start - column, 0) : max(columns.stop - column, 0),
        ] = False
    if is_there.all():
        return None
    return f"{1 - is_there.mean():.1%} of the pixels in chunks that are not in the file"


def fault(pixels: NDArray[Any]) -> str | None:
    """Why a crop [h, w] should not be stored; None if it should."""
    if pixels.dtype.kind == "f":
        num_bad = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
        if num_bad:
            return f"NaN or Inf, {counted(num_bad, 'pixel')}"
    lowest, highest = pixels.min(), pixels.max()
    low, high = float(lowest), float(highest)
    if max(-low, high) > _HUGE:
        return f"values beyond {_HUGE:g}"
    if high - low < _TINY:
        return f"constant, every pixel {low:g}"
    saturated = np.count_nonzero(pixels == highest) / pixels.size
    if saturated > _MAX_SATURATED:
        return f"saturated, {saturated:.0%} of the pixels at {high:g}"
    sampled = pixels[:: max(1, pixels.shape[0] // 128), :: max(1, pixels.shape[1] // 128)]
    num_ends = sampled.size // 200  # 0.5% at either end; a partition takes a third of percentiles
    ordered = np.partition(sampled, (num_ends, -num_ends - 1), axis=None)
    middle = float(ordered[-num_ends - 1]) - float(ordered[num_ends])
    if middle < _MIN_CONTRAST * (high - low):
        return f"blank, 99% of the pixels within {middle / (high - low):.1%} of the range"
    return None
