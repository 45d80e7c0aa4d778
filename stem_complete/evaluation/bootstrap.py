"""Bootstrap intervals of ratios of errors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL, NUM_RESAMPLES, SEED = 0.95, 10_000, 0


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def ratio_interval(
    values: ArrayLike, references: ArrayLike, groups: Sequence[Hashable]
) -> Interval | None:
    """95% bootstrap interval of the geometric mean of values to the smallest one of references.

    Whole groups are drawn with replacement, values and references of an image together (cluster
    bootstrap, Davison and Hinkley 1997, section 3.8, percentile interval): crops of one field of
    view are alike, so only other fields of view tell anything new. The best reference is found
    anew in each resample. With fewer than ten groups or so the interval is too narrow. None for one
    group.

    Args:
        values: Value of each image [n], positive.
        references: Value of each reference and image [m, n], positive.
        groups: Group of each image [n].
    """
    table = np.log(np.vstack([np.asarray(values, np.float64), np.asarray(references, np.float64)]))
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if len(numbers) < 2:
        return None
    places = [numbers[group] for group in groups]
    sums = np.zeros((len(numbers), len(table)))
    np.add.at(sums, places, table.T)
    sizes = np.bincount(places)
    draws = np.random.default_rng(SEED).integers(len(numbers), size=(NUM_RESAMPLES, len(numbers)))
    means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)[:, None]
    ratios = np.exp(means[:, 0] - means[:, 1:].min(axis=1))
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
