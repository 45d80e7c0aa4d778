"""Differences and ratios of arms of an experiment that were trained with the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """How much one arm's value exceeds another's, or how many times as large it is.

    Attributes:
        mean: Over the seeds that both have; of ratios the geometric mean.
        low: Lower end of the 95 % interval of Student's t.
        high: Upper end.
        p: Probability of a difference as large by chance, of the paired t-test, two-sided.
        num_seeds: How many seeds both have.
    """

    mean: float
    low: float
    high: float
    p: float
    num_seeds: int


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """`one - other`, paired by seed, as each seed gives both arms the same data and first weights.

    Args:
        one: Values by seed.
        other: Values by seed.

    Returns:
        None with fewer than two seeds in common.
    """
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 2:
        return None
    pairs = np.array([[one[seed], other[seed]] for seed in seeds])
    change = pairs[:, 0] - pairs[:, 1]
    mean, error = float(change.mean()), float(change.std(ddof=1) / len(seeds) ** 0.5)
    if not error:  # the same for all seeds
        return Difference(mean, mean, mean, 0.0 if mean else 1.0, len(seeds))
    # Student's t; scipy.stats takes a second to import.
    freedom = len(seeds) - 1
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Difference(mean, mean - half, mean + half, p, len(seeds))


def ratio(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """`one / other`, paired by seed: the geometric mean, and the interval that belongs to it.

    Its logarithm is the `difference` of logarithms. Where values span powers of ten, it tells of
    all seeds, and a difference of the largest value alone.

    Args:
        one: Values by seed.
        other: Values by seed.

    Returns:
        None with fewer than two seeds in common, and where one of their values is not positive.
    """
    seeds = one.keys() & other.keys()
    if any(values[seed] <= 0 for values in (one, other) for seed in seeds):
        return None
    logarithms = ({seed: math.log(values[seed]) for seed in seeds} for values in (one, other))
    found = difference(*logarithms)
    if found is None:
        return None
    mean, low, high = (math.exp(value) for value in found[:3])
    return Difference(mean, low, high, found.p, found.num_seeds)
