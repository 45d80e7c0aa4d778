"""How benchmarks measure: in rounds, in turn, each figure beside what it is compared with."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stem_complete.console import ProgressBar


class Effort(NamedTuple):
    """How long to measure.

    Attributes:
        rounds: Times that each case is measured.
        quick: Small inputs: shows that the benchmark works, and nothing else.
    """

    rounds: int = 7
    quick: bool = False


class Goal(NamedTuple):
    """What the ratio of a figure to its reference should be: at most, or at least, a number."""

    sign: str  # "<=" or ">="
    ratio: float

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return ratio <= self.ratio if self.sign == "<=" else ratio >= self.ratio

    def __str__(self) -> str:
        return f"{self.sign} {self.ratio:g}"


class Comparison(NamedTuple):
    """A figure beside its limit or a peer.

    Attributes:
        what: What was measured.
        unit: Of the values.
        values: One for each round; none if it could not be measured here.
        against: What it is compared with.
        reference: Its values, in the same rounds.
        goal: For the ratio of both.
        note: What one must know to read it; for what was not measured, why.
        benchmark: Name of the benchmark.
    """

    what: str
    unit: str
    values: Sequence[float]
    against: str = ""
    reference: Sequence[float] = ()
    goal: Goal | None = None
    note: str = ""
    benchmark: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of each round: whatever slowed the machine down then slowed both."""
        return [value / other for value, other in zip(self.values, self.reference, strict=False)]

    @property
    def met(self) -> bool | None:
        """Whether the goal is met by the median ratio; None without one."""
        if self.goal is None or not self.ratios:
            return None
        return self.goal.met(float(np.median(self.ratios)))


def durations(
    cases: Mapping[str, Callable[[], object]], rounds: int, *, calls: int = 1, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds that each case takes per call, in `rounds` rounds of random order.

    Args:
        cases: What to call, by name. On a GPU, each must wait for the device itself.
        rounds: Of which each gives one value per case.
        calls: Calls that are timed together, for cases that take microseconds.
        warm_up: Rounds that do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    with ProgressBar("rounds", rounds) as bar:
        for number in range(-warm_up, rounds):
            for name in random.sample(list(cases), len(cases)):
                case = cases[name]
                started = time.perf_counter()
                for _ in range(calls):
                    case()
                if number >= 0:
                    seconds[name].append((time.perf_counter() - started) / calls)
            bar.update(max(number + 1, 0))
    return seconds
