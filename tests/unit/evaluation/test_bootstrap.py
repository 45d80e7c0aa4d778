from __future__ import annotations

import numpy as np
import pytest

from stem_complete.evaluation import ratio_interval


def test_interval_of_a_constant_ratio_is_that_ratio() -> None:
    errors = np.random.default_rng(0).uniform(1, 2, 30)
    interval = ratio_interval(0.75 * errors, [errors, 3 * errors], range(30))
    assert interval == pytest.approx((0.75, 0.75))


def test_interval_has_the_width_of_theory() -> None:
    """Of the mean of 400 independent logarithms: 1.96 standard errors to each side."""
    logarithms = np.random.default_rng(1).normal(2, 0.3, 400)
    interval = ratio_interval(np.exp(logarithms), np.ones((1, 400)), range(400))
    assert interval is not None
    mean, error = logarithms.mean(), logarithms.std() / np.sqrt(400)
    assert np.log(interval.low) == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert np.log(interval.high) == pytest.approx(mean + 1.96 * error, abs=0.1 * error)


def test_a_large_image_counts_by_its_ratio_alone() -> None:
    errors = np.array([1.0, 1.0, 1000.0])
    interval = ratio_interval(errors * [2, 2, 0.25], [errors], "abc")
    assert interval == pytest.approx((0.25, 2.0))


def test_crops_of_one_field_of_view_are_no_news() -> None:
    """Every crop four times over: the groups keep the interval as wide as it was."""
    values = np.random.default_rng(2).uniform(5, 15, 50)
    once = ratio_interval(values, np.ones((1, 50)), range(50))
    copies = ratio_interval(np.repeat(values, 4), np.ones((1, 200)), np.repeat(np.arange(50), 4))
    taken_as_new = ratio_interval(np.repeat(values, 4), np.ones((1, 200)), range(200))
    assert copies == pytest.approx(once)
    assert taken_as_new is not None
    assert once is not None
    assert np.ptp(taken_as_new) < 0.6 * np.ptp(once)


def test_each_resample_has_its_own_best_reference() -> None:
    # Two fields, each with a reference that is good on it alone; of both, the means are 2.
    interval = ratio_interval([1.0, 1.0], [[1.0, 4.0], [4.0, 1.0]], ["a", "b"])
    assert interval == pytest.approx((0.5, 1.0))


def test_one_field_of_view_gives_no_interval() -> None:
    assert ratio_interval([1.0, 2.0], [[1.0, 2.0]], ["a", "a"]) is None
