"""The report on network stability, from curves as MLflow has them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from stem_complete.config import expand_sweep, load_config
from stem_complete.errors import TrackingError
from stem_complete.experiments import stability
from stem_complete.experiments.stability import (
    BLOCKS,
    CLAIMS,
    CURVES,
    Arm,
    Claim,
    Estimate,
    arms_of,
    as_csv,
    claims_table,
    report,
    verdict,
)
from stem_complete.tracking import Curve

STEPS = np.arange(10, 401, 10)
TRAIN, WRONG, LOSS, BEYOND = CURVES


def curve(arm, values, seed=0, steps=STEPS):
    run = f"{arm}-seed{seed}"
    return Curve(run, run, arm, seed, 0, steps, np.broadcast_to(values, steps.shape), steps)


def curves(arms):
    """Of arms by name, all metrics: of one final test error each, and a loss that rises by 0.5."""
    rising = np.where(STEPS == 200, 1.0, 1.5)
    wobble = 0.01 * (-1.0) ** np.arange(len(STEPS))
    made = {metric: [] for metric in CURVES}
    for (arm, seed), error in arms.items():
        for metric, values in (
            (TRAIN, error - 0.05),
            (WRONG, np.where(STEPS > 360, error, 0.9) + wobble),
            (LOSS, rising),
            (BEYOND, 0.01),
        ):
            made[metric].append(curve(arm, values, seed))
    return made


def test_finals_are_of_the_last_tenth():
    (found,) = arms_of(curves({("outpost", 0): 0.1}), images=1000).values()
    assert found.test == pytest.approx((0.9, math.sqrt(0.9 * 0.1 / 1000)))
    assert found.train.value == pytest.approx(0.95)
    assert found.top_5.value == pytest.approx(0.99)
    assert (found.loss.value, found.rise.value) == pytest.approx((1.5, 0.5))
    assert math.isinf(found.loss.error)  # one seed does not say


def test_errors_over_seeds_count_where_they_are_larger_than_those_of_images():
    (found,) = arms_of(curves({("a-64", 0): 0.1, ("a-64", 1): 0.2}), images=100_000).values()
    assert found.test == pytest.approx((0.85, 0.05))
    assert found.loss == pytest.approx((1.5, 0.0))


def test_the_deviation_is_that_of_noise_without_the_trend():
    noise = 0.02 * np.random.default_rng(0).normal(size=4000)
    steps = np.arange(1, 4001)
    trend = np.linspace(0.5, 0.3, 4000)
    made = {metric: [curve("baseline", trend + noise, steps=steps)] for metric in CURVES}
    (found,) = arms_of(made, images=100).values()
    assert math.exp(found.spread.value) == pytest.approx(0.02, rel=0.05)
    assert found.spread.error == pytest.approx((2 * 999) ** -0.5)


def test_runs_that_did_not_end_are_left_out():
    made = curves({("baseline", 0): 0.1})
    for of in made.values():
        of.append(curve("b-64", 0.2, steps=STEPS[:-3]))
    assert list(arms_of(made, images=100)) == ["baseline"]


def arm(test, error=0.01):
    other = Estimate(0.0, math.inf)
    return Arm(other, Estimate(test, error), other, other, other, other)


@pytest.mark.parametrize(
    ("no_gain", "ones", "expected"),
    [
        (False, [0.95, 0.96], "reproduced"),
        (False, [0.95, 0.91], "not decided"),
        (False, [0.95, 0.85], "not reproduced"),
        (False, [0.95], "not decided"),  # an arm is missing
        (True, [0.87, 0.86], "reproduced"),
        (True, [0.87, 0.91], "not decided"),
        (True, [0.87, 0.95], "not reproduced"),
    ],
)
def test_a_claim_is_judged_by_the_intervals_of_all_its_pairs(no_gain, ones, expected):
    names = ["one", "two"]
    claim = Claim("A", "more", "test", [(name, "base") for name in names], no_gain)
    arms = {"base": arm(0.9)} | dict(zip(names, map(arm, ones), strict=False))
    found, told = verdict(claim, arms)
    assert found == expected
    assert f"one less base: {100 * (ones[0] - 0.9):+.2f} % ± 2.77 %" in told


def test_what_has_no_interval_is_not_decided():
    claim = Claim("C", "rises", "rise", [("one", "base")])
    assert verdict(claim, {"one": arm(0.9), "base": arm(0.9)})[0] == "not decided"


def test_claims_are_of_the_arms_of_the_configs():
    sweeps = [load_config(["classification", f"stability_{name}"]) for name in "abcd"]
    arms = [run.name.removesuffix("-seed0") for sweep in sweeps for run in expand_sweep(sweep)]
    assert len(arms) == len(set(arms)) == 18
    assert {arm for claim in CLAIMS for pair in claim.pairs for arm in pair} == set(arms)


def test_the_report_is_written(tmp_path, monkeypatch):
    arms = ["baseline", "outpost", *(f"a-{block}" for block in BLOCKS)]
    made = curves({(arm, 0): 0.1 for arm in arms})
    tracked = SimpleNamespace(curves=lambda metric: made[metric])
    monkeypatch.setattr(stability, "TrackedRuns", lambda *_: tracked)
    tables = report("sqlite:///x", "stability", tmp_path, images=1000)
    assert "not decided" in tables
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "arms.csv", "a.png"}
    assert len(as_csv(arms_of(made, 1000)).splitlines()) == 7
    assert claims_table({}).count("not decided") == len(CLAIMS)
    tracked.curves = lambda _: []
    with pytest.raises(TrackingError, match="stability_a"):
        report("sqlite:///x", "stability", tmp_path, images=1000)
