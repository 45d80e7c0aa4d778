"""Positions and dwell times of a path -> dwell map, and lines of pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.filters import filter_mirrored

# Weights of the probe along each axis: the centre and both neighbours, as in the published code.
_PROBE = (0.5, 0.25)
_BAND_PX = 2**22  # of large images, which are summed up in bands of rows to bound the memory


def deposit(positions: Tensor, dwell: Tensor, shape: tuple[int, int]) -> Tensor:
    """Dwell map `[h, w]` float32 in units of a full pixel dwell.

    Each dwell is divided bilinearly among the four nearest pixel centres and then spread by a probe
    of weights [1 2 1]/4 along each axis, mirrored at the border. Pixel centres lie at whole
    coordinates; positions more than half a pixel beyond the outer ones are ignored.

    Args:
        positions: (x, y) of each point `[n, 2]` [px].
        dwell: Time spent at each point `[n]` [full pixel dwells].
        shape: (h, w) of the image [px], at least 2 each.

    Raises:
        ValueError: The shapes do not fit.
    """
    return spread(positions, dwell, shape).float()


def spread(positions: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sums of `values` [n] in each pixel `[h, w]` float64, shared among pixels as in `deposit`."""
    check_path(positions, values, shape)
    height, width = shape
    rows = max(_BAND_PX // width, 2)
    if height <= 2 * rows:
        return spread_batch(positions[None], values[None, None], shape)[0, 0]
    inside = inside_image(positions, shape)
    values = torch.where(inside, values.double(), 0.0)[None, None]
    x, y = _clamped(positions.double()[None], shape)
    top = y[0].floor()
    sums = values.new_empty(height, width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        # The probe reaches one row beyond a position's own two.
        first, last = max(start - 1, 0), min(stop + 1, height)
        origin, end = max(first - 1, 0), min(last + 1, height)
        here = inside & (top >= origin) & (top < last)
        band = _shared(x[:, here], y[:, here] - origin, values[..., here], (end - origin, width))
        band = filter_mirrored(band[0, 0, first - origin : last - origin], _PROBE)
        sums[start:stop] = band[start - first : stop - first]
    return sums


def spread_batch(positions: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sums in each pixel `[b, c, h, w]` float64, shared among pixels as in `deposit`.

    Args:
        positions: (x, y) of each point `[b, n, 2]` [px].
        values: Of each point `[b, c, n]`.
        shape: (h, w) of the images [px].
    """
    values = torch.where(inside_image(positions, shape)[:, None], values.double(), 0.0)
    x, y = _clamped(positions.double(), shape)
    return filter_mirrored(_shared(x, y, values, shape), _PROBE)


def _clamped(positions: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Both coordinates; the outer half of a border pixel gives its dwell to that pixel alone."""
    height, width = shape
    return positions[..., 0].clamp(0, width - 1), positions[..., 1].clamp(0, height - 1)


def _shared(x: Tensor, y: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sums `[b, c, h, w]` of values `[b, c, n]` at x, y `[b, n]`, shared bilinearly by pixels."""
    height, width = shape
    batch, channels, _ = values.shape
    left, top = x.floor().clamp(max=width - 2), y.floor().clamp(max=height - 2)
    image = torch.arange(batch, device=values.device)[:, None] * (height * width)
    sums = values.new_zeros(channels, batch * height * width)
    for column in (left, left + 1):
        for row in (top, top + 1):
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            pixel = (image + (row * width + column).long()).flatten()
            for channel in range(channels):
                sums[channel].index_add_(0, pixel, (values[:, channel] * share).flatten())
    return sums.view(channels, batch, height, width).transpose(0, 1)


def inside_image(positions: Tensor, shape: tuple[int, int]) -> Tensor:
    """Whether each of `positions` [..., 2] lies in a pixel of the image, bool `[...]`."""
    x, y = positions[..., 0], positions[..., 1]
    return (x >= -0.5) & (x < shape[1] - 0.5) & (y >= -0.5) & (y < shape[0] - 0.5)


def check_path(positions: Tensor, dwell: Tensor, shape: tuple[int, int]) -> None:
    """Checks that the arguments of `deposit` fit together.

    Raises:
        ValueError: They do not.
    """
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"positions must be (x, y) pairs [n, 2], got {list(positions.shape)}")
    if dwell.shape != positions.shape[:1]:
        raise ValueError(
            f"dwell must have one value per position [{len(positions)}], got {list(dwell.shape)}"
        )
    check_shape(shape)


def check_shape(shape: tuple[int, int]) -> None:
    """Checks that `shape` is (h, w) of an image that can be filtered.

    Raises:
        ValueError: It is not.
    """
    if len(shape) != 2 or any(side < 2 or side != int(side) for side in shape):
        raise ValueError(f"shape must be two whole numbers (h, w) of at least 2 px, got {shape}")


def draw_lines(points: Tensor) -> Tensor:
    """Pixels `[m, 2]` int64 of the polyline through `points` [n, 2] int64, in order, each once.

    A line takes one pixel per step along its longer side and rounds the other coordinate, halves
    away from the line's start (Bresenham's algorithm in the variant of Pillow's `ImageDraw.line`,
    found by comparison).
    """
    start, step = points[:-1], points.diff(dim=0)
    length = step.abs().amax(dim=1)
    segment = torch.repeat_interleave(length)
    first = length.cumsum(0) - length
    n = length[segment, None]
    along = (torch.arange(len(segment), device=points.device) - first[segment])[:, None]
    moved = (2 * along * step[segment].abs() + n) // (2 * n)
    pixels = torch.cat([start[segment] + step[segment].sign() * moved, points[-1:]])
    return _first_visits(pixels)


def _first_visits(pixels: Tensor) -> Tensor:
    """Distinct rows of `pixels` [n, 2] in the order in which they first occur."""
    _, group = torch.unique(pixels, dim=0, return_inverse=True)
    order = torch.argsort(group, stable=True)
    leads = F.pad(group[order].diff() != 0, (1, 0), value=True)
    return pixels[order[leads].sort().values]
