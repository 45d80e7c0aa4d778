"""The report on network stability, from curves as MLflow has them."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from stem_complete.config import expand_sweep, load_config
from stem_complete.errors import TrackingError
from stem_complete.experiments import stability
from stem_complete.experiments.stability import CURVES, arms_of, as_csv, claims_table, report
from stem_complete.experiments.stability_claims import (
    BLOCKS,
    CLAIMS,
    Claim,
    differences,
)
from stem_complete.tracking import Curve

STEPS = np.arange(10, 401, 10)
TRAIN, TRAIN_LOSS, WRONG, LOSS, BEYOND = CURVES


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
            (TRAIN_LOSS, 0.7),
            (WRONG, np.where(STEPS > 360, error, 0.9) + wobble),
            (LOSS, rising),
            (BEYOND, 0.01),
        ):
            made[metric].append(curve(arm, values, seed))
    return made


def test_finals_are_of_the_last_tenth():
    run = arms_of(curves({("outpost", 0): 0.1}))["outpost"][0]
    assert run.test == pytest.approx(0.9)
    assert run.train == pytest.approx(0.95)
    assert run.train_loss == pytest.approx(0.7)
    assert run.top_5 == pytest.approx(0.99)
    assert run.loss == pytest.approx(1.5)


@pytest.mark.parametrize(("arm", "start"), [("outpost", 150), ("c-64", 225)])
def test_changes_are_from_the_tenth_after_the_first_decay_or_freezing(arm, start):
    before = (start < STEPS) & (start + 40 >= STEPS)
    made = {
        TRAIN: [curve(arm, 0.1)],
        TRAIN_LOSS: [curve(arm, 0.4)],
        WRONG: [curve(arm, np.where(before, 0.3, 0.2))],
        LOSS: [curve(arm, np.where(before, 1.0, 1.25))],
        BEYOND: [curve(arm, np.where(before, 0.01, 0.03))],
    }
    run = arms_of(made)[arm][0]
    assert (run.gain, run.rise, run.fall) == pytest.approx((0.1, 0.25, 0.02))
    assert (run.first_test, run.first_loss) == pytest.approx((0.7, 1.0))


def test_the_deviation_is_that_of_noise_without_the_trend():
    noise = 0.02 * np.random.default_rng(0).normal(size=4000)
    steps = np.arange(1, 4001)
    trend = np.linspace(0.5, 0.3, 4000)
    made = {metric: [curve("baseline", trend + noise, steps=steps)] for metric in CURVES}
    run = arms_of(made)["baseline"][0]
    assert run.deviation == run.loss_deviation == pytest.approx(0.02, rel=0.05)
    assert run.degrees == 998


@pytest.mark.parametrize("numbers", [(6, 6), (4, 12), (3, 3)])
def test_intervals_of_deviations_hold_what_is_true_in_95_of_100_runs(numbers):
    rng, sigmas, held = np.random.default_rng(0), (0.05, 0.02), 0
    claim = Claim("A", "varies more", "deviation", [("one", "two")])
    for _ in range(1000):
        arms = {}
        for arm, sigma, number in zip(("one", "two"), sigmas, numbers, strict=True):
            steps = np.arange(1, 4 * number + 1)
            values = 0.3 + 0.01 * steps + sigma * rng.normal(size=4 * number)
            arms |= arms_of({metric: [curve(arm, values, steps=steps)] for metric in CURVES})
        (found,) = differences(claim, arms)
        held += found.low < math.log(sigmas[0] / sigmas[1]) < found.high
    assert held == pytest.approx(950, abs=22)  # three deviations of the count


def test_runs_that_did_not_end_or_were_superseded_are_left_out():
    made = curves({("baseline", 0): 0.1})
    for of in made.values():
        of.append(curve("b-64", 0.2, steps=STEPS[:-3]))
        under_way = curve("b-128", 0.2, steps=np.arange(10, 501, 10))
        of.append(replace(under_way, finished=False))
        of.append(replace(of[0], run_id="again", values=of[0].values + 0.1, started_ms=1))
    arms = arms_of(made)
    assert list(arms) == ["baseline"]
    assert arms["baseline"][0].test == pytest.approx(0.8)


@pytest.mark.parametrize("name", ["whole", *"abcd"])
def test_small_runs_validate_at_equal_distances_and_change_at_whole_epochs(name):
    sweep = load_config(["classification", f"stability_{name}", "stability_small"])
    assert sweep.name == f"stability-{name}"
    for run in expand_sweep(sweep):
        training = run.training
        assert training.steps % training.validate_every_steps == 0
        assert training.steps == 16 * 78
        for stage in run.optimizer.stages:
            assert stage.start * training.steps % 78 == 0


def test_the_report_is_written(tmp_path, monkeypatch):
    arms = ["baseline", "outpost", *(f"a-{block}" for block in BLOCKS)]
    made = curves({(arm, seed): 0.1 for arm in arms for seed in (0, 1)})
    tracked = SimpleNamespace(curves=lambda metric: made[metric])
    monkeypatch.setattr(stability, "TrackedRuns", lambda *_: tracked)
    tables = report("sqlite:///x", "stability", tmp_path)
    assert "not decided" in tables
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "runs.csv", "a.png"}
    assert len(as_csv(arms_of(made)).splitlines()) == 13
    assert claims_table({}).count("not decided") == len(CLAIMS)
    tracked.curves = lambda _: []
    with pytest.raises(TrackingError, match="stability_whole"):
        report("sqlite:///x", "stability", tmp_path)
