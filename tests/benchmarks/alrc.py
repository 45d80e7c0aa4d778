"""What adaptive learning rate clipping adds to a training step of each experiment."""

from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from stem_complete import benchmark
from stem_complete.benchmark import durations
from stem_complete.config import load_config
from stem_complete.losses import ALRC
from stem_complete.training import build_named, build_task

from . import Setting
from .report import Comparison, Goal
from .steps import Step, named, problem, training_step, write_cifar10

CALLS = 100  # timed at once, as each takes microseconds


def run(setting: Setting) -> Iterator[Comparison]:
    """ALRC of all losses beside the step that they are in; operators with it and without."""
    for experiment, num_losses, without in steps_without(setting):
        cases = {
            name: loss_part(num_losses, clipped=name == "clipped", device=setting.device)
            for name in ("clipped", "plain")
        }
        seconds = durations(cases, setting.rounds, calls=CALLS)
        steps = durations({"without": without}, setting.rounds)["without"]
        yield Comparison(
            f"ALRC, forward, backward and moments: {experiment}",
            "ms",
            [1e3 * (c - p) for c, p in zip(seconds["clipped"], seconds["plain"], strict=True)],
            "step without it",
            [1e3 * value for value in steps],
            Goal("<=", 0.005),
        )
    with_alrc, without = (
        training_step(problem(*change, quick=setting.quick, device=setting.device))
        for change in ((), ("loss.alrc=null",))
    )
    with_alrc()  # the first step makes the optimizer's state
    without()
    yield Comparison(
        "operators of a step with ALRC",
        "operators",
        [num_operators(with_alrc)],
        "without",
        [num_operators(without)],
        note="each is a kernel launch on a GPU, or none",
    )


def steps_without(setting: Setting) -> Iterator[tuple[str, int, Step]]:
    """Each experiment that has ALRC: what it trains, how many losses, and a step without ALRC."""
    changes, device = ["name=benchmark", "sweep=null", "loss.alrc=null"], setting.device
    given = problem("loss.alrc=null", quick=setting.quick, device=device)
    yield named(given), len(given.task.loss_names), training_step(given)

    files = ["compact", "comparison_rates"]
    config = load_config(files, [*changes, "data.store=none"])
    task = build_task(config, (512, 512)).to(device)
    images = torch.rand(1, 1, 512, 512, device=device) * 2 - 1
    step = benchmark.training_step(config, task, images)
    yield "compact network, parts of 256x256, batch 1", len(task.loss_names), step

    images_of = write_cifar10(setting.folder, 16)
    config = load_config(["supersampling"], [*changes, f"data.store={setting.folder}"])
    task_of, _ = build_named(config)
    step = benchmark.training_step(
        config, task_of.to(device), torch.tensor(images_of[:1]).to(device)
    )
    yield "CIFAR-10 at twice its size, batch 1", len(task_of.loss_names), step


def loss_part(num: int, *, clipped: bool, device: torch.device) -> Callable[[], None]:
    """What a step does with so many losses, `clipped` or not: sum, backward pass, and moments."""
    clippers = [ALRC(accumulate=True).to(device) for _ in range(num if clipped else 0)]
    losses = [torch.full((1,), 30.0, device=device, requires_grad=True) for _ in range(num)]

    def step() -> None:
        left = losses
        if clipped:
            left = [alrc(loss) for alrc, loss in zip(clippers, losses, strict=True)]
        torch.stack(left).sum().backward()
        for alrc in clippers:
            alrc.commit(alrc.pending)

    return step


def num_operators(step: Callable[[], object]) -> int:
    """Operators that a step starts."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return sum(event.name.startswith("aten::") for event in profiler.events() or ())
