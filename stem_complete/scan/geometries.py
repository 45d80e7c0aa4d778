"""Geometries of scans: functions of an image's shape and a coverage that give a path.

A new geometry is one function and one entry of `GEOMETRIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import check_shape, draw_lines, inside_image
from stem_complete.vocabulary import parse_coverage

# Distance between the points of an exact spiral; halving it changes no dwell by more than 0.004,
# but at the border, where it decides which points are inside.
_SPACING_PX = 0.25
# The published code draws its spiral as a polyline of so many points.
_NOMINAL_NUM_POINTS = 10_000


def archimedean(
    shape: tuple[int, int],
    coverage: float | str | Fraction = Fraction(1, 20),
    definition: Literal["exact", "nominal"] = "exact",
) -> ScanPath:
    """Archimedean spiral from the centre of the image to its corners.

    The path holds the part of the spiral that lies in the image.

    - `"exact"`: a probe at constant speed; the mean of the dwell map is `coverage`.
    - `"nominal"`: the published code's drawing, pixel for pixel, whose inverse pitch is
      `coverage`; its true coverage differs (nominal 1/20 is 1/22.1, nominal 1/100 is 1/87.0).

    Args:
        shape: (h, w) [px].
        coverage: In (0, 1]; `0.05`, `"1/20"` or a `Fraction`.
        definition: What `coverage` means.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> round(archimedean((256, 256), "1/20").coverage, 4)
        0.05
    """
    check_shape(shape)
    fraction = parse_coverage(coverage)
    if definition == "exact":
        return _exact_archimedean(shape, fraction)
    if definition == "nominal":
        return _nominal_archimedean(shape, fraction)
    raise ValueError(f'definition must be "exact" or "nominal", got {definition!r}')


def drawn_archimedean(
    shape: tuple[int, int], coverage: float | str | Fraction = Fraction(1, 20)
) -> ScanPath:
    """The published code's drawing of a spiral, of a given true coverage.

    Its turns lie on whole pixels, and so are unevenly far apart.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map, as for `archimedean`; the drawing meets it to less than a
            hundredth from 1/10 to 1/87 on 512 px, to three hundredths on 256 px.

    Raises:
        ValueError: An argument is out of its range, or no drawing is as dense.
    """
    true = nominal = parse_coverage(coverage)
    for _ in range(10):
        nominal *= true / archimedean(shape, nominal, "nominal").coverage
        if nominal > 1:
            raise ValueError(f"coverage {true:g} is more than a drawn spiral can have; lower it")
    return archimedean(shape, nominal, "nominal")


GEOMETRIES: dict[str, Callable[[tuple[int, int], float], ScanPath]] = {
    "archimedean": archimedean,
    "drawn": drawn_archimedean,
}
"""Paths of an image's shape and a true coverage."""


def _exact_archimedean(shape: tuple[int, int], coverage: float) -> ScanPath:
    height, width = shape
    # Constant speed makes the dwell per area 1 / pitch if a dwell of 1 is spent per pixel.
    growth = 1 / (2 * math.pi * coverage)
    theta = _angles_at_equal_steps(growth, outer_radius=math.hypot(height, width) / 2)
    radius = growth * theta
    x = radius * theta.cos() + (width - 1) / 2
    y = radius * theta.sin() + (height - 1) / 2
    positions = torch.stack([x, y], dim=1)
    positions = positions[inside_image(positions, shape)]
    # The few turns of a finite image have not exactly their share of its area; the speed is
    # chosen so that the mean dwell is exact.
    unit = ScanPath(positions, torch.ones(len(positions)), shape)
    return ScanPath(positions, unit.dwell * (coverage / unit.coverage), shape)


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


def _nominal_archimedean(shape: tuple[int, int], coverage: float) -> ScanPath:
    """The drawing of the authors' code (github.com/Jeffrey-Ede/partial-STEM, 2020).

    Theirs is for square images; the canvas of another shape is as wide as its diagonal too.
    """
    height, width = shape
    canvas = math.ceil(math.hypot(height, width))
    outer_radius = canvas / 2
    growth = 1 / (2 * math.pi * coverage)
    end = outer_radius / growth
    theta = torch.arange(0, end, end / _NOMINAL_NUM_POINTS, dtype=torch.float64)
    x = growth * theta * theta.cos() + outer_radius
    y = growth * theta * theta.sin() + outer_radius
    pixels = draw_lines(torch.stack([x, y], dim=1).long())
    crop = torch.tensor([canvas // 2 - width // 2, canvas // 2 - height // 2])
    positions = (pixels - crop).double()
    positions = positions[inside_image(positions, shape)]
    return ScanPath(positions, torch.ones(len(positions)), shape)
