"""Columns of atoms: a lattice is one unit cell, looked up at each pixel's lattice coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from stem_complete.data.synthetic.draws import Purpose, between, log_between, sample, take, yes
from stem_complete.data.synthetic.specimen import Grains, Scan, plane
from stem_complete.scan import random

_NUM_TEXELS = 64  # along a side of a unit cell's picture
_NUM_SITES = 64  # unit cells each way until the pattern of defects is mirrored


def draw_columns(numbers: Iterator[Tensor], keys: Tensor, scan: Scan, grains: Grains) -> Tensor:
    """Columns of atoms, from 0 to about 1, everywhere: grains, defects, Moire."""
    size = scan.x.shape[-1]
    turn, spread, wound, core_x, core_y = take(numbers, 5)
    phase, tilt, hand, *origin = grains.lattice

    # Grains differ in phase, in orientation or, as twins and domains do, in hand and origin alone.
    cells, metric = _unit_cells(keys)
    phase = yes(phase, 0.3)
    ux, uy, vy = torch.lerp(metric[:, :, :1], metric[:, :, 1:], phase[:, None]).unbind(1)
    misfit = between(spread, -0.8, 1).clamp(min=0)[:, 0]
    angle = 2 * math.pi * turn[:, 0] + math.pi * misfit * (tilt - 0.5)
    hand = 1 - 2 * yes(hand, 0.3)
    cos, sin = angle.cos(), angle.sin()
    u_x, u_y = ux * cos - uy * hand * sin, ux * sin + uy * hand * cos
    v_x, v_y = -vy * hand * sin, vy * hand * cos
    u = grains.mix_planes(origin[0], u_x, u_y, scan)
    v = grains.mix_planes(origin[1], v_x, v_y, scan)
    sites = _sites(numbers, keys, u, v)
    # Once around a dislocation's core, the lattice is one column ahead.
    turns = torch.atan2(scan.y - size * (core_y - 0.5), scan.x - size * (core_x - 0.5))
    u.addcmul_(turns, (yes(wound, 0.2) - 2 * yes(wound, 0.1)) / (2 * math.pi))
    columns = _look_up(cells, u, v, grains.mix(phase)).mul_(sites)

    # A second layer, turned and strained, makes a Moire with the first.
    there, turn, strain, u, v = take(numbers, 5)
    turn = log_between(turn[:, 0], 0.02, 0.6)
    cos, sin = turn.cos() * between(strain[:, 0], 0.95, 1.05), turn.sin()
    u_x, u_y, v_x, v_y = (slope[:, 2:] for slope in (u_x, u_y, v_x, v_y))
    u = plane(torch.cat((u[:, 0], cos * u_x - sin * u_y, sin * u_x + cos * u_y), 1), scan)
    v = plane(torch.cat((v[:, 0], cos * v_x - sin * v_y, sin * v_x + cos * v_y), 1), scan)
    second = _look_up(cells, u, v, phase[:, 2:, None])
    return columns.addcmul_(second, yes(there, 0.12))


def _unit_cells(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures of two phases' unit cells, from 0 to 1, side by side `[b, 1, texels, 2 texels]`.

    Also du/dx, du/dy and dv/dy of their lattice coordinates u and v `[b, 3, 2]` [1/px]; v does not
    depend on x.
    """
    draws = random.uniform(random.fold_in(keys, Purpose.CELLS), (13, 2, 1, 1)).unbind(1)
    side, ratio, angle, width, flat, stripes, *atom = draws
    motif, gap, x, y, second, centred, centre = atom

    # Phases that meet have similar spacings.
    relative = torch.cat((torch.ones_like(side[:, :1]), between(side[:, 1:], 0.75, 1.35)), 1)
    side = log_between(side[:, :1], 4, 60) * relative
    hexagonal = yes(angle, 0.3)
    ratio = 1 + 1.2 * (1 - hexagonal) * between(ratio, -1, 1).clamp(min=0)
    oblique = (1 - hexagonal) * between(angle, -2, 1).clamp(min=0)
    cosine = torch.maximum(-(hexagonal + oblique) / 2, -1 / ratio)  # a reduced cell

    # A pair of atoms and, in centred cells, the same again in the middle: simple and honeycomb
    # lattices, dumbbells (diamond along 110), perovskites, and pairs as they come.
    honeycomb = hexagonal * yes(motif, 0.5)
    dumbbell = (1 - honeycomb) * yes(motif, 0.4)
    half = (1 - honeycomb - dumbbell) * yes(motif, 0.75)
    free = 1 - honeycomb - dumbbell - half
    x = honeycomb / 3 + dumbbell * between(gap, 0.15, 0.35) + half / 2 + free * x
    y = honeycomb * (2 / 3) + free * y
    second = between(second, -0.2, 1.2).clamp(0, 1)
    centre = (1 - honeycomb) * yes(centred, 0.5) * between(centre, 0.15, 1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    atoms = (
        (zero, zero, one),
        (x, y, second),
        (one / 2, one / 2, centre),
        (x + 0.5, y + 0.5, second * centre),
    )

    # The squared distance r^2 as the sum of Selling's three parameters, each times a squared
    # lattice coordinate, and that as a cosine: round atoms that repeat, in any reduced cell.
    other = ratio * side
    shared = -side * other * cosine
    # Without the second and third, one family of planes is all that is seen.
    seen = 1 - yes(stripes, 0.06)
    selling = (side**2 - shared * seen, (other**2 - shared) * seen, shared * seen)
    width = (log_between(width, 0.09, 0.22) * side).clamp(min=0.9)
    flat = log_between(between(flat, -2, 1).clamp(min=0), 0.01, 30)
    place = torch.linspace(0, 1, _NUM_TEXELS, device=keys.device)
    total = torch.zeros((), device=keys.device)
    for x, y, brightness in atoms:
        du, dv = place - x, place[:, None] - y
        square = torch.zeros((), device=keys.device)
        for weight, d in zip(selling, (du, dv, du - dv), strict=True):
            square = square + weight * (1 - torch.cos(2 * math.pi * d)) / (2 * math.pi**2)
        # Gaussian peaks or, in arrays of particles, discs.
        peak = torch.exp(-square / (2 * width**2))
        total = total + brightness * -torch.expm1(-flat * peak)
    cells = total / total.amax((2, 3), keepdim=True)

    sine = (1 - cosine**2).sqrt()
    metric = torch.stack((1 / side, -cosine / (sine * side), 1 / (sine * other)), 1)
    return cells.transpose(1, 2).flatten(2)[:, None], metric[..., 0, 0]


def _look_up(cells: Tensor, u: Tensor, v: Tensor, phase: Tensor) -> Tensor:
    """What the unit cells show at lattice coordinates u and v, of phase 0 or 1."""
    # In a row of 2 n texels, n - 1 steps are one cell, and n lead to the next phase's.
    step = 2 / (2 * _NUM_TEXELS - 1)
    column = (u - u.floor()).mul_((_NUM_TEXELS - 1) * step).add_(phase * (_NUM_TEXELS * step) - 1)
    return sample(cells, column, (v - v.floor()).mul_(2).sub_(1))


def _sites(numbers: Iterator[Tensor], keys: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """How bright the atoms of each unit cell are: vacancies, heavy neighbours, ordering."""
    rough, empty, heavy, order, *direction = take(numbers, 6)
    draws = random.uniform(random.fold_in(keys, Purpose.SITES), (2, _NUM_SITES, _NUM_SITES))
    chance, height = draws.unbind(1)
    place = torch.arange(_NUM_SITES, device=keys.device)
    # Every second plane differs in an ordered crystal.
    planes = yes(direction[0], 0.6) * place + yes(direction[1], 0.6) * place[:, None]
    sites = 1 - between(order, -2, 0.6).clamp(min=0) * torch.cos(math.pi * planes).clamp(min=0)
    sites = sites * (1 + between(rough, -0.1, 0.3).clamp(min=0) * (height - 0.5))
    sites = sites * (1 - yes(chance, 0.1 * (empty - 0.6).clamp(min=0)) * height.sqrt())
    sites = sites + yes(1 - chance, 0.1 * (heavy - 0.6).clamp(min=0)) * height
    # Between the middles of cells the brightness changes linearly, so no atom is cut.
    step = 2 / (_NUM_SITES - 1)
    return sample(sites[:, None], u * step + step / 2, v * step + step / 2, "reflection")
