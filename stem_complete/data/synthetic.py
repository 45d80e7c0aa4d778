"""Synthetic micrographs: crystals, particles, films and their edges, drawn from keys on the device.

Crude physics: as in annular dark field, intensity grows with the mass under the probe, so a scene
is a film's thickness times its columns of atoms, plus particles. Atoms are not placed one by one:
a lattice is one unit cell, looked up at each pixel's lattice coordinates, and particles fill the
cells of a quadtree. Every image draws everything, much of it with weight 0: there is no branch on
data and nothing waits for the device, so it compiles and can be captured in a CUDA graph.

Of b images of s x s px, a number is [b, 1, 1] and a field [b, s, s]. No sum runs over the batch,
and fields are scaled by their extremes, which unlike moments do not depend on how a device adds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.acquire import blur

_STREAM = 1  # of keys; the simulation of scans has 0
# What the random numbers drawn from an image's key are for.
_CHOICE, _NUMBERS, _WAVES, _RIPPLES, _NOISE, _LINES, _GRAINS, _CELLS, _SITES = range(9)
_CLUMPS, _TREES = 9, 10

_NUM_TEXELS = 64  # along a side of a unit cell's picture
_NUM_SITES = 64  # unit cells each way until the pattern of defects is mirrored
_LEAF_PX = 8  # side of the quadtree's smallest cells
_NUM_LEVELS = 5  # of the quadtree


def replace_by_synthetic(
    images: Tensor, fraction: float, seed: int, step: int | Tensor, positions: Tensor
) -> Tensor:
    """`images` [b, 1, s, s], each replaced by a synthetic one with probability `fraction`.

    Args:
        images: Square micrographs in [-1, 1].
        fraction: In [0, 1]; 0 gives back `images`.
        seed: Of the run.
        step: Of the run; a 0-dimensional int64 tensor avoids recompilation.
        positions: Of the examples in the global batch `[b]` int64.
    """
    if not fraction:
        return images
    keys = random.example_keys(seed, step, positions, _STREAM)
    chosen = random.uniform(random.fold(keys, _CHOICE), (1, 1, 1)) < fraction
    return torch.where(chosen, synthetic_micrographs(keys, images.shape[-1]), images)


def synthetic_micrographs(keys: Tensor, size: int) -> Tensor:
    """Micrographs `[b, 1, size, size]`, each of which spans [-1, 1].

    Args:
        keys: One per image `[b]`, from `random.example_keys`.
        size: Side [px], at least 16.

    Raises:
        ValueError: The size is too small.
    """
    if size < 16:
        raise ValueError(f"synthetic micrographs are at least 16 px wide, got {size}")
    # The caches of CPUs hold one image at a time: of a batch, each would take nearly twice as long.
    at_once = 1 if keys.device.type == "cpu" else len(keys)
    return torch.cat([_draw(part, size) for part in torch.split(keys, at_once)])


def _draw(keys: Tensor, size: int) -> Tensor:
    """Micrographs [b, 1, size, size] of `keys` [b]."""
    # Drawn at once, as hashing few numbers takes as long as hashing many; each step takes its own.
    numbers = iter(random.uniform(random.fold(keys, _NUMBERS), (64, 1, 1)).unbind(1))
    kind = _kind(numbers)
    waves = _waves(keys, size)
    noise = _noise(keys, size)
    texture, speckle = _textures(numbers, noise)
    lines = random.normal(random.fold(keys, _LINES), (2, size, 1))
    scan = _scan(numbers, waves, lines[:, 0])
    grains = _grains(numbers, keys, scan, waves)

    # Mass under the probe.
    film = _film(numbers, kind, scan, waves[2], texture)
    columns = _columns(numbers, keys, scan, grains)
    crystal = (columns - 1).mul_(kind.columns * grains.mix(grains.contrast)).add_(1)
    mass = film * grains.mix(grains.brightness) * crystal
    # Particles lie on the film, and may be crystals too.
    particles = _particles(numbers, keys, scan).mul_((6 * film).clamp_(max=1))
    mass += particles.mul_(crystal.mul_(0.4).add_(0.6)).mul_(kind.particles)
    mass += speckle.mul_(kind.speckle).mul_(film.add_(0.3))
    mass += waves[3].clamp(min=0).square_().mul_(kind.haze)
    return _detect(numbers, mass, noise, lines[:, 1])


class _Kind(NamedTuple):
    """How much of each ingredient an image has, [b, 1, 1]."""

    columns: Tensor  # contrast of columns of atoms, 0 .. 1
    particles: Tensor  # their mass, that of the film being 1
    texture: Tensor  # share of the film's mass that varies, 0 .. 1
    speckle: Tensor
    haze: Tensor  # contamination


def _kind(numbers: Iterator[Tensor]) -> _Kind:
    """Mostly crystals, particles on a support or rough films, some with a little of another."""
    kind, columns, particles, texture, speckle, haze, fringes, guests = _take(numbers, 8)
    crystal = _yes(kind, 0.45)
    powder = _yes(kind, 0.78) - crystal
    film = 1 - crystal - powder
    fringes = (1 - crystal) * _yes(fringes, 0.3) * 0.4 * columns
    guests = (1 - powder) * _yes(guests, 0.25) * _spread(particles, 0.1, 2)
    return _Kind(
        columns=crystal * _between(columns, 0.5, 1) + fringes,
        particles=powder * _spread(particles, 0.3, 4) + guests,
        texture=(0.35 * crystal + 0.7 * powder + film) * texture.sqrt(),
        speckle=(1 - 0.6 * crystal + film) * _spread(speckle, 0.01, 0.3),
        haze=_between(haze, -0.2, 0.08).clamp(min=0),
    )


def _waves(keys: Tensor, size: int) -> list[Tensor]:
    """Four fields of standard deviation about 1, smooth over a fifth of the image and more."""
    few, many = _splines(5, 18, keys), _splines(18, size, keys)
    heights = random.normal(random.fold(keys, _WAVES), (4, 5, 5))
    ripples = random.normal(random.fold(keys, _RIPPLES), (4, 18, 18))
    heights = few @ heights @ few.T + 0.4 * ripples
    return [many @ field @ many.T for field in heights.unbind(1)]


def _splines(num_nodes: int, size: int, keys: Tensor) -> Tensor:
    """Cubic B-splines `[size, num_nodes]`: each place's weights of the nodes."""
    place = torch.linspace(1, num_nodes - 2, size, device=keys.device)
    distance = (place[:, None] - torch.arange(num_nodes, device=keys.device)).abs()
    return ((2 - distance).clamp(0) ** 3 - 4 * (1 - distance).clamp(0) ** 3) / 4


