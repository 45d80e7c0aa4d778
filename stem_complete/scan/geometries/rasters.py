"""Scans along the rows of the pixel grid, one sample in each pixel that they visit."""

from __future__ import annotations

import torch
from torch import Tensor

from stem_complete.scan.geometries.coverage import (
    DEFAULT_COVERAGE,
    Coverage,
    band_edges,
    random_numbers,
    whole_number,
    with_coverage,
)
from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import check_shape
from stem_complete.vocabulary import parse_coverage

# Order in which the rows of each four are scanned: any part of the passes is as even as can be.
_PASSES = (0, 2, 1, 3)
_LARGEST_HOP = 1 / 4  # of a band's height


def serpentine_raster(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
    """Equally spaced rows, back and forth, and along the border from row to row.

    The probe neither jumps nor flies back. At coverage 1 it visits each pixel once.

    Source: Velazco et al. 2020, Ultramicroscopy 215, 113021 ("snake").

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map. There is at least one row, below 1 / h at a higher speed.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape

    def excess(count: int) -> float:
        """By how many the samples in `count` rows and along the border are wrong."""
        along_border = height - height / count
        return abs(count * (width - 1) + 1 + along_border - coverage * height * width)

    rows = _even_rows(min(range(1, height + 1), key=excess), height)
    ends = torch.tensor([[0, width - 1], [width - 1, 0]]).repeat(len(rows), 1)[: len(rows)]
    corners = torch.stack([ends.flatten(), rows.repeat_interleave(2)], dim=1)
    return with_coverage(_pixels_along(corners), shape, coverage)


def interleaved_raster(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
    """Equally spaced rows in four passes, all from left to right, blanked while it flies back.

    Rows 1, 5, 9, ... come first, then 3, 7, ..., then those between. What lies side by side is
    measured at different times, which spreads drift and beam damage.

    Source: Velazco et al. 2022, Ultramicroscopy 232, 113398 (arXiv:2105.01617).

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map. There is at least one row, below 1 / h at a higher speed.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    rows = _even_rows(coverage * shape[0], shape[0])
    rows = torch.cat([rows[first :: len(_PASSES)] for first in _PASSES])
    return with_coverage(_left_to_right(rows, shape[1]), shape, coverage)


def sparse_rows(
    shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE, seed: int = 0
) -> ScanPath:
    """Some rows from left to right: a random one of each band of 1 / coverage rows.

    The beam is blanked while it flies back. Rows at random distances alias no lattice.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map. There is at least one row, below 1 / h at a higher speed.
        seed: Chooses the rows.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    edges = band_edges(whole_number(coverage * height, height), height)
    number = random_numbers(seed, len(edges) - 1)
    rows = edges[:-1] + (number * edges.diff()).long()
    return with_coverage(_left_to_right(rows, width), shape, coverage)


def line_hop(
    shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE, seed: int = 0
) -> ScanPath:
    """Line hopping: the probe goes along bands of rows and hops across them at random.

    Each column of each band of 1 / coverage rows has one sample. From column to column the probe
    hops by at most a quarter of the band, which scan coils can follow. Bands are run back and
    forth.

    Source: Kovarik et al. 2016, Appl. Phys. Lett. 109, 164102. The length of the hops is ours.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map. There is at least one band, below 1 / h at a higher speed.
        seed: Chooses the hops.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    edges = band_edges(whole_number(coverage * height, height), height)
    first, size = edges[:-1, None], edges.diff()[:, None]
    number = random_numbers(seed, len(first), width)
    reach = (size * _LARGEST_HOP).long().clamp(min=1)
    hops = (number * (2 * reach + 1)).long() - reach
    hops[:, :1] = (number[:, :1] * size).long()
    # Mirrored at the band's borders, so that each of its rows is as likely.
    row = hops.cumsum(1) % (2 * size)
    row = first + torch.minimum(row, 2 * size - 1 - row)
    return with_coverage(_back_and_forth(row), shape, coverage)


def _even_rows(wanted: float, height: int) -> Tensor:
    """Rows `[n]` int64 at distances as equal as can be, `n` nearest to `wanted`."""
    count = whole_number(wanted, height)
    return (2 * torch.arange(count) + 1) * height // (2 * count)


def _pixels_along(corners: Tensor) -> Tensor:
    """Pixels (x, y) `[m, 2]` int64 of a line through `corners` [n, 2] along rows and columns."""
    steps = corners.diff(dim=0)
    lengths = steps.abs().sum(1)
    segment = torch.repeat_interleave(lengths)
    place = torch.arange(len(segment)) - (lengths.cumsum(0) - lengths)[segment]
    pixels = corners[segment] + place[:, None] * steps.sign()[segment]
    return torch.cat([pixels, corners[-1:]])


def _left_to_right(rows: Tensor, width: int) -> Tensor:
    """Pixels (x, y) `[n * width, 2]` of `rows` [n]."""
    x = torch.arange(width).repeat(len(rows))
    return torch.stack([x, rows.repeat_interleave(width)], dim=1)


def _back_and_forth(row: Tensor) -> Tensor:
    """Pixels (x, y) `[n * w, 2]` of lines `row` [n, w], every second one from right to left."""
    x = torch.arange(row.shape[1]).expand_as(row)
    pixels = torch.stack([x, row], dim=2)
    pixels[1::2] = pixels[1::2].flip(1)
    return pixels.flatten(0, 1)
