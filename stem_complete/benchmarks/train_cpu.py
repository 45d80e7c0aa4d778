"""A training step on the CPU beside the convolutions that it cannot do without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.benchmarks.steps import plain_step, problem, training_step


def run(effort: Effort, _: Path) -> Iterator[Comparison]:
    """Weight norm, mean norm, ALRC, guard and bookkeeping beside plain convolutions and Adam."""
    given = problem(quick=effort.quick)
    # First, as it takes its convolutions and its scans from the task, which then is changed.
    plain = plain_step(given)
    cases = {"plain": plain, "ours": training_step(given, simulated=False)}
    seconds = durations(cases, effort.rounds)
    yield Comparison(
        "training step",
        "s",
        seconds["ours"],
        "nn.Conv2d of the same shapes and Adam",
        seconds["plain"],
        Goal("<=", 1.10),
        "compact network, 128x128, batch 1"
        if effort.quick
        else "paper's network, 512x512, batch 1",
    )
