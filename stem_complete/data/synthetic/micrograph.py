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

from collections.abc import Iterator

import torch
from torch import Tensor

from stem_complete.data.synthetic.crystal import draw_columns
from stem_complete.data.synthetic.draws import Purpose, bend_tones, log_between, stretch, take, yes
from stem_complete.data.synthetic.particles import draw_particles
from stem_complete.data.synthetic.specimen import (
    draw_film,
    draw_grains,
    draw_kind,
    draw_noise,
    draw_scan,
    draw_textures,
    draw_waves,
)
from stem_complete.scan import random
from stem_complete.scan.filters import blur

_STREAM = 1  # of keys; the simulation of scans has 0


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
    chosen = random.uniform(random.fold_in(keys, Purpose.CHOICE), (1,))[:, 0] < fraction
    if images.device.type == "cpu":  # which need not wait for itself
        images = images.clone()
        if chosen.any():
            images[chosen] = synthetic_micrographs(keys[chosen], images.shape[-1])
        return images
    drawn = synthetic_micrographs(keys, images.shape[-1])
    return torch.where(chosen[:, None, None, None], drawn, images)


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
    numbers = iter(random.uniform(random.fold_in(keys, Purpose.NUMBERS), (64, 1, 1)).unbind(1))
    kind = draw_kind(numbers)
    waves = draw_waves(keys, size)
    noise = draw_noise(keys, size)
    texture, speckle = draw_textures(numbers, noise)
    lines = random.normal(random.fold_in(keys, Purpose.LINES), (2, size, 1))
    scan = draw_scan(numbers, waves, lines[:, 0])
    grains = draw_grains(numbers, keys, scan, waves)

    # Mass under the probe.
    film = draw_film(numbers, kind, scan, waves[2], texture)
    columns = draw_columns(numbers, keys, scan, grains)
    crystal = (columns - 1).mul_(kind.columns * grains.mix(grains.contrast)).add_(1)
    mass = film * grains.mix(grains.brightness) * crystal
    # Particles lie on the film, and may be crystals too.
    particles = draw_particles(numbers, keys, scan).mul_((6 * film).clamp_(max=1))
    mass += particles.mul_(crystal.mul_(0.4).add_(0.6)).mul_(kind.particles)
    mass += speckle.mul_(kind.speckle).mul_(film.add_(0.3))
    mass += waves[3].clamp(min=0).square_().mul_(kind.haze)
    return _detect(numbers, mass, noise, lines[:, 1])


def _detect(numbers: Iterator[Tensor], mass: Tensor, noise: Tensor, lines: Tensor) -> Tensor:
    """What a detector gives `[b, 1, s, s]`: probe, noise, contrast, sign."""
    width, line, grain, gamma, sign = take(numbers, 5)
    image = mass[:, None]
    image = stretch(torch.lerp(image, blur(image, 2.0), width[:, None])[:, 0])
    # Counted electrons scatter as their root.
    image += (image + 0.05).sqrt_().mul_(noise).mul_(log_between(grain, 0.003, 0.1))
    image += log_between(line, 0.0005, 0.02) * lines
    image = bend_tones(stretch(image), log_between(gamma, 0.4, 2.5))
    sign = 1 - 2 * yes(sign, 0.15)
    return image.mul_(2 * sign).sub_(sign)[:, None]
