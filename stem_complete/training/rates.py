"""Factors that follow from the step alone, and so are the same on every worker and after a restart.

Each is that of a class in `torch.optim.lr_scheduler`, which counts steps itself and so could not
begin in the middle of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from stem_complete.config.schedules import (
    CosineSchedule,
    CyclicSchedule,
    LinearSchedule,
    ScheduleConfig,
    StepSchedule,
    in_steps,
)
from stem_complete.errors import ConfigError

FactorAt = Callable[[int], float]
"""The factor of a step."""


def constant(step: int) -> float:
    """1."""
    del step
    return 1.0


def stepwise(step: int, *, every: int, gamma: float) -> float:
    """`gamma` to the power of the whole times that `every` steps are over (`StepLR`)."""
    return float(gamma ** (step // every))


def linear(step: int, *, points: Sequence[tuple[int, float]]) -> float:
    """Height of the straight lines through `points`, level beyond them (`LinearLR`)."""
    if step <= points[0][0]:
        return points[0][1]
    for (start, low), (end, high) in pairwise(points):
        if step <= end:
            return low + (high - low) * (step - start) / (end - start)
    return points[-1][1]


def cyclic(step: int, *, up: int, down: int, ends: float, turn: float, shrink: float) -> float:
    """From `ends` to `turn` in `up` steps and back in `down`, again and again (`CyclicLR`).

    The way to the turn is `shrink` times as long in each cycle as in the one before it. Where
    `down` is 0 the next cycle begins in place of the turn.
    """
    cycle, place = divmod(step, up + down)
    height = place / up if place <= up else (up + down - place) / down
    return ends + (turn - ends) * height * shrink**cycle


def cosine(step: int, *, period: int, times: int, low: float) -> float:
    """Half a cosine from 1 to `low`, anew after each period (`CosineAnnealingWarmRestarts`).

    Each period is `times` as long as the one before it.
    """
    if times == 1:
        step %= period
    while step >= period:
        step -= period
        period *= times
    return low + (1 - low) * (1 + math.cos(math.pi * step / period)) / 2


def build_factor(config: ScheduleConfig | None, steps: int, key: str) -> FactorAt:
    """The factor that a config describes; None is 1.

    Args:
        config: One of the kinds.
        steps: Of the run.
        key: Of the config, for errors.

    Raises:
        ConfigError: Points are not in order.
    """
    match config:
        case StepSchedule():
            return partial(stepwise, every=_length(config.every, steps), gamma=config.gamma)
        case LinearSchedule():
            points = [(in_steps(place, steps), factor) for place, factor in config.points]
            places = [place for place, _ in points]
            if places != sorted(set(places)):
                raise ConfigError(
                    expected="points at steps that rise",
                    found=f"steps {', '.join(map(str, places))}",
                    where=f"{key}.points",
                    fix="give the points in order, each at another step",
                )
            return partial(linear, points=points)
        case CyclicSchedule():
            up = _length(config.up, steps)
            down = up if config.down is None else in_steps(config.down, steps)
            shape = config.model_dump(include={"ends", "turn", "shrink"})
            return partial(cyclic, up=up, down=down, **shape)
        case CosineSchedule():
            period = _length(config.period, steps)
            return partial(cosine, period=period, times=config.times, low=config.low)
        case _:
            return constant


def _length(value: float, steps: int) -> int:
    return max(in_steps(value, steps), 1)
