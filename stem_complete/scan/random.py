"""Random numbers that are a function of (seed, step, position), never of the worker or the batch.

A key is a 64-bit hash of those integers; the numbers of an example are the hashes of its key and
a counter (SplitMix64: Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195). Integers and
uniforms are bit-identical on every device; normals and counts differ in the last digits where
devices round `log` and `cos` differently.

Every function works elementwise on tensors, without a branch on data and without state, so it
compiles and can be captured in a CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor

# int64 wraps modulo 2^64, so the constants are written as signed numbers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64

# Giles's expansion is used from this rate on. Below it, inversion sums up to a count that is
# exceeded with a probability under 1e-7.
_LARGE_RATE = 8.0
_MAX_SMALL_COUNT = 28


class Stream(Enum):
    """All purposes of random numbers; those of different purposes are independent.

    The first number of each is folded into the key of the run, the others into the key of the
    example. Runs that other versions began go on with the same scans only if they stay.
    """

    FLIPS = (0, 0)
    NOISE = (0, 1)
    TONE_CURVE = (0, 3, 1)
    INVERSION = (0, 3, 2)
    PATH = (0, 4)
    IS_NOISY = (0, 5)
    DETECTION = (0, 6)
    BRIGHTNESS = (0, 7)
    CONTRAST = (0, 8)
    SHIFT_ROWS = (0, 9)
    SHIFT_COLUMNS = (0, 10)
    PARTS = (2, 0)
    OTHER_PARTS = (2, 1)
    OTHER_FLIPS = (2, 2)
    OVERLAY = (2, 3)
    HARD_EXAMPLES = (2, 4)
    SMOOTHING = (2, 5)


KeysOf = Callable[[Stream], Tensor]
"""Keys `[b]` of a batch's examples, by purpose: `example_keys` with all other arguments given."""


def example_keys(seed: int, step: int | Tensor, positions: Tensor, stream: Stream) -> Tensor:
    """Keys `[b]` of the examples at `positions` [b] int64 of the global batch of `step`.

    Args:
        seed: Seed of the run.
        step: Step of the run; a 0-dimensional int64 tensor avoids recompilation. Or that of each
            example `[b]`.
        positions: Positions in the global batch.
        stream: Purpose of the numbers that are drawn from the keys.
    """
    of_run, *of_example = stream.value
    run = fold_in(key(seed, device=positions.device), of_run)
    keys = fold_in(fold_in(run, step), positions)
    for value in of_example:
        keys = fold_in(keys, value)
    return keys


def key(seed: int, device: torch.device | None = None) -> Tensor:
    """Key `[]` int64 of a seed."""
    # Filled on the device: a copy from the host would not go into a CUDA graph.
    return torch.full((), (seed + 2**63) % 2**64 - 2**63, dtype=torch.int64, device=device)


def fold_in(keys: Tensor, value: int | Tensor) -> Tensor:
    """New keys, independent of `keys` and of those of any other `value`; the shapes broadcast."""
    # Hashed twice, so that a new key is not one of the numbers drawn from the old one.
    return _hash(_hash(keys + _GAMMA) + value)


def uniform(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Float32 numbers `[b, *shape]`, uniform in [0, 1), multiples of 2^-24."""
    return uniform_at(keys, _places(keys, shape)).view(-1, *shape)


def uniform_at(keys: Tensor, places: Tensor) -> Tensor:
    """Numbers `[b, n]` that `uniform` draws at the flat indices `places` [b or 1, n]."""
    return _to_uniform(_bits(keys, places))


def normal(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Float32 numbers `[b, *shape]` of mean 0 and standard deviation 1, within 6.8 deviations."""
    return normal_at(keys, _places(keys, shape)).view(-1, *shape)


def normal_at(keys: Tensor, places: Tensor) -> Tensor:
    """Numbers `[b, n]` that `normal` draws at the flat indices `places` [b or 1, n]."""
    return _to_normal(_bits(keys, places))


def integers(keys: Tensor, high: int) -> Tensor:
    """Int64 numbers `[b]`, uniform in 0 .. high - 1, with `high` at most 2^31."""
    if not 1 <= high <= 2**31:
        raise ValueError(f"high must be in 1 .. 2^31, got {high}")
    return (_shift_right(_hash(keys + _GAMMA), 32) * high) >> 32


def poisson(keys: Tensor, rate: Tensor) -> Tensor:
    """Float32 Poisson counts `[b, ...]` of `rate` [b, ...] >= 0; see `poisson_at`."""
    places = _places(keys, tuple(rate.shape[1:]))
    return poisson_at(keys, rate.flatten(1), places).view_as(rate)


def poisson_at(keys: Tensor, rate: Tensor, places: Tensor) -> Tensor:
    """Counts `[b, n]` that `poisson` draws at the flat indices `places`, for their `rate`.

    Rates below 8 are inverted exactly. Above, the quantile of a normal number z is expanded to
    second order in 1/sqrt(rate) (Giles 2016, Algorithm 955, doi:10.1145/2699466); the
    distribution function then errs by less than 1e-4.

    Args:
        keys: Keys `[b]`.
        rate: Means `[b, n]`, at least 0.
        places: Flat indices `[b or 1, n]` int64.
    """
    rate = rate.float()
    bits = _bits(keys, places)
    return torch.where(
        rate < _LARGE_RATE,
        _invert_small_rate(_to_uniform(bits), rate.clamp(0, _LARGE_RATE)),
        _expand_large_rate(_to_normal(bits), rate.clamp(min=_LARGE_RATE)),
    )


def _invert_small_rate(u: Tensor, rate: Tensor) -> Tensor:
    """Smallest count whose distribution function exceeds `u`."""
    probability = torch.exp(-rate)
    cumulative = probability
    count = (u >= cumulative).float()
    for k in range(1, _MAX_SMALL_COUNT):
        probability = probability * rate / k
        cumulative = cumulative + probability
        count = count + (u >= cumulative)
    return count


def _expand_large_rate(z: Tensor, rate: Tensor) -> Tensor:
    root = rate.sqrt()
    square = z * z
    return torch.floor(
        rate
        + root * z
        + (1 / 3 + square / 6)
        - z * (1 / 36 + square / 72) / root
        + (-8 / 405 + square * (7 / 810 + square / 270)) / rate
    ).clamp(min=0)


def _places(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.arange(math.prod(shape), device=keys.device)[None]


def _bits(keys: Tensor, places: Tensor) -> Tensor:
    """Hashes `[b, n]` of `keys` [b] and `places` [b or 1, n]: SplitMix64 from `key * _GAMMA` on."""
    # `places * _GAMMA` would do too, but torch.compile takes it for an index and overflows.
    return _hash((keys[:, None] + (places + 1)) * _GAMMA)


def _hash(x: Tensor) -> Tensor:
    """SplitMix64's mixing of int64 `x`: every bit of the input flips half of the output's bits."""
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIER_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # `>>` copies the sign bit into the gap; the mask clears it.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _to_uniform(bits: Tensor) -> Tensor:
    return _shift_right(bits, 40).float() * 2.0**-24


def _to_normal(bits: Tensor) -> Tensor:
    """Box and Muller (1958), cosine only: radius from the upper 32 bits, angle from the lower."""
    radius = (_shift_right(bits, 32).float() + 0.5) * 2**-32
    angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi * 2**-32)
    return torch.sqrt(-2 * torch.log(radius.clamp(max=1))) * torch.cos(angle)
