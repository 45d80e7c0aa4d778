"""Differences between arms, paired by seed."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from stem_complete.experiments.paired import difference


def test_only_seeds_of_both_count_and_what_they_share_cancels():
    shared = dict(enumerate(np.random.default_rng(0).normal(0, 10, 6)))
    one = {seed: value + 0.5 + 0.1 * (-1) ** seed for seed, value in shared.items()} | {9: 1e9}
    found = difference(one, shared)
    assert found.num_seeds == 6
    assert found.mean == pytest.approx(0.5)
    assert 0 < found.low < 0.5 < found.high < 1


def test_interval_and_probability_are_those_of_students_t():
    values = [0.3, -0.1, 0.4, 0.2, 0.05]
    found = difference(dict(enumerate(values)), dict.fromkeys(range(5), 0.0))
    expected = ttest_1samp(values, 0)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_one_seed_says_nothing_of_chance():
    assert difference({0: 1.0, 1: 2.0}, {1: 1.0, 2: 3.0}) is None


@pytest.mark.parametrize(("change", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_a_difference_that_never_varies(change, p):
    one = {seed: seed + change for seed in range(3)}
    assert difference(one, {seed: float(seed) for seed in range(3)}) == (change,) * 3 + (p, 3)
