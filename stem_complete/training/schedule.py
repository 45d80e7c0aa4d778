"""Learning rates, betas and what is frozen: stages of a run and factors, looked up by step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from stem_complete.config import Config
from stem_complete.config.schedules import in_steps
from stem_complete.errors import ConfigError
from stem_complete.training.rates import FactorAt, build_factor, constant

TRAINER, RUNNING_MEANS = "trainer", "running_means"
"""Names that the paper's recipe speaks of, where a task has them."""


class Stage(NamedTuple):
    """What holds from one step to the next stage's.

    Attributes:
        start: First step.
        learning_rate: Of all parameter groups.
        factors: On it, by pattern of the groups' names, as in `{"trainer": 2.0}`.
        betas: Decays of Adam's moments, for optimizers that have such; None leaves them.
        frozen: Patterns of the parameter groups and running statistics that stay as they are.
        momentum: Factor on the momentum of optimizers that have one, and no betas.
    """

    start: int
    learning_rate: float
    factors: Mapping[str, float] = {}
    betas: tuple[float, float] | None = None
    frozen: tuple[str, ...] = ()
    momentum: float = 1.0

    def rate(self, group: str) -> float:
        """Learning rate of a parameter group."""
        rate = self.learning_rate
        for pattern, factor in self.factors.items():
            if fnmatchcase(group, pattern):
                rate *= factor
        return rate

    def freezes(self, names: Iterable[str]) -> frozenset[str]:
        """Those of `names` that stay as they are."""
        return frozenset(n for n in names if any(fnmatchcase(n, p) for p in self.frozen))


class Schedule(NamedTuple):
    """What holds in each step.

    Attributes:
        stages: In order; the first starts at 0.
        rate: Factor on their learning rates.
        beta1: Factor on their beta1, or on the momentum.
    """

    stages: Sequence[Stage]
    rate: FactorAt = constant
    beta1: FactorAt = constant

    def at(self, step: int) -> Stage:
        """The stage that `step` belongs to, with the factors of that step."""
        stage = self.stages[bisect_right(self.stages, step, key=lambda each: each.start) - 1]
        momentum = self.beta1(step)
        betas = stage.betas and (stage.betas[0] * momentum, stage.betas[1])
        rate = stage.learning_rate * self.rate(step)
        return stage._replace(learning_rate=rate, betas=betas, momentum=momentum)


def build_schedule(config: Config, names: Iterable[str]) -> Schedule:
    """The schedule that a config describes: its own stages or the paper's, times its factors.

    Args:
        config: The run.
        names: Of the task's parameter groups and running statistics.

    Raises:
        ConfigError: Stages or points are not in order, or stages speak of what the task does not
            have.
    """
    optimizer, steps = config.optimizer, config.training.steps
    return Schedule(
        _paper_stages(config) if optimizer.stages is None else _own_stages(config, list(names)),
        build_factor(optimizer.schedule, steps, "optimizer.schedule"),
        build_factor(optimizer.beta1_schedule, steps, "optimizer.beta1_schedule"),
    )


def _own_stages(config: Config, names: Sequence[str]) -> list[Stage]:
    optimizer, steps = config.optimizer, config.training.steps
    stages = [
        Stage(
            in_steps(stage.start, steps),
            optimizer.learning_rate * stage.learning_rate,
            stage.factors,
            stage.betas or (optimizer.beta1, optimizer.beta2),
            stage.frozen,
        )
        for stage in optimizer.stages or ()
    ]
    _check(stages, names)
    return stages


def _paper_stages(config: Config) -> list[Stage]:
    """Stages of the ALRC paper (section IV, "Learning policy").

    The learning rate and beta1 are constant up to `decay_start` of the run, then fall in equal
    steps, whose last one reaches 0 and `beta1_end` at the very end: in the k-th of the
    `num_decay_steps` intervals the learning rate is `1 - k / num_decay_steps` of its start, for
    k = 0, 1, ... as in the published code. Where a config has schedules, only they change these.
    """
    optimizer, steps = config.optimizer, config.training.steps
    freeze_mean_norm = config.training.freeze_mean_norm
    decay_from = optimizer.decay_start * steps
    interval = (steps - decay_from) / optimizer.num_decay_steps
    decays = [round(decay_from + k * interval) for k in range(optimizer.num_decay_steps + 1)]
    if optimizer.schedule or optimizer.beta1_schedule:
        decays = []
    freeze_from = round(freeze_mean_norm * steps)
    stages = []
    for start in sorted({0, freeze_from, *decays}):
        fraction = max(bisect_right(decays, start) - 1, 0) / optimizer.num_decay_steps
        beta1 = optimizer.beta1 + (optimizer.beta1_end - optimizer.beta1) * fraction
        frozen = freeze_mean_norm < 1 and start >= freeze_from
        stages.append(
            Stage(
                start,
                optimizer.learning_rate * (1 - fraction),
                {TRAINER: optimizer.trainer_learning_rate_ratio},
                (beta1, optimizer.beta2),
                (RUNNING_MEANS,) if frozen else (),
            )
        )
    return stages


def _check(stages: Sequence[Stage], names: Sequence[str]) -> None:
    starts = [stage.start for stage in stages]
    if starts[0] != 0 or starts != sorted(set(starts)):
        raise ConfigError(
            expected="stages that start at step 0 and later ones",
            found=f"starts at {', '.join(map(str, starts))}",
            where="optimizer.stages",
            fix="begin with a stage at step 0, and give each of the others a later one",
        )
    for stage in stages:
        for pattern in (*stage.factors, *stage.frozen):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    expected=f"patterns of {', '.join(names)}",
                    found=pattern,
                    where=f"optimizer.stages, the one from step {stage.start}",
                    fix="choose a pattern that fits one of these",
                )
