"""Random numbers of synthetic micrographs: what for, how spread; and small maps of fields."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor


class Purpose(IntEnum):
    """What the random numbers drawn from an image's key are for."""

    CHOICE = 0
    NUMBERS = 1
    WAVES = 2
    RIPPLES = 3
    NOISE = 4
    LINES = 5
    GRAINS = 6
    CELLS = 7
    SITES = 8
    CLUMPS = 9
    TREES = 10


def take(numbers: Iterator[Tensor], count: int) -> tuple[Tensor, ...]:
    """The next `count` uniform random numbers of each image."""
    return tuple(islice(numbers, count))


def between(u: Tensor, low: float, high: float) -> Tensor:
    """Uniform u as a number between `low` and `high`."""
    return low + (high - low) * u


def log_between(u: Tensor, low: float, high: float) -> Tensor:
    """Uniform u as a number between `low` and `high` whose logarithm is uniform."""
    return low * (high / low) ** u


def yes(u: Tensor, chance: float | Tensor) -> Tensor:
    """1 with probability `chance`, else 0."""
    return (u < chance).float()


def bend_tones(x: Tensor, strength: Tensor) -> Tensor:
    """A tone curve from 0 to 1, much like a power but cheaper; strength 1 changes nothing."""
    return x / (x + strength * (1 - x))


def stretch(field: Tensor) -> Tensor:
    """`field` scaled to span 0 to 1."""
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    return (field - low).div_(high - low)


def sample(images: Tensor, column: Tensor, row: Tensor, beyond: str = "border") -> Tensor:
    """Field of `images` [b, 1, ., .] at places from -1 to 1 each way; `beyond` says what is there.

    A border is faster to extend than to reflect.
    """
    grid = torch.stack((column, row), -1)
    return F.grid_sample(images, grid, padding_mode=beyond, align_corners=True).squeeze(1)
