"""Stages of a run, and factors that change in every step."""

import pytest
import torch
from torch.optim import lr_scheduler

from stem_complete.config import load_config
from stem_complete.errors import ConfigError
from stem_complete.training.schedule import Stage, build_schedule

NAMES = ("generator", "trainer", "running_means")


def schedule_of(*overrides):
    config = load_config([], ["name=test", "data.store=none", *overrides])
    return build_schedule(config, NAMES)


PAPER = schedule_of()


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
    assert stage.rate("generator") == pytest.approx(rate)
    assert stage.rate("trainer") == pytest.approx(2 * rate)
    assert stage.betas == (pytest.approx(beta1), 0.999)


def test_mean_norm_freezes_half_way():
    assert not PAPER.at(249_999).freezes(NAMES)
    assert PAPER.at(250_000).freezes(NAMES) == {"running_means"}


def test_a_freeze_at_one_never_comes():
    never = schedule_of("training.steps=10", "training.freeze_mean_norm=1.0")
    assert not any(never.at(step).frozen for step in range(11))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 1000])
def test_short_runs_never_raise_the_rate(steps):
    schedule = schedule_of(f"training.steps={steps}")
    rates = [schedule.at(step).learning_rate for step in range(steps)]
    assert rates[0] == 3e-4
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_stages_of_a_config_replace_the_papers():
    schedule = schedule_of(
        "training.steps=200",
        "optimizer.learning_rate=0.01",
        "optimizer.stages=[{start: 0, factors: {train*: 3}}, {start: 20, learning_rate: 0.1},"
        " {start: 0.5, learning_rate: 0.5, betas: [0.5, 0.9], frozen: [gen*, running_means]}]",
    )
    first, second, third = (schedule.at(step) for step in (19, 99, 100))
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
        schedule_of("training.steps=10", f"optimizer.stages={stages}")


