"""Learning rate, beta1 and batch-norm freeze as stages of a run, looked up by step."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from stem_complete.config import OptimizerConfig


class Stage(NamedTuple):
    """What holds from one step to the next stage's.

    Attributes:
        learning_rate: Of the generators.
        trainer_learning_rate: Of the auxiliary trainer.
        beta1: Decay of Adam's first moment.
        mean_norm_frozen: Whether the running means of the mean-only batch norm stay as they are.
    """

    learning_rate: float
    trainer_learning_rate: float
    beta1: float
    mean_norm_frozen: bool


class Schedule:
    """Stages of a run of `steps` steps (ALRC paper, section IV, "Learning policy").

    The learning rate and beta1 are constant up to `decay_start` of the run, then fall in equal
    steps, whose last one reaches 0 and `beta1_end` at the very end: in the k-th of the
    `num_decay_steps` intervals the learning rate is `1 - k / num_decay_steps` of its start, for
    k = 0, 1, ... as in the published code.

    Args:
        optimizer: Start values and decay.
        steps: Length of the run.
        freeze_mean_norm: Fraction of the run after which running means are frozen; 1 is never.
    """

    def __init__(self, optimizer: OptimizerConfig, steps: int, freeze_mean_norm: float) -> None:
        decay_start = optimizer.decay_start * steps
        interval = (steps - decay_start) / optimizer.num_decay_steps
        freeze_at = freeze_mean_norm * steps
        decays = [round(decay_start + k * interval) for k in range(optimizer.num_decay_steps + 1)]

        self.starts = sorted({0, round(freeze_at), *decays})
        self.stages = []
        for start in self.starts:
            fraction = max(bisect_right(decays, start) - 1, 0) / optimizer.num_decay_steps
            rate = optimizer.learning_rate * (1 - fraction)
            self.stages.append(
                Stage(
                    learning_rate=rate,
                    trainer_learning_rate=rate * optimizer.trainer_learning_rate_ratio,
                    beta1=optimizer.beta1 + (optimizer.beta1_end - optimizer.beta1) * fraction,
                    mean_norm_frozen=freeze_mean_norm < 1 and start >= round(freeze_at),
                )
            )

    def at(self, step: int) -> Stage:
        """The stage that `step` belongs to."""
        return self.stages[bisect_right(self.starts, step) - 1]
