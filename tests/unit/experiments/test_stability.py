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
from stem_complete.experiments.paired import difference
from stem_complete.experiments.stability import CURVES, arms_of, as_csv, claims_table, report
from stem_complete.experiments.stability_claims import (
    ALIKE,
    BLOCKS,
    CLAIMS,
    Claim,
    Run,
    differences,
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
    run = arms_of(curves({("outpost", 0): 0.1}))["outpost"][0]
    assert run.test == pytest.approx(0.9)
    assert run.train == pytest.approx(0.95)
    assert run.top_5 == pytest.approx(0.99)
    assert run.loss == pytest.approx(1.5)


@pytest.mark.parametrize(("arm", "start"), [("outpost", 150), ("c-64", 225)])
def test_changes_are_from_the_tenth_after_the_first_decay_or_freezing(arm, start):
    before = (start < STEPS) & (start + 40 >= STEPS)
    made = {
        TRAIN: [curve(arm, 0.1)],
        WRONG: [curve(arm, np.where(before, 0.3, 0.2))],
        LOSS: [curve(arm, np.where(before, 1.0, 1.25))],
        BEYOND: [curve(arm, np.where(before, 0.01, 0.03))],
    }
    run = arms_of(made)[arm][0]
    assert (run.gain, run.rise, run.fall) == pytest.approx((0.1, 0.25, 0.02))


def test_the_deviation_is_that_of_noise_without_the_trend():
    noise = 0.02 * np.random.default_rng(0).normal(size=4000)
    steps = np.arange(1, 4001)
    trend = np.linspace(0.5, 0.3, 4000)
    made = {metric: [curve("baseline", trend + noise, steps=steps)] for metric in CURVES}
    run = arms_of(made)["baseline"][0]
    assert run.deviation == pytest.approx(0.02, rel=0.05)
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
        of.append(replace(of[0], run_id="again", values=of[0].values + 0.1, started_ms=1))
    arms = arms_of(made)
    assert list(arms) == ["baseline"]
    assert arms["baseline"][0].test == pytest.approx(0.8)


def seeds(*tests, deviation=0.01):
    """Runs of an arm, by seed, of these test accuracies."""
    rest = Run(0.9, 0.9, 0.99, 1.0, 0.0, 0.0, 0.0, deviation, 4)
    return {seed: rest._replace(test=test) for seed, test in enumerate(tests)}


@pytest.mark.parametrize(
    ("alike", "ones", "expected"),
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
def test_a_claim_is_judged_by_the_intervals_of_all_its_pairs(alike, ones, expected):
    names = ["one", "two"]
    claim = Claim("A", "more", "test", [(name, "baseline") for name in names], alike)
    arms = {"baseline": seeds(0.9, 0.904, 0.896)}
    arms |= {name: seeds(test) for name, test in zip(names, ones, strict=False)}
    found, told = verdict(claim, arms)
    assert found == expected
    # Student's t of two degrees, 4.303, on 0.004 times the root of 2, about seed 0's difference.
    mean, half = 100 * (ones[0] - 0.9), 100 * 4.3027 * 0.004 * 2**0.5
    interval = f"({mean - half:+.2f} % to {mean + half:+.2f} %)"
    assert f"one less baseline: {mean:+.2f} % {interval}" in told


def test_one_seed_of_all_arms_decides_nothing():
    claim = Claim("A", "more", "test", [("one", "baseline")])
    arms = {"one": seeds(0.99), "baseline": seeds(0.5)}
    assert verdict(claim, arms) == ("not decided", "one less baseline: +49.00 %")


def test_what_a_seed_does_to_all_arms_cancels():
    """Freezing at the end changes less than seeds and other arms do."""
    claim = Claim("D", "no more", "test", [(f"d-{n}", "outpost") for n in (64, 128)], alike=True)
    arms = {
        "baseline": seeds(0.5, 0.6, 0.7),
        "outpost": seeds(0.80, 0.84, 0.77),
        "d-64": seeds(0.801, 0.840),
        "d-128": seeds(0.801, 0.842),
    }
    assert verdict(claim, arms)[0] == "reproduced"
    del arms["d-128"][1]
    assert verdict(claim, arms)[0] == "not decided"
    one, two = np.array([0.801, 0.84]), np.array([0.80, 0.84])
    (found,) = differences(claim._replace(pairs=claim.pairs[:1]), arms)
    paired = difference(dict(enumerate(one)), dict(enumerate(two)))
    assert found[1:] == pytest.approx((paired.mean, paired.low, paired.high))


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.02, 0.03, 0.025], "reproduced"),
        ([0.02, -0.01], "not decided"),
        ([-0.02, -0.03, -0.025], "not reproduced"),
    ],
)
def test_an_arm_alone_is_compared_with_what_was_before(gains, expected):
    runs = {seed: run._replace(gain=run.test) for seed, run in seeds(*gains).items()}
    found, told = verdict(Claim("C", "rises", "gain", [("outpost",)]), {"outpost": runs})
    assert found == expected
    assert told.startswith(f"outpost: {100 * np.mean(gains):+.2f} % (")


@pytest.mark.parametrize(
    ("deviation", "expected"),
    [(0.001, "reproduced"), (0.01, "not decided"), (0.2, "not reproduced")],
)
def test_stability_is_mimicked_where_deviations_differ_little(deviation, expected):
    claim = Claim("C", "mimic", "deviation", [("one", "outpost")], alike=True)
    arms = {"one": seeds(0.9, deviation=deviation), "outpost": seeds(0.9)}
    found, told = verdict(claim, arms)
    assert found == expected
    assert told.startswith(f"one by outpost: {deviation / 0.01:.2f} (")


def test_claims_are_of_the_arms_of_the_configs():
    sweeps = [load_config(["classification", f"stability_{name}"]) for name in ("whole", *"abcd")]
    names = [run.name.rpartition("-seed") for sweep in sweeps for run in expand_sweep(sweep)]
    arms = {arm for arm, *_ in names}
    assert {arm for claim in CLAIMS for pair in claim.pairs for arm in pair} == arms
    assert len(arms) == 18
    assert len(names) == len(set(names)) == 26
    for claim in CLAIMS:
        assert len({len(pair) for pair in claim.pairs}) == 1
        assert not claim.alike or claim.of in ALIKE


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
