"""Stages of a run."""

import pytest

from stem_complete.config import OptimizerConfig
from stem_complete.training.schedule import Schedule

PAPER = Schedule(OptimizerConfig(), steps=500_000, freeze_mean_norm=0.5)


@pytest.mark.parametrize(
    ("step", "rate", "beta1"),
    [
        (0, 3e-4, 0.9),
        (249_999, 3e-4, 0.9),
        (250_000, 3e-4, 0.9),
        (281_250, 3e-4 * 7 / 8, 0.85),
        (375_000, 3e-4 / 2, 0.7),
        (499_999, 3e-4 / 8, 0.55),
        (500_000, 0.0, 0.5),
    ],
)
def test_paper_decays_in_eight_steps(step, rate, beta1):
    stage = PAPER.at(step)
    assert stage.learning_rate == pytest.approx(rate)
    assert stage.trainer_learning_rate == pytest.approx(2 * rate)
    assert stage.beta1 == pytest.approx(beta1)


def test_mean_norm_freezes_half_way():
    assert not PAPER.at(249_999).mean_norm_frozen
    assert PAPER.at(250_000).mean_norm_frozen


def test_a_freeze_at_one_never_comes():
    never = Schedule(OptimizerConfig(), steps=10, freeze_mean_norm=1.0)
    assert not any(never.at(step).mean_norm_frozen for step in range(11))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 1000])
def test_short_runs_never_raise_the_rate(steps):
    schedule = Schedule(OptimizerConfig(), steps=steps, freeze_mean_norm=0.5)
    rates = [schedule.at(step).learning_rate for step in range(steps)]
    assert rates[0] == 3e-4
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
