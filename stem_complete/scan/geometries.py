"""Geometries: functions from an image's shape and a coverage to the path of the probe.

A new geometry is one function here, one entry of `GEOMETRIES` and its name in
`vocabulary.Geometry`, which makes it a value of `scan.geometry` in configs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import check_shape, draw_lines, inside_image
from stem_complete.vocabulary import Geometry, parse_coverage

Coverage = float | str | Fraction
"""In (0, 1]: `0.05`, `"1/20"` or a `Fraction`."""

# Distance between the points of an exact spiral; halving it changes no dwell by more than 0.004,
# except at the border, where it decides which points are inside.
_SPACING_PX = 0.25
# Points of the polyline that the published code draws as its spiral.
_NOMINAL_NUM_POINTS = 10_000


def archimedean(shape: tuple[int, int], coverage: Coverage = Fraction(1, 20)) -> ScanPath:
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
    radius = growth * theta
    x = radius * theta.cos() + (width - 1) / 2
    y = radius * theta.sin() + (height - 1) / 2
    positions = torch.stack([x, y], dim=1)
    positions = positions[inside_image(positions, shape)]
    # The few turns of a finite image have not exactly their share of its area; the speed is
    # chosen so that the mean dwell is exact.
    unit = ScanPath(positions, torch.ones(len(positions)), shape)
    return ScanPath(positions, unit.dwell * (coverage / unit.coverage), shape)


def nominal_archimedean(shape: tuple[int, int], coverage: Coverage = Fraction(1, 20)) -> ScanPath:
    """The drawn spiral of the authors' code (github.com/Jeffrey-Ede/partial-STEM), pixel for pixel.

    Theirs is for square images; the canvas of another shape is as wide as its diagonal too.

    Args:
        shape: (h, w) [px].
        coverage: Inverse pitch of the spiral. The true coverage differs: nominal 1/20 is 1/22.1,
            nominal 1/100 is 1/87.0.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
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


def drawn_archimedean(shape: tuple[int, int], coverage: Coverage = Fraction(1, 20)) -> ScanPath:
    """The authors' drawing of a spiral, as in `nominal_archimedean`, of a given true coverage.

    Its turns lie on whole pixels, so their distances are uneven.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map. The drawing meets it to less than a hundredth from 1/10 to
            1/87 on 512 px, to three hundredths on 256 px.

    Raises:
        ValueError: An argument is out of its range, or no drawing is as dense.
    """
    true = nominal = parse_coverage(coverage)
    for _ in range(10):
        nominal *= true / nominal_archimedean(shape, nominal).coverage
        if nominal > 1:
            raise ValueError(f"coverage {true:g} is more than a drawn spiral can have; lower it")
    return nominal_archimedean(shape, nominal)


GEOMETRIES: dict[Geometry, Callable[[tuple[int, int], float], ScanPath]] = {
    "archimedean": archimedean,
    "drawn": drawn_archimedean,
    "nominal": nominal_archimedean,
}
"""Geometries by their name in configs."""


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
