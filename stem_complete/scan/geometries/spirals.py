"""Spirals from the centre of the image to its corners."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stem_complete.scan.geometries.coverage import DEFAULT_COVERAGE, Coverage, with_coverage
from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import check_shape
from stem_complete.vocabulary import parse_coverage

# Distance between the points of a spiral at constant speed; halving it changes no dwell by more
# than 0.004, except at the border, where it decides which points are inside.
_SPACING_PX = 0.25
# The same at the outer end of a spiral at constant angular velocity; it falls towards the centre.
_OUTER_SPACING_PX = 0.75
_LEAST_SAMPLES = 8
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def archimedean(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
    """Archimedean spiral from the centre of the image to its corners, at constant speed.

    The path holds the part of the spiral that lies in the image.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> round(archimedean((256, 256), "1/20").coverage, 4)
        0.05
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    # Constant speed makes the dwell per area 1 / pitch if a dwell of 1 is spent per pixel.
    growth = 1 / (2 * math.pi * coverage)
    theta = _angles_at_equal_steps(growth, outer_radius=math.hypot(height, width) / 2)
    return with_coverage(_around_centre(growth * theta, theta, shape), shape, coverage)


def archimedean_angular(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
    """Archimedean spiral from the centre to the corners, at constant angular velocity.

    Each turn takes the same time, so that the speed grows with the radius, and the dwell along the
    path falls as 1 / radius: a pixel in the centre of a 512 px scan gets some hundred times as much
    as one in a corner. Its turns are those of `archimedean`.

    Source: Sang et al. 2016, doi:10.1186/s40679-016-0020-3, whose "Archimedean spiral" it is.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    outer_radius = math.hypot(height, width) / 2
    growth = 1 / (2 * math.pi * coverage)
    end = outer_radius / growth
    # The first of so many lies in the image, however small that is.
    count = max(math.ceil(end * outer_radius / _OUTER_SPACING_PX), _LEAST_SAMPLES)
    theta = (torch.arange(count, dtype=torch.float64) + 0.5) * (end / count)
    return with_coverage(_around_centre(growth * theta, theta, shape), shape, coverage)


def fermat(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
    """Points of a Fermat spiral at the golden angle, each measured for one dwell.

    Point n lies at radius proportional to sqrt(n) and at n times 137.5 degrees, as the seeds of a
    sunflower do: as even as a lattice, without its directions and periods. The probe visits them
    from the centre outwards along the turns of an Archimedean spiral, not in the order of n, in
    which it would cross the image for each.

    Source: Huang et al. 2014, doi:10.1364/OE.22.012634.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    # A disc around the whole image, with `coverage` points on each of its pixels.
    count = math.ceil(math.pi * (height**2 + width**2) / 4 * coverage)
    n = torch.arange(count, dtype=torch.float64)
    # The first point is a bit away from the centre, or the second would be too near to it; but in
    # the image, if that is tiny.
    first = min(0.5, math.pi * coverage * (min(shape) / 4) ** 2)
    radius, theta = ((n + first) / (math.pi * coverage)).sqrt(), n * _GOLDEN_ANGLE
    turn = theta / (2 * math.pi) % 1
    order = ((radius * math.sqrt(coverage) - turn).round() + turn).argsort()
    return with_coverage(_around_centre(radius, theta, shape)[order], shape, coverage)


def _around_centre(radius: Tensor, theta: Tensor, shape: tuple[int, int]) -> Tensor:
    """Positions (x, y) `[n, 2]` [px] of polar coordinates around the centre of the image."""
    height, width = shape
    x = radius * theta.cos() + (width - 1) / 2
    y = radius * theta.sin() + (height - 1) / 2
    return torch.stack([x, y], dim=1)


def _angles_at_equal_steps(growth: float, outer_radius: float) -> Tensor:
    """Angles `[n]` of points a fixed arc length apart on `r = growth * theta`.

    The arc length is `growth / 2 (theta sqrt(1 + theta^2) + asinh theta)`; it is convex, and the
    start lies above the solution, so that Newton's steps fall to it without overshooting.
    """
    end = torch.tensor(outer_radius / growth, dtype=torch.float64)
    total = growth / 2 * (end * torch.sqrt(1 + end**2) + torch.asinh(end))
    # Half a spacing from either end, each point stands for the stretch around it.
    count = max(1, round(float(total) / _SPACING_PX))
    scaled = (torch.arange(count, dtype=torch.float64) + 0.5) * (total / count / growth)
    theta = torch.minimum(scaled, torch.sqrt(2 * scaled))
    for _ in range(8):
        slope = torch.sqrt(1 + theta**2)
        theta = theta - ((theta * slope + torch.asinh(theta)) / 2 - scaled) / slope
    return theta