def torchs(make, steps, *, momentum=0.9, **options):
    """Learning rates and momenta of a class of torch, from 1 and `momentum`, step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=momentum)
    schedule = make(optimizer, **options)
    found = []
    for _ in range(steps):
        (group,) = optimizer.param_groups
        found.append((group["lr"], group["momentum"]))
        optimizer.step()
        schedule.step()
    return found


def warm_up_and_fall(optimizer):
    up = lr_scheduler.LinearLR(optimizer, 0.25, 1.0, 12)
    down = lr_scheduler.LinearLR(optimizer, 1.0, 0.5, 20)
    return lr_scheduler.SequentialLR(optimizer, [up, down], [12])


SCHEDULES = {
    "constant": ("{kind: constant}", lr_scheduler.ConstantLR, {"factor": 1.0}),
    "step": (
        "{kind: step, every: 7, gamma: 0.3}",
        lr_scheduler.StepLR,
        {"step_size": 7, "gamma": 0.3},
    ),
    "linear": ("{kind: linear, points: [[0, 0.25], [12, 1], [0.4, 0.5]]}", warm_up_and_fall, {}),
    "cyclic": (
        "{kind: cyclic, up: 6, down: 10, ends: 0.2}",
        lr_scheduler.CyclicLR,
        {
            "base_lr": 0.2,
            "max_lr": 1.0,
            "step_size_up": 6,
            "step_size_down": 10,
            "cycle_momentum": False,
        },
    ),
    "triangular2": (
        "{kind: cyclic, up: 0.1, ends: 0.2, shrink: 0.5}",
        lr_scheduler.CyclicLR,
        {
            "base_lr": 0.2,
            "max_lr": 1.0,
            "step_size_up": 8,
            "mode": "triangular2",
            "cycle_momentum": False,
        },
    ),
    "cosine": (
        "{kind: cosine, low: 0.1}",
        lr_scheduler.CosineAnnealingLR,
        {"T_max": 80, "eta_min": 0.1},
    ),
    "restarts": (
        "{kind: cosine, period: 10}",
        lr_scheduler.CosineAnnealingWarmRestarts,
        {"T_0": 10},
    ),
    "longer-periods": (
        "{kind: cosine, period: 0.125, times: 2, low: 0.05}",
        lr_scheduler.CosineAnnealingWarmRestarts,
        {"T_0": 10, "T_mult": 2, "eta_min": 0.05},
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_torchs_classes_step_by_step(name):
    text, make, options = SCHEDULES[name]
    schedule = schedule_of(
        "training.steps=80", "optimizer.learning_rate=1", f"optimizer.schedule={text}"
    )
    expected = [rate for rate, _ in torchs(make, 80, **options)]
    assert [schedule.at(step).rate("generator") for step in range(80)] == pytest.approx(expected)
    # The paper's stages still have the trainer's own rate, and beta1 stays.
    assert schedule.at(50).rate("trainer") == pytest.approx(2 * expected[50])
    assert {schedule.at(step).betas for step in range(80)} == {(0.9, 0.999)}


@pytest.mark.parametrize("down", ["0", "0.0"])
def test_a_rate_may_fall_again_and_again_and_be_reset_at_once(down):
    """start - (start - end) (step % length) / length."""
    start, end, length = 1.0, 0.1, 20
    schedule = schedule_of(
        "training.steps=100",
        "optimizer.learning_rate=1",
        f"optimizer.schedule={{kind: cyclic, up: {length}, down: {down}, ends: 1, turn: 0.1}}",
    )
    expected = [start - (start - end) * (step % length) / length for step in range(100)]
    assert [schedule.at(step).rate("generator") for step in range(100)] == pytest.approx(expected)
    assert expected[19] < 0.15 < expected[20] == 1


def test_momentum_cycles_as_torchs_does():
    options = {
        "base_lr": 0.1,
        "max_lr": 1.0,
        "step_size_up": 8,
        "base_momentum": 0.81,
        "max_momentum": 0.9,
    }
    expected = torchs(lr_scheduler.CyclicLR, 40, **options)
    schedule = schedule_of(
        "optimizer.learning_rate=1",
        "optimizer.schedule={kind: cyclic, up: 8}",
        "optimizer.beta1_schedule={kind: cyclic, up: 8, ends: 1, turn: 0.9}",
    )
    for step, (rate, momentum) in enumerate(expected):
        stage = schedule.at(step)
        assert stage.rate("generator") == pytest.approx(rate)
        assert stage.betas == (pytest.approx(momentum), 0.999)
        assert 0.9 * stage.momentum == pytest.approx(momentum)


def test_factors_are_on_top_of_a_configs_own_stages():
    schedule = schedule_of(
        "training.steps=100",
        "optimizer.learning_rate=0.01",
        "optimizer.stages=[{start: 0}, {start: 50, learning_rate: 0.1, frozen: [trainer]}]",
        "optimizer.schedule={kind: linear, points: [[0, 1], [100, 0]]}",
    )
    assert schedule.at(25).rate("generator") == pytest.approx(0.0075)
    assert schedule.at(75).rate("generator") == pytest.approx(0.00025)
    assert schedule.at(75).freezes(NAMES) == {"trainer"}


def test_points_out_of_order_are_refused():
    points = "optimizer.schedule={kind: linear, points: [[60, 1], [0.5, 0]]}"
    with pytest.raises(ConfigError, match=r"optimizer.schedule.points: .*found steps 60, 50"):
        schedule_of("training.steps=100", points)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optimizer.schedule={kind: cosine}", "training.cuda_graph=true"],
            "optimizer.schedule changes in every step; add training.cuda_graph=false",
        ),
        (
            ["optimizer.beta1_schedule={kind: cyclic, up: 5, ends: 1, turn: 1.2}"],
            "beta1 and momentum must stay below 1, got 0.9 times 1.2",
        ),
        (["optimizer.schedule={kind: sine}"], "optimizer.schedule"),
        (["optimizer.schedule={kind: step, every: 0}"], "optimizer.schedule.step.every"),
    ],
)
def test_schedules_that_cannot_be_are_refused_in_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        schedule_of(*overrides)
    assert "\n" not in str(error.value)


def test_a_schedule_by_steps_goes_into_cuda_graphs():
    schedule_of("training.cuda_graph=true", "optimizer.schedule={kind: step, every: 5}")
