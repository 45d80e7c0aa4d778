"""Smooth curves: Lissajous figures and random walks."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.geometries.coverage import (
    DEFAULT_COVERAGE,
    Coverage,
    with_coverage,
)
from stem_complete.scan.path import ScanPath
from stem_complete.scan.raster import check_shape
from stem_complete.vocabulary import parse_coverage

_SPACING_PX = 0.5
_LARGEST_SPACING_PX = 0.75  # of a Lissajous figure, in the centre of the image

# A Lissajous figure of n cycles along x is as long as so many times n image heights, if its cycles
# along both axes are as many for each pixel: the mean of 2 pi sqrt(cos^2 + cos^2) / 2.
_LENGTH_OF_CYCLE = 3.0095

_WALK_PERSISTENCE_PITCHES = 4.0  # 1 / coverage times this; a shorter walk leaves parts unvisited


def lissajous(shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE) -> ScanPath:
    """Lissajous figure: a sine along each axis, closed after one scan.

    Scan coils follow sines without distortion, also at high speed. The probe is slow where it
    turns, so borders get more dwell than the centre.

    Source: Li, Dyck, Kalinin and Jesse 2018, Microsc. Microanal. 24, 623.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map. A figure has whole numbers of cycles, at least 1 and 2:
            what they lack to a coverage, or have too much below about 5 / side, the speed makes up.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    along_x, along_y = _cycles(*(coverage * side / _LENGTH_OF_CYCLE for side in shape))
    highest_speed = math.pi * math.hypot(along_x * width, along_y * height)
    count = math.ceil(highest_speed / _LARGEST_SPACING_PX)
    phase = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * math.pi / count)
    # Half-way between two of the phases at which the figure turns back in a corner, run twice.
    shift = math.pi * (along_x - along_y + 1) / (2 * along_x)
    x = ((along_x * phase).sin() + 1) * (width - 1) / 2
    y = ((along_y * phase + shift).sin() + 1) * (height - 1) / 2
    return with_coverage(torch.stack([x, y], dim=1), shape, coverage)


def random_walk(
    shape: tuple[int, int], coverage: Coverage = DEFAULT_COVERAGE, seed: int = 0
) -> ScanPath:
    """A smooth random walk at constant speed, mirrored at the borders.

    The probe forgets its direction over a distance of four pitches 1 / coverage (a worm-like
    chain), so that it comes to all parts of the image at any coverage. It crosses its own path and
    leaves gaps, as random scans do.

    Args:
        shape: (h, w) [px].
        coverage: Mean of the dwell map.
        seed: Chooses the walk.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_shape(shape)
    coverage = parse_coverage(coverage)
    height, width = shape
    keys = random.fold_in(random.key(seed), torch.arange(2))
    count = max(1, round(coverage * height * width / _SPACING_PX))
    turning = math.sqrt(2 * _SPACING_PX * coverage / _WALK_PERSISTENCE_PITCHES)
    heading = turning * random.normal(keys[:1], (count,))[0].double()
    first_x, first_y, first_heading = random.uniform(keys[1:], (3,))[0].double()
    heading = heading.cumsum(0) + 2 * math.pi * first_heading
    x = first_x * width + _SPACING_PX * heading.cos().cumsum(0)
    y = first_y * height + _SPACING_PX * heading.sin().cumsum(0)
    positions = torch.stack([_mirrored(x, width), _mirrored(y, height)], dim=1) - 0.5
    return with_coverage(positions, shape, coverage)


def _cycles(wanted_x: float, wanted_y: float) -> tuple[int, int]:
    """Different whole numbers without a common divisor that are nearest to what is wanted.

    Others give figures that are run several times, and equal ones an ellipse.
    """

    def near(wanted: float) -> range:
        return range(max(1, math.floor(wanted) - 2), max(2, math.ceil(wanted) + 2) + 1)

    def error(pair: tuple[int, int]) -> float:
        of_x, of_y = pair[0] / wanted_x, pair[1] / wanted_y
        # The length counts most: the speed makes up for it.
        return (of_x - of_y) ** 2 + 4 * ((of_x + of_y) / 2 - 1) ** 2

    pairs = itertools.product(near(wanted_x), near(wanted_y))
    return min((p for p in pairs if math.gcd(*p) == 1 and p[0] != p[1]), key=error)


def _mirrored(values: Tensor, size: int) -> Tensor:
    """Coordinates in 0 .. `size` of a mirror room's inhabitant at `values`."""
    values = values % (2 * size)
    return torch.minimum(values, 2 * size - values)
