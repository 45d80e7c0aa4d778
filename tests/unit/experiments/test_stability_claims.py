"""What makes a claim on network stability reproduced."""

from __future__ import annotations

import numpy as np
import pytest

from stem_complete.config import expand_sweep, load_config
from stem_complete.experiments.paired import difference
from stem_complete.experiments.stability_claims import (
    ALIKE,
    CLAIMS,
    Claim,
    Run,
    differences,
    verdict,
)


def seeds(*tests, deviation=0.01):
    """Runs of an arm, by seed, of these test accuracies."""
    accuracies = {"train": 0.9, "test": 0.9, "top_5": 0.99, "first_test": 0.9}
    losses = {"train_loss": 0.5, "loss": 1.0, "first_loss": 1.0}
    changes = {"gain": 0.0, "fall": 0.0, "rise": 0.0}
    deviations = {"deviation": deviation, "loss_deviation": 1e3 * deviation**2, "degrees": 4}
    rest = Run(**accuracies, **losses, **changes, **deviations)
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


def test_losses_may_vary_otherwise_than_accuracies():
    claim = Claim("B", "varies less", "loss_deviation", [("baseline", "one")])
    arms = {"one": seeds(0.9, deviation=0.01), "baseline": seeds(0.9, deviation=0.02)}
    assert verdict(claim, arms)[1].startswith("baseline by one: 4.00 (")


@pytest.mark.parametrize(
    ("trains", "expected"),
    [
        ([0.999, 0.998, 0.999], "reproduced"),
        ([0.99, 0.98, 0.999], "not decided"),
        ([0.9, 0.91, 0.905], "not reproduced"),
    ],
)
def test_all_training_images_are_fitted_where_hardly_one_is_told_wrongly(trains, expected):
    claim = Claim("C", "fits all", "train_error", [("one",)], alike=True)
    runs = {seed: run._replace(train=run.test) for seed, run in seeds(*trains).items()}
    assert verdict(claim, {"one": runs})[0] == expected


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