def _noise(keys: Tensor, size: int) -> Tensor:
    """White noise of mean 0 and standard deviation 1, uniformly distributed."""
    # Two numbers of 12 bits from one of 24: hashing is what costs.
    pair = random.uniform(random.fold(keys, _NOISE), (size, (size + 1) // 2)) * 4096
    noise = torch.cat((pair.floor() / 4096, pair.frac()), dim=2)[..., :size]
    return (noise - 0.5) * math.sqrt(12)


def _textures(numbers: Iterator[Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
    """A cloudy field from 0 to 1, and amorphous speckle from -1 to 1."""
    size = noise.shape[-1]
    slope, large, small, grain, ring = _take(numbers, 5)
    vertical = torch.fft.fftfreq(size, device=noise.device)[:, None]
    square = vertical**2 + torch.fft.rfftfreq(size, device=noise.device) ** 2  # [1/px^2]
    spectrum = torch.fft.rfft2(noise)

    # Power laws between two lengths: clouds, aggregates, porous carbon.
    longest, shortest = _spread(large, 24, 400), _spread(small, 1, 12)
    cloud = (square + longest**-2) ** (-_between(slope, 0.9, 1.7))
    cloud *= torch.exp((-2 * math.pi**2 * shortest**2) * square)
    # Speckle as fine as the probe, without its long waves where the contrast is one of phase.
    width = _spread(grain, 0.6, 4)
    speckle = torch.exp((-2 * math.pi**2 * width**2) * square)
    speckle *= (1 - _yes(ring, 0.5)) + square * width**2
    cloud, speckle = (torch.fft.irfft2(spectrum * f, s=(size, size)) for f in (cloud, speckle))
    # Shifted, they have nothing to do with each other, nor with the noise in the same place.
    cloud, speckle = cloud.roll(size // 3, 1), speckle.roll(size // 2, 2)
    return _stretch(cloud), 2 * _stretch(speckle) - 1


class _Scan(NamedTuple):
    """Where the probe was on the specimen [px] from the image's middle."""

    x: Tensor  # [b, s, s]
    y: Tensor
    column: Tensor  # x where it should have been, [s]
    row: Tensor  # and y, [s, 1]


def _scan(numbers: Iterator[Tensor], waves: list[Tensor], lines: Tensor) -> _Scan:
    """A raster bent by drift and strain, whose lines start a little off."""
    size = waves[0].shape[-1]
    bend, jitter = _take(numbers, 2)
    bend, jitter = _spread(bend, 0.1, 4), _spread(jitter, 0.02, 0.6)
    place = torch.arange(size, device=lines.device) - (size - 1) / 2
    x = (bend * waves[0]).add_(place + jitter * lines)
    y = (bend * waves[1]).add_(place[:, None])
    return _Scan(x, y, place, place[:, None])


class _Grains(NamedTuple):
    """Up to three grains: where they are, and how they look."""

    first: Tensor  # [b, s, s], 1 in the first grain and 0 elsewhere
    second: Tensor
    contrast: Tensor  # of the columns, [b, 3]
    brightness: Tensor  # [b, 3]
    lattice: list[Tensor]  # five uniform random numbers, [b, 3]

    def mix(self, values: Tensor) -> Tensor:
        """Field of `values` [b, 3], one per grain."""
        first, second, third = values[:, :, None, None].unbind(1)
        mixed = (first - third) * self.first
        return mixed.addcmul_(self.second, second - third).add_(third)

    def mix_planes(self, height: Tensor, slope_x: Tensor, slope_y: Tensor, scan: _Scan) -> Tensor:
        """Field of the planes `height + slope_x x + slope_y y`, each number [b, 3]."""
        first, second, third = torch.stack((height, slope_x, slope_y), 1).unbind(2)
        mixed = _plane(third, scan)
        mixed.addcmul_(self.first, _plane(first - third, scan))
        return mixed.addcmul_(self.second, _plane(second - third, scan))


def _plane(numbers: Tensor, scan: _Scan) -> Tensor:
    """Field of the plane whose height and slopes in x and y are `numbers` [b, 3]."""
    height, slope_x, slope_y = numbers[..., None, None].unbind(1)
    return torch.addcmul(height, slope_x, scan.x).addcmul_(slope_y, scan.y)


def _grains(numbers: Iterator[Tensor], keys: Tensor, scan: _Scan, waves: list[Tensor]) -> _Grains:
    """Voronoi cells, some with bent boundaries."""
    size = waves[0].shape[-1]
    count, bend, phase = _take(numbers, 3)
    bend = (bend - 0.4).clamp(min=0) * (0.3 * size)
    draws = random.uniform(random.fold(keys, _GRAINS), (9, 3)).unbind(1)
    x, y, tilt, brightness, *lattice = draws
    scores = []
    for grain, rarity in enumerate((0.0, 0.55, 0.85)):
        sx, sy = (place[:, grain, None, None] - 0.5 for place in (x, y))
        # The nearest seed has the largest r.c - c^2 / 2; a grain that is not there has the least.
        absent = 1e6 * (count < rarity).float()
        along = sx * scan.column - ((sx**2 + sy**2) * (size / 2) + absent)
        scores.append((along + sy * scan.row).addcmul_(bend, waves[grain]))
    a, b, c = scores
    first = (a - torch.maximum(b, c)).mul_(2).add_(0.5).clamp_(0, 1)
    second = (b - torch.maximum(a, c)).mul_(2).add_(0.5).clamp_(0, 1)
    # Tilted grains show weak columns; other phases are darker or brighter.
    brightness = 1 + (brightness - 0.5) * phase[:, 0].square()
    return _Grains(first, second, (4 * tilt).clamp(max=1), brightness, lattice)


def _film(
    numbers: Iterator[Tensor], kind: _Kind, scan: _Scan, wave: Tensor, texture: Tensor
) -> Tensor:
    """Thickness from 0 to 1: even or rough, some with an edge, a wedge or holes."""
    size = wave.shape[-1]
    angle, offset, steep, ragged, there, gamma, holes = _take(numbers, 7)
    # Height above where the film ends; without a slope, the ends are islands and holes.
    slope = (1 - 0.9 * _yes(holes, 0.3)) / size
    angle = 2 * math.pi * angle
    rough = 0.5 * kind.texture**2
    along = slope * angle.cos() * scan.column + (_between(offset, -0.1, 0.45) - rough / 2)
    height = along + slope * angle.sin() * scan.row
    height.addcmul_(wave, 0.02 + 0.2 * ragged**2).addcmul_(texture, rough)
    # How much is missing: its square makes a round shoulder.
    wedge = height.mul_(_spread(steep, 0.8, 60)).clamp_(0, 1).sub_(1).square_()
    wedge.mul_(-_yes(there, 0.4)).add_(1)
    # From plains with peaks to plateaus with gaps.
    rough = _bend_tones(texture, _spread(gamma, 0.3, 3))
    return rough.sub_(1).mul_(kind.texture).add_(1).mul_(wedge)


def _columns(numbers: Iterator[Tensor], keys: Tensor, scan: _Scan, grains: _Grains) -> Tensor:
    """Columns of atoms, from 0 to about 1, everywhere: grains, defects, Moire."""
    size = scan.x.shape[-1]
    turn, spread, wound, core_x, core_y = _take(numbers, 5)
    phase, tilt, hand, *origin = grains.lattice

    # Grains differ in phase, in orientation or, as twins and domains do, in hand and origin alone.
    cells, metric = _unit_cells(keys)
    phase = _yes(phase, 0.3)
    ux, uy, vy = torch.lerp(metric[:, :, :1], metric[:, :, 1:], phase[:, None]).unbind(1)
    misfit = _between(spread, -0.8, 1).clamp(min=0)[:, 0]
    angle = 2 * math.pi * turn[:, 0] + math.pi * misfit * (tilt - 0.5)
    hand = 1 - 2 * _yes(hand, 0.3)
    cos, sin = angle.cos(), angle.sin()
    u_x, u_y = ux * cos - uy * hand * sin, ux * sin + uy * hand * cos
    v_x, v_y = -vy * hand * sin, vy * hand * cos
    u = grains.mix_planes(origin[0], u_x, u_y, scan)
    v = grains.mix_planes(origin[1], v_x, v_y, scan)
    sites = _sites(numbers, keys, u, v)
    # Once around a dislocation's core, the lattice is one column ahead.
    turns = torch.atan2(scan.y - size * (core_y - 0.5), scan.x - size * (core_x - 0.5))
    u.addcmul_(turns, (_yes(wound, 0.2) - 2 * _yes(wound, 0.1)) / (2 * math.pi))
    columns = _look_up(cells, u, v, grains.mix(phase)).mul_(sites)

    # A second layer, turned and strained, makes a Moire with the first.
    there, turn, strain, u, v = _take(numbers, 5)
    turn = _spread(turn[:, 0], 0.02, 0.6)
    cos, sin = turn.cos() * _between(strain[:, 0], 0.95, 1.05), turn.sin()
    u_x, u_y, v_x, v_y = (slope[:, 2:] for slope in (u_x, u_y, v_x, v_y))
    u = _plane(torch.cat((u[:, 0], cos * u_x - sin * u_y, sin * u_x + cos * u_y), 1), scan)
    v = _plane(torch.cat((v[:, 0], cos * v_x - sin * v_y, sin * v_x + cos * v_y), 1), scan)
    second = _look_up(cells, u, v, phase[:, 2:, None])
    return columns.addcmul_(second, _yes(there, 0.12))


def _unit_cells(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures of two phases' unit cells, from 0 to 1, side by side `[b, 1, texels, 2 texels]`.

    Also du/dx, du/dy and dv/dy of their lattice coordinates u and v `[b, 3, 2]` [1/px]; v does not
    depend on x.
    """
    draws = random.uniform(random.fold(keys, _CELLS), (13, 2, 1, 1)).unbind(1)
    side, ratio, angle, width, flat, stripes, *atom = draws
    motif, gap, x, y, second, centred, centre = atom

    # Phases that meet have similar spacings.
    relative = torch.cat((torch.ones_like(side[:, :1]), _between(side[:, 1:], 0.75, 1.35)), 1)
    side = _spread(side[:, :1], 4, 60) * relative
    hexagonal = _yes(angle, 0.3)
    ratio = 1 + 1.2 * (1 - hexagonal) * _between(ratio, -1, 1).clamp(min=0)
    oblique = (1 - hexagonal) * _between(angle, -2, 1).clamp(min=0)
    cosine = torch.maximum(-(hexagonal + oblique) / 2, -1 / ratio)  # a reduced cell

    # A pair of atoms and, in centred cells, the same again in the middle: simple and honeycomb
    # lattices, dumbbells (diamond along 110), perovskites, and pairs as they come.
    honeycomb = hexagonal * _yes(motif, 0.5)
    dumbbell = (1 - honeycomb) * _yes(motif, 0.4)
    half = (1 - honeycomb - dumbbell) * _yes(motif, 0.75)
    free = 1 - honeycomb - dumbbell - half
    x = honeycomb / 3 + dumbbell * _between(gap, 0.15, 0.35) + half / 2 + free * x
    y = honeycomb * (2 / 3) + free * y
    second = _between(second, -0.2, 1.2).clamp(0, 1)
    centre = (1 - honeycomb) * _yes(centred, 0.5) * _between(centre, 0.15, 1)
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
    seen = 1 - _yes(stripes, 0.06)
    selling = (side**2 - shared * seen, (other**2 - shared) * seen, shared * seen)
    width = (_spread(width, 0.09, 0.22) * side).clamp(min=0.9)
    flat = _spread(_between(flat, -2, 1).clamp(min=0), 0.01, 30)
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
    return _sample(cells, column, (v - v.floor()).mul_(2).sub_(1))


def _sites(numbers: Iterator[Tensor], keys: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """How bright the atoms of each unit cell are: vacancies, heavy neighbours, ordering."""
    rough, empty, heavy, order, *direction = _take(numbers, 6)
    draws = random.uniform(random.fold(keys, _SITES), (2, _NUM_SITES, _NUM_SITES))
    chance, height = draws.unbind(1)
    place = torch.arange(_NUM_SITES, device=keys.device)
    # Every second plane differs in an ordered crystal.
    planes = _yes(direction[0], 0.6) * place + _yes(direction[1], 0.6) * place[:, None]
    sites = 1 - _between(order, -2, 0.6).clamp(min=0) * torch.cos(math.pi * planes).clamp(min=0)
    sites = sites * (1 + _between(rough, -0.1, 0.3).clamp(min=0) * (height - 0.5))
    sites = sites * (1 - _yes(chance, 0.1 * (empty - 0.6).clamp(min=0)) * height.sqrt())
    sites = sites + _yes(1 - chance, 0.1 * (heavy - 0.6).clamp(min=0)) * height
    # Between the middles of cells the brightness changes linearly, so no atom is cut.
    step = 2 / (_NUM_SITES - 1)
    return _sample(sites[:, None], u * step + step / 2, v * step + step / 2, "reflection")


def _particles(numbers: Iterator[Tensor], keys: Tensor, scan: _Scan) -> Tensor:
    """Thickness of particles, most below 1: balls, plates and rods, round or faceted."""
    size = scan.x.shape[-1]
    angle, zoom, *middle = _take(numbers, 4)
    canvas = _fill_quadtrees(numbers, keys, size)
    # Particles of one tree do not overlap; those of two do.
    side = canvas.shape[-1]
    canvas = canvas[:, :1] + canvas[:, 1:].roll((side // 2 + 21, side // 2 + 37), (2, 3))
    # The canvas repeats without a seam: no particle crosses its border.
    angle, scale = 2 * math.pi * angle, 1 / (side * _spread(zoom, 0.75, 2))
    cos, sin = scale * angle.cos(), scale * angle.sin()
    column = (cos * scan.x).addcmul_(sin, scan.y).add_(middle[0])
    row = (cos * scan.y).addcmul_(-sin, scan.x).add_(middle[1])
    column, row = column.sub_(column.floor()), row.sub_(row.floor())
    return _sample(canvas, column.mul_(2).sub_(1), row.mul_(2).sub_(1))


def _fill_quadtrees(numbers: Iterator[Tensor], keys: Tensor, size: int) -> Tensor:
    """Two canvases of particles `[b, 2, side, side]`, `size` px each way or a little more.

    Each particle lies within one cell of a quadtree, whichever its size.
    """
    density, common, variety, clumped, facets, sharp, long, shades = (
        number[..., None] for number in _take(numbers, 8)
    )
    common = (_NUM_LEVELS - 1) * common  # level
    density, variety = _spread(density, 0.03, 0.9), _between(variety, 0.4, 1.4)
    clumped = 4 * (clumped - 0.4).clamp(min=0)
    clumps = random.normal(random.fold(keys, _CLUMPS), (1, 5, 5))

    coarsest = 2 ** (_NUM_LEVELS - 1)
    leaves = coarsest * -(-size // (coarsest * _LEAF_PX))
    counts = [leaves // 2**level for level in range(_NUM_LEVELS)]
    draws = random.uniform(random.fold(keys, _TREES), (6, 2, sum(n * n for n in counts)))
    table = torch.zeros((len(keys), 6, 2, leaves, leaves), device=keys.device)
    for level, cells in enumerate(torch.split(draws, [n * n for n in counts], dim=-1)):
        span, count = 2**level, counts[level]
        chance, x, y, radius, shade, turn = cells.reshape(-1, 6, 2, count, count).unbind(1)
        crowd = 1 + clumped * F.interpolate(clumps, (count, count), mode="bilinear")
        rarity = torch.exp(-((level - common) ** 2) / (2 * variety**2))
        taken = _yes(chance, density * rarity * crowd)
        radius, turn = _between(radius, 0.12, 0.44), 2 * math.pi * turn
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
    square.lerp_(octagon, _between(facets, -0.5, 1).clamp(min=0))
    profile = square.neg_().add_(1).mul_(_spread(sharp, 1, 5)).clamp_(0, 1).sqrt_()
    return profile.mul_(height).flatten(2, 3)


def _detect(numbers: Iterator[Tensor], mass: Tensor, noise: Tensor, lines: Tensor) -> Tensor:
    """What a detector gives `[b, 1, s, s]`: probe, noise, contrast, sign."""
    width, line, grain, gamma, sign = _take(numbers, 5)
    image = mass[:, None]
    image = _stretch(torch.lerp(image, blur(image, 2.0), width[:, None])[:, 0])
    # Counted electrons scatter as their root.
    image += (image + 0.05).sqrt_().mul_(noise).mul_(_spread(grain, 0.003, 0.1))
    image += _spread(line, 0.0005, 0.02) * lines
    image = _bend_tones(_stretch(image), _spread(gamma, 0.4, 2.5))
    sign = 1 - 2 * _yes(sign, 0.15)
    return image.mul_(2 * sign).sub_(sign)[:, None]


def _sample(images: Tensor, column: Tensor, row: Tensor, beyond: str = "border") -> Tensor:
    """Field of `images` [b, 1, ., .] at places from -1 to 1 each way; `beyond` says what is there.

    A border is faster to extend than to reflect.
    """
    grid = torch.stack((column, row), -1)
    return F.grid_sample(images, grid, padding_mode=beyond, align_corners=True).squeeze(1)


def _bend_tones(x: Tensor, strength: Tensor) -> Tensor:
    """A tone curve from 0 to 1, much like a power but cheaper; strength 1 changes nothing."""
    return x / (x + strength * (1 - x))


def _stretch(field: Tensor) -> Tensor:
    """`field` scaled to span 0 to 1."""
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    return (field - low).div_(high - low)


def _take(numbers: Iterator[Tensor], count: int) -> tuple[Tensor, ...]:
    """The next `count` uniform random numbers of each image."""
    return tuple(islice(numbers, count))


def _between(u: Tensor, low: float, high: float) -> Tensor:
    """Uniform u as a number between `low` and `high`."""
    return low + (high - low) * u


def _spread(u: Tensor, low: float, high: float) -> Tensor:
    """Uniform u as a number between `low` and `high` whose logarithm is uniform."""
    return low * (high / low) ** u


def _yes(u: Tensor, chance: float | Tensor) -> Tensor:
    """1 with probability `chance`, else 0."""
    return (u < chance).float()
