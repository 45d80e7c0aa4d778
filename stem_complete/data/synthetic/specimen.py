"""What the probe meets: kind, film, grains and textures, and where the probe was on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from stem_complete.data.synthetic.draws import (
    Purpose,
    bend_tones,
    between,
    log_between,
    stretch,
    take,
    yes,
)
from stem_complete.scan import random


class Kind(NamedTuple):
    """How much of each ingredient an image has, [b, 1, 1]."""

    columns: Tensor  # contrast of columns of atoms, 0 .. 1
    particles: Tensor  # their mass, that of the film being 1
    texture: Tensor  # share of the film's mass that varies, 0 .. 1
    speckle: Tensor
    haze: Tensor  # contamination


def draw_kind(numbers: Iterator[Tensor]) -> Kind:
    """Mostly crystals, particles on a support or rough films, some with a little of another."""
    kind, columns, particles, texture, speckle, haze, fringes, guests = take(numbers, 8)
    crystal = yes(kind, 0.45)
    powder = yes(kind, 0.78) - crystal
    film = 1 - crystal - powder
    fringes = (1 - crystal) * yes(fringes, 0.3) * 0.4 * columns
    guests = (1 - powder) * yes(guests, 0.25) * log_between(particles, 0.1, 2)
    return Kind(
        columns=crystal * between(columns, 0.5, 1) + fringes,
        particles=powder * log_between(particles, 0.3, 4) + guests,
        texture=(0.35 * crystal + 0.7 * powder + film) * texture.sqrt(),
        speckle=(1 - 0.6 * crystal + film) * log_between(speckle, 0.01, 0.3),
        haze=between(haze, -0.2, 0.08).clamp(min=0),
    )


def draw_waves(keys: Tensor, size: int) -> list[Tensor]:
    """Four fields of standard deviation about 1, smooth over a fifth of the image and more."""
    few, many = _splines(5, 18, keys), _splines(18, size, keys)
    heights = random.normal(random.fold_in(keys, Purpose.WAVES), (4, 5, 5))
    ripples = random.normal(random.fold_in(keys, Purpose.RIPPLES), (4, 18, 18))
    heights = few @ heights @ few.T + 0.4 * ripples
    return [many @ field @ many.T for field in heights.unbind(1)]


def _splines(num_nodes: int, size: int, keys: Tensor) -> Tensor:
    """Cubic B-splines `[size, num_nodes]`: each place's weights of the nodes."""
    place = torch.linspace(1, num_nodes - 2, size, device=keys.device)
    distance = (place[:, None] - torch.arange(num_nodes, device=keys.device)).abs()
    return ((2 - distance).clamp(0) ** 3 - 4 * (1 - distance).clamp(0) ** 3) / 4


