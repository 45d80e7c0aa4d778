"""Differences and ratios of arms, paired by seed."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from stem_complete.experiments.paired import difference, ratio


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


def test_a_ratio_tells_of_all_seeds_where_values_span_powers_of_ten():
    baseline = {0: 1e-3, 1: 1.0, 2: 1e9, 7: 5.0}
    changes = {0: 0.1, 1: 0.08, 2: 0.125}
    found = ratio({seed: baseline[seed] * change for seed, change in changes.items()}, baseline)
    logarithms = ttest_1samp(np.log(list(changes.values())), 0)
    assert found.mean == pytest.approx(0.1)
    assert found.p == pytest.approx(logarithms.pvalue)
    interval = np.exp(logarithms.confidence_interval())
    assert (found.low, found.high) == pytest.approx(tuple(interval))
    assert found.num_seeds == 3


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_values_that_are_not_positive_have_no_ratio(value):
    positive, other = {0: 1.0, 1: 2.0}, {0: 1.0, 1: value}
    assert ratio(positive, other) is None
    assert ratio(other, positive) is None
    assert ratio({0: 1.0, 1: 2.0, 5: value}, positive) is not None
