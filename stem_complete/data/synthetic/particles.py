"""Particles: one in each taken cell of a quadtree, so that those of one tree do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.data.synthetic.draws import (
    Purpose,
    between,
    log_between,
    sample,
    take,
    yes,
)
from stem_complete.data.synthetic.specimen import Scan
from stem_complete.scan import random

_LEAF_PX = 8  # side of the quadtree's smallest cells
_NUM_LEVELS = 5  # of the quadtree


def draw_particles(numbers: Iterator[Tensor], keys: Tensor, scan: Scan) -> Tensor:
    """Thickness of particles, most below 1: balls, plates and rods, round or faceted."""
    size = scan.x.shape[-1]
    angle, zoom, *middle = take(numbers, 4)
    canvas = _fill_quadtrees(numbers, keys, size)
    # Particles of one tree do not overlap; those of two do.
    side = canvas.shape[-1]
    canvas = canvas[:, :1] + canvas[:, 1:].roll((side // 2 + 21, side // 2 + 37), (2, 3))
    # The canvas repeats without a seam: no particle crosses its border.
    angle, scale = 2 * math.pi * angle, 1 / (side * log_between(zoom, 0.75, 2))
    cos, sin = scale * angle.cos(), scale * angle.sin()
    column = (cos * scan.x).addcmul_(sin, scan.y).add_(middle[0])
    row = (cos * scan.y).addcmul_(-sin, scan.x).add_(middle[1])
    column, row = column.sub_(column.floor()), row.sub_(row.floor())
    return sample(canvas, column.mul_(2).sub_(1), row.mul_(2).sub_(1))


def _fill_quadtrees(numbers: Iterator[Tensor], keys: Tensor, size: int) -> Tensor:
    """Two canvases of particles `[b, 2, side, side]`, `size` px each way or a little more.

    Each particle lies within one cell of a quadtree, whichever its size.
    """
    density, common, variety, clumped, facets, sharp, long, shades = (
        number[..., None] for number in take(numbers, 8)
    )
    common = (_NUM_LEVELS - 1) * common  # level
    density, variety = log_between(density, 0.03, 0.9), between(variety, 0.4, 1.4)
    clumped = 4 * (clumped - 0.4).clamp(min=0)
    clumps = random.normal(random.fold_in(keys, Purpose.CLUMPS), (1, 5, 5))

    coarsest = 2 ** (_NUM_LEVELS - 1)
    leaves = coarsest * -(-size // (coarsest * _LEAF_PX))
    counts = [leaves // 2**level for level in range(_NUM_LEVELS)]
    draws = random.uniform(random.fold_in(keys, Purpose.TREES), (6, 2, sum(n * n for n in counts)))
    table = torch.zeros((len(keys), 6, 2, leaves, leaves), device=keys.device)
    for level, cells in enumerate(torch.split(draws, [n * n for n in counts], dim=-1)):
        span, count = 2**level, counts[level]
        chance, x, y, radius, shade, turn = cells.reshape(-1, 6, 2, count, count).unbind(1)
        crowd = 1 + clumped * F.interpolate(clumps, (count, count), mode="bilinear")
        rarity = torch.exp(-((level - common) ** 2) / (2 * variety**2))
        taken = yes(chance, density * rarity * crowd)
        radius, turn = between(radius, 0.12, 0.44), 2 * math.pi * turn
        reach = 0.94 - 2 * radius
        place = torch.arange(count, device=keys.device) + 0.5
        x, y = place + reach * (x - 0.5), place[:, None] + reach * (y - 0.5)
        thick = taken * (radius * 2 ** (level + 1 - common)).clamp(max=2) ** shades * (0.5 + shade)
        # In sides of a leaf; larger particles push out smaller ones.
        values = (span * x, span * y, 1 / (radius * span), thick, turn.cos(), turn.sin(), taken)
        seen = F.interpolate(torch.stack(values, 1).flatten(1, 2), scale_factor=float(span))
        seen = seen.view(-1, 7, 2, leaves, leaves)
        table = torch.lerp(table, seen[:, :6], seen[:, 6:])

    # Pixels as [b, 2, leaves, rows of a leaf, columns of all]: what the rows of a leaf share is
    # not repeated.
    table = table.repeat_interleave(_LEAF_PX, -1)[..., None, :]
    x, y, curvature, height, cos, sin = table.unbind(1)
    place = (torch.arange(leaves * _LEAF_PX, device=keys.device) + 0.5) / _LEAF_PX
    dx = (place - x) * curvature
    dy = (place.view(leaves, _LEAF_PX, 1) - y).mul_(curvature)
    facets, sharp, long = (number[..., None] for number in (facets, sharp, long))
    stretch = 1 + (3 * long - 2).clamp(min=0)
    a = (sin * dy).add_(cos * dx)
    b = dy.mul_(stretch * cos).sub_(stretch * sin * dx)
    square = (a * a).addcmul_(b, b)
    a, b = a.abs_(), b.abs_()
    diagonal = (a + b).mul_(0.75)
    octagon = a.clamp_(min=b).clamp_(min=diagonal).square_()
    square.lerp_(octagon, between(facets, -0.5, 1).clamp(min=0))
    profile = square.neg_().add_(1).mul_(log_between(sharp, 1, 5)).clamp_(0, 1).sqrt_()
    return profile.mul_(height).flatten(2, 3)