def draw_noise(keys: Tensor, size: int) -> Tensor:
    """White noise of mean 0 and standard deviation 1, uniformly distributed."""
    # Two numbers of 12 bits from one of 24: hashing is what costs.
    pair = random.uniform(random.fold_in(keys, Purpose.NOISE), (size, (size + 1) // 2)) * 4096
    noise = torch.cat((pair.floor() / 4096, pair.frac()), dim=2)[..., :size]
    return (noise - 0.5) * math.sqrt(12)


def draw_textures(numbers: Iterator[Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
    """A cloudy field from 0 to 1, and amorphous speckle from -1 to 1."""
    size = noise.shape[-1]
    slope, large, small, grain, ring = take(numbers, 5)
    vertical = torch.fft.fftfreq(size, device=noise.device)[:, None]
    square = vertical**2 + torch.fft.rfftfreq(size, device=noise.device) ** 2  # [1/px^2]
    spectrum = torch.fft.rfft2(noise)

    # Power laws between two lengths: clouds, aggregates, porous carbon.
    longest, shortest = log_between(large, 24, 400), log_between(small, 1, 12)
    cloud = (square + longest**-2) ** (-between(slope, 0.9, 1.7))
    cloud *= torch.exp((-2 * math.pi**2 * shortest**2) * square)
    # Speckle as fine as the probe, without its long waves where the contrast is one of phase.
    width = log_between(grain, 0.6, 4)
    speckle = torch.exp((-2 * math.pi**2 * width**2) * square)
    speckle *= (1 - yes(ring, 0.5)) + square * width**2
    cloud, speckle = (torch.fft.irfft2(spectrum * f, s=(size, size)) for f in (cloud, speckle))
    # Shifted, they have nothing to do with each other, nor with the noise in the same place.
    cloud, speckle = cloud.roll(size // 3, 1), speckle.roll(size // 2, 2)
    return stretch(cloud), 2 * stretch(speckle) - 1


class Scan(NamedTuple):
    """Where the probe was on the specimen [px] from the image's middle."""

    x: Tensor  # [b, s, s]
    y: Tensor
    column: Tensor  # x where it should have been, [s]
    row: Tensor  # and y, [s, 1]


def draw_scan(numbers: Iterator[Tensor], waves: list[Tensor], lines: Tensor) -> Scan:
    """A raster bent by drift and strain, whose lines start a little off."""
    size = waves[0].shape[-1]
    bend, jitter = take(numbers, 2)
    bend, jitter = log_between(bend, 0.1, 4), log_between(jitter, 0.02, 0.6)
    place = torch.arange(size, device=lines.device) - (size - 1) / 2
    x = (bend * waves[0]).add_(place + jitter * lines)
    y = (bend * waves[1]).add_(place[:, None])
    return Scan(x, y, place, place[:, None])


class Grains(NamedTuple):
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

    def mix_planes(self, height: Tensor, slope_x: Tensor, slope_y: Tensor, scan: Scan) -> Tensor:
        """Field of the planes `height + slope_x x + slope_y y`, each number [b, 3]."""
        first, second, third = torch.stack((height, slope_x, slope_y), 1).unbind(2)
        mixed = plane(third, scan)
        mixed.addcmul_(self.first, plane(first - third, scan))
        return mixed.addcmul_(self.second, plane(second - third, scan))


def plane(numbers: Tensor, scan: Scan) -> Tensor:
    """Field of the plane whose height and slopes in x and y are `numbers` [b, 3]."""
    height, slope_x, slope_y = numbers[..., None, None].unbind(1)
    return torch.addcmul(height, slope_x, scan.x).addcmul_(slope_y, scan.y)


def draw_grains(numbers: Iterator[Tensor], keys: Tensor, scan: Scan, waves: list[Tensor]) -> Grains:
    """Voronoi cells, some with bent boundaries."""
    size = waves[0].shape[-1]
    count, bend, phase = take(numbers, 3)
    bend = (bend - 0.4).clamp(min=0) * (0.3 * size)
    draws = random.uniform(random.fold_in(keys, Purpose.GRAINS), (9, 3)).unbind(1)
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
    return Grains(first, second, (4 * tilt).clamp(max=1), brightness, lattice)


def draw_film(
    numbers: Iterator[Tensor], kind: Kind, scan: Scan, wave: Tensor, texture: Tensor
) -> Tensor:
    """Thickness from 0 to 1: even or rough, some with an edge, a wedge or holes."""
    size = wave.shape[-1]
    angle, offset, steep, ragged, there, gamma, holes = take(numbers, 7)
    # Height above where the film ends; without a slope, the ends are islands and holes.
    slope = (1 - 0.9 * yes(holes, 0.3)) / size
    angle = 2 * math.pi * angle
    rough = 0.5 * kind.texture**2
    along = slope * angle.cos() * scan.column + (between(offset, -0.1, 0.45) - rough / 2)
    height = along + slope * angle.sin() * scan.row
    height.addcmul_(wave, 0.02 + 0.2 * ragged**2).addcmul_(texture, rough)
    # How much is missing: its square makes a round shoulder.
    wedge = height.mul_(log_between(steep, 0.8, 60)).clamp_(0, 1).sub_(1).square_()
    wedge.mul_(-yes(there, 0.4)).add_(1)
    # From plains with peaks to plateaus with gaps.
    rough = bend_tones(texture, log_between(gamma, 0.3, 3))
    return rough.sub_(1).mul_(kind.texture).add_(1).mul_(wedge)
