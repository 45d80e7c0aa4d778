"""What geometries share: a path of an exact coverage, samples along a line, random numbers."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import inside_image

Coverage = float | str | Fraction
"""In (0, 1]: `0.05`, `"1/20"` or a `Fraction`."""

DEFAULT_COVERAGE = Fraction(1, 20)


def with_coverage(positions: Tensor, shape: tuple[int, int], coverage: float) -> ScanPath:
    """The path along `positions`, with the same dwell at each and this coverage.

    Positions outside the image are left out: the beam is blanked there.

    Args:
        positions: (x, y) in time order `[n, 2]` [px], at least one inside the image.
        shape: (h, w) [px].
        coverage: Mean of the dwell map.
    """
    positions = positions[inside_image(positions, shape)]
    # A geometry's turns, rows or points have not exactly their share of a finite image; the speed
    # is chosen so that the mean dwell is exact.
    unit = ScanPath(positions, torch.ones(len(positions)), shape)
    return ScanPath(positions, unit.dwell * (coverage / unit.coverage), shape)


def along(vertices: Tensor, spacing_px: float) -> Tensor:
    """Points `[m, 2]` that are equal distances apart along the line through `vertices` [n, 2].

    The first and the last lie half a distance from the ends, so that each point stands for the
    stretch around it.

    Args:
        vertices: Corners of the line, at least two [px].
        spacing_px: Distance between points, met as nearly as a whole number of them can.
    """
    steps = vertices.diff(dim=0)
    lengths: Tensor = steps.norm(dim=1)
    ends = lengths.cumsum(0)
    count = max(1, round(float(ends[-1]) / spacing_px))
    distance = (torch.arange(count, dtype=torch.float64) + 0.5) * (ends[-1] / count)
    segment = torch.searchsorted(ends, distance).clamp(max=len(steps) - 1)
    left = (ends[segment] - distance) / lengths[segment]
    return vertices[segment + 1] - left[:, None] * steps[segment]


def band_edges(count: int, size: int) -> Tensor:
    """Whole numbers `[count + 1]` int64 that divide 0 .. `size` into bands as equal as can be."""
    return (2 * size * torch.arange(count + 1) + count) // (2 * count)


def whole_number(wanted: float, most: int) -> int:
    """The number of rows, bands or points nearest to `wanted`, from 1 to `most`."""
    return min(max(round(wanted), 1), most)


def random_numbers(seed: int, *shape: int) -> Tensor:
    """Numbers `[*shape]` float64, uniform in [0, 1), independent of those of any other seed."""
    # Folded, as the numbers of neighbouring keys are the same ones, shifted.
    return random.uniform(random.fold_in(random.key(seed), 0)[None], shape)[0].double()
