"""Stages of a run."""

import pytest

from stem_complete.config import load_config
from stem_complete.errors import ConfigError
from stem_complete.training.schedule import Stage, build_stages, stage_at

NAMES = ("generator", "trainer", "running_means")


def stages_of(*overrides):
    config = load_config([], ["name=test", "data.store=none", *overrides])
    return build_stages(config, NAMES)


PAPER = stages_of()


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
    stage = stage_at(PAPER, step)
    assert stage.rate("generator") == pytest.approx(rate)
    assert stage.rate("trainer") == pytest.approx(2 * rate)
    assert stage.betas == (pytest.approx(beta1), 0.999)


def test_mean_norm_freezes_half_way():
    assert not stage_at(PAPER, 249_999).freezes(NAMES)
    assert stage_at(PAPER, 250_000).freezes(NAMES) == {"running_means"}


def test_a_freeze_at_one_never_comes():
    never = stages_of("training.steps=10", "training.freeze_mean_norm=1.0")
    assert not any(stage_at(never, step).frozen for step in range(11))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 1000])
def test_short_runs_never_raise_the_rate(steps):
    stages = stages_of(f"training.steps={steps}")
    rates = [stage_at(stages, step).learning_rate for step in range(steps)]
    assert rates[0] == 3e-4
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_stages_of_a_config_replace_the_papers():
    stages = stages_of(
        "training.steps=200",
        "optimizer.learning_rate=0.01",
        "optimizer.stages=[{start: 0, factors: {train*: 3}}, {start: 20, learning_rate: 0.1},"
        " {start: 0.5, learning_rate: 0.5, betas: [0.5, 0.9], frozen: [gen*, running_means]}]",
    )
    first, second, third = (stage_at(stages, step) for step in (19, 99, 100))
    assert (first.rate("generator"), first.rate("trainer")) == (0.01, pytest.approx(0.03))
    assert second == Stage(20, pytest.approx(0.001), {}, (0.9, 0.999), ())
    assert third.betas == (0.5, 0.9)
    assert third.freezes(NAMES) == {"generator", "running_means"}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[{start: 1}]", "starts at 1"),
        ("[{start: 0}, {start: 0.5}, {start: 5}]", "starts at 0, 5, 5"),
        ("[{start: 0, frozen: [means]}]", "patterns of generator, trainer, running_means.*means"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, message):
    with pytest.raises(ConfigError, match=message):
        stages_of("training.steps=10", f"optimizer.stages={stages}")
