"""Hilbert curves through images of any shape."""

from __future__ import annotations

import torch
from torch import Tensor

from stem_complete.scan.geometries.coverage import (
    DEFAULT_COVERAGE,
    Coverage,
    along,
    with_coverage,
)
from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import check_shape
from stem_complete.vocabulary import parse_coverage

_SPACING_PX = 0.5


def hilbert(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
    """Hilbert curve at constant speed: what is near in the image is mostly near in time.

    It goes through the centres of a grid of cells, at coverage 1 through each pixel. Images need be
    neither square nor powers of two.

    Sources: Velazco et al. 2020, Ultramicroscopy 215, 113021, in STEM; J. Červený's generalised
    Hilbert curve, github.com/jakubcerveny/gilbert.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map. There are at least 2 x 2 cells, below 2 / side at a higher
            speed.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    rows, columns = (max(2, round(coverage * side)) for side in shape)
    size = torch.tensor([width / columns, height / rows], dtype=torch.float64)
    vertices = (cells_in_order(rows, columns) + 0.5) * size - 0.5
    return with_coverage(along(vertices, _SPACING_PX), shape, coverage)


def cells_in_order(rows: int, columns: int) -> Tensor:
    """Cells (column, row) `[rows * columns, 2]` int64 in the order of a generalised Hilbert curve.

    Neighbours in time are neighbours in the grid, one pair of them diagonally if the longer side is
    odd and the shorter one even.

    A rectangle is a corner and two vectors, along which and across which the curve runs. It is
    halved if it is long; otherwise the curve goes across a half of its beginning, along the rest,
    and back across its end. All rectangles of one depth are divided at once.
    """
    sides = torch.tensor([[columns, 0], [0, rows]])
    a, b = (sides[:1], sides[1:]) if columns >= rows else (sides[1:], sides[:1])
    corner = torch.zeros(1, 2, dtype=torch.int64)
    first, cells = torch.zeros(1, dtype=torch.int64), torch.empty(rows * columns, 2).long()
    while len(first):
        length, breadth = a.abs().sum(1), b.abs().sum(1)
        is_line = (length == 1) | (breadth == 1)
        _fill(cells, first[is_line], corner[is_line], (a + b - a.sign() - b.sign())[is_line])
        corner, a, b, first = (each[~is_line] for each in (corner, a, b, first))
        length, breadth = length[~is_line, None], breadth[~is_line, None]
        # Halves of an even number of cells, where there is a choice, or the ends do not meet.
        a_half, b_half = (torch.div(v, 2, rounding_mode="floor") for v in (a, b))
        a_half += a.sign() * ((a_half.abs().sum(1, keepdim=True) % 2 == 1) & (length > 2))
        b_half += b.sign() * ((b_half.abs().sum(1, keepdim=True) % 2 == 1) & (breadth > 2))
        return_corner = corner + a - a.sign() + b_half - b.sign()
        long = (2 * length > 3 * breadth)[:, 0]
        parts = [
            [each[long] for each in (corner, a_half, b)],
            [each[long] for each in (corner + a_half, a - a_half, b)],
            [each[~long] for each in (corner, b_half, a_half)],
            [each[~long] for each in (corner + b_half, a, b - b_half)],
            [each[~long] for each in (return_corner, -b_half, a_half - a)],
        ]
        areas = [p[1].abs().sum(1) * p[2].abs().sum(1) for p in parts]
        start, other = first[long], first[~long]
        starts = [start, start + areas[0], other, other + areas[2], other + areas[2] + areas[3]]
        corner, a, b = (torch.cat(each) for each in zip(*parts, strict=True))
        first = torch.cat(starts)
    return cells


def _fill(cells: Tensor, first: Tensor, corner: Tensor, step: Tensor) -> None:
    """Writes lines of cells from each `corner` to `corner + step`, the first as `cells[first]`."""
    number = step.abs().sum(1) + 1
    line = torch.repeat_interleave(number)
    place = torch.arange(len(line)) - (number.cumsum(0) - number)[line]
    cells[first[line] + place] = corner[line] + place[:, None] * step.sign()[line]
