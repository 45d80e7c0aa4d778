"""What adaptive learning rate clipping adds to a training step."""

from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from stem_complete.benchmark import durations
from stem_complete.losses import ALRC

from . import Setting
from .report import Comparison, Goal
from .steps import named, problem, training_step

CALLS = 100  # timed at once, as each takes microseconds


def run(setting: Setting) -> Iterator[Comparison]:
    """ALRC of both losses beside the step that they are in; operators with it and without."""
    device, rounds = setting.device, setting.rounds
    given = problem(quick=setting.quick, device=device)
    with_alrc = training_step(given)
    without = training_step(problem("loss.alrc=null", quick=setting.quick, device=device))
    clip = clip_two_losses(device)
    alone = durations({"alone": clip}, rounds, calls=CALLS)["alone"]
    steps = durations({"without": without}, rounds)["without"]
    with_alrc()  # the first step makes the optimizer's state
    yield Comparison(
        "ALRC of both losses, forward, backward and moments",
        "ms",
        [1e3 * value for value in alone],
        f"step without it, {named(given)}",
        [1e3 * value for value in steps],
        Goal("<=", 0.005),
    )
    yield Comparison(
        "operators of a step with ALRC",
        "operators",
        [num_operators(with_alrc)],
        "without",
        [num_operators(without)],
        note="each is a kernel launch on a GPU, or none",
    )


def clip_two_losses(device: torch.device) -> Callable[[], None]:
    """ALRC's part of one step: clips outer and inner loss, and updates both moments."""
    clippers = [ALRC(accumulate=True).to(device) for _ in range(2)]
    losses = [torch.full((1,), 30.0, device=device, requires_grad=True) for _ in clippers]

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
