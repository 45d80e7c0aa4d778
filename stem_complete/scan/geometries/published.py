"""The spirals of the published code, pixel for pixel."""

from __future__ import annotations

import math

import torch

from stem_complete.scan.geometries.coverage import DEFAULT_COVERAGE, Coverage
from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import check_shape, draw_lines, inside_image
from stem_complete.vocabulary import parse_coverage

# Points of the polyline that the published code draws as its spiral.
_NOMINAL_NUM_POINTS = 10_000


def nominal_archimedean(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
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


def drawn_archimedean(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
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
