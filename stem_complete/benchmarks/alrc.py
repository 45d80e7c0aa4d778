"""What adaptive learning rate clipping adds to a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.benchmarks.steps import problem, training_step
from stem_complete.losses import ALRC

_CALLS = 100


def run(effort: Effort, _: Path) -> Iterator[Comparison]:
    """Both losses' ALRC beside the step that they are in; and steps with and without them."""
    with_alrc = training_step(problem(quick=effort.quick))
    without = training_step(problem("loss.alrc=null", quick=effort.quick))
    network = "compact network, 128x128" if effort.quick else "paper's network, 512x512, batch 1"
    seconds = durations(
        {"alone": clip_two_losses(), "with": with_alrc, "without": without}, effort.rounds
    )
    # A call of microseconds is timed many times at once.
    alone = durations({"alone": clip_two_losses()}, effort.rounds, calls=_CALLS)["alone"]
    milliseconds = {name: [1e3 * value for value in found] for name, found in seconds.items()}
    yield Comparison(
        "ALRC of both losses, forward, backward and moments",
        "ms",
        [1e3 * value for value in alone],
        f"step without it, {network}",
        milliseconds["without"],
        Goal("<=", 0.005),
    )
    yield Comparison(
        "step with ALRC",
        "ms",
        milliseconds["with"],
        f"step without it, {network}",
        milliseconds["without"],
        note="the difference is below what this can resolve; the row above is the sharper one",
    )
    yield Comparison(
        "operators of a step with ALRC",
        "operators",
        [num_operators(with_alrc)],
        "without",
        [num_operators(without)],
        note="each is a kernel launch on a GPU, or none",
    )


def clip_two_losses() -> Callable[[], None]:
    """What ALRC does in one step: clips outer and inner loss, and updates both moments."""
    clippers = [ALRC(accumulate=True) for _ in range(2)]
    losses = [torch.full((1,), 30.0, requires_grad=True) for _ in clippers]

    def step() -> None:
        clipped = [alrc(loss) for alrc, loss in zip(clippers, losses, strict=True)]
        (clipped[0] + clipped[1]).sum().backward()
        for alrc in clippers:
            alrc.commit(alrc.pending)

    return step


def num_operators(step: Callable[[], object]) -> int:
    """Operators that a step starts."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return sum(event.name.startswith("aten::") for event in profiler.events() or ())
