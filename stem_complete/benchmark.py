"""Speed of this machine: a training step, a completion and the loader, measured in turn."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.benchmark import timer

import stem_complete
from stem_complete.config import Config
from stem_complete.console import ProgressBar
from stem_complete.data.loader import Batch, training_batches
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import WorkerContext
from stem_complete.inference import load_completer
from stem_complete.scan import PartialScan
from stem_complete.training import build_task
from stem_complete.training.state import build_state
from stem_complete.training.step import build_step
from stem_complete.training.task import Task

BATCHES_LOADED = 32  # at a time: so many that those that were read ahead hardly count
_PACKAGES = ("torch", "numpy", "zarr", "safetensors")

Step = Callable[[], object]


class Rate(NamedTuple):
    """A rate of this machine; `values` has one for each round."""

    what: str
    unit: str
    values: list[float]


def benchmark(
    config: Config, store: MicrographStore, device: torch.device, rounds: int = 7
) -> list[Rate]:
    """Rates of a training step, a completion by the released model, and the loader.

    Args:
        config: Of the training: its network, batch size, precision and loader processes.
        store: Micrographs to load, train on and complete.
        device: Where to train and complete.
        rounds: Times that each is measured.
    """
    num_loads = BATCHES_LOADED * (rounds + 2)  # one round warms up; the last reads ahead
    num, processes = config.batch_size, config.data.loader_workers
    batches = training_batches(
        store,
        steps=range(num_loads + 1),
        seed=0,
        batch_size=num,
        micro_batch_size=num,
        num_processes=processes,
    )
    batch = next(batches)
    examples, positions = batch.examples.to(device), batch.positions.to(device)
    task = build_task(config, (store.crop_size, store.crop_size)).to(device)
    scan: PartialScan = task.simulator(examples[:1], 0, positions[:1]).scan
    partial, dwell = (part[0, 0].cpu().numpy() for part in scan)
    completer = load_completer(device=device)

    def load() -> None:
        for _ in range(BATCHES_LOADED):
            next(batches)

    step = training_step(config, task, examples)
    cases: list[tuple[str, str, int, Step]] = [
        (f"training step, batch {num}", "examples/s", num, step),
        (
            "completion by the released model",
            "images/s",
            1,
            lambda: completer.complete(partial, dwell),
        ),
        (f"loader, {processes} processes", "examples/s", BATCHES_LOADED * num, load),
    ]
    seconds = durations({what: case for what, _, _, case in cases}, rounds)
    return [
        Rate(f"{what}, {store.crop_size} px", unit, [count / value for value in seconds[what]])
        for what, unit, count, _ in cases
    ]


def training_step(config: Config, task: Task, examples: Tensor) -> Step:
    """A step of one worker on examples of the task, [b, ...], by the training loop's own code."""
    positions = torch.arange(len(examples), device=examples.device)
    take_step = build_step(config, build_state(config, task), WorkerContext(device=examples.device))
    batches = [Batch(examples, positions, positions)]

    def step() -> None:
        take_step(batches)
        take_step.flags.pop()
        take_step.window.steps.clear()

    return step


def durations(
    cases: Mapping[str, Step], rounds: int, *, calls: int = 1, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds that each case takes per call, in `rounds` rounds of random order.

    Args:
        cases: What to call, by name.
        rounds: Of which each gives one value per case.
        calls: Calls that are timed together, for cases that take microseconds.
        warm_up: Rounds that do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    with ProgressBar("rounds") as bar:
        for number in range(-warm_up, rounds):
            for name in random.sample(list(cases), len(cases)):
                case = cases[name]
                started = timer()  # when the GPU, if there is one, has done all work before
                for _ in range(calls):
                    case()
                if number >= 0:
                    seconds[name].append((timer() - started) / calls)
            bar.show(max(number + 1, 0), rounds)
    return seconds


def as_text(rates: Iterable[Rate]) -> str:
    """Medians with quartiles, a line each, and the machine below."""
    lines = [f"{rate.what:46}{spread(rate.values)} {rate.unit}" for rate in rates]
    return "\n".join([*lines, "", *(f"{name:14}{value}" for name, value in machine().items())])


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_1_min": os.getloadavg()[0],
        "python": platform.python_version(),
        "stem-complete": stem_complete.__version__,
        **{name: version(name) for name in _PACKAGES},
    }


def spread(values: Sequence[float]) -> str:
    """Median and quartiles, in three digits without exponents."""
    if not values:
        return ""
    low, median, high = (
        f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        for value in np.percentile(values, [25, 50, 75])
    )
    return median + (f" ({low} to {high})" if len(values) > 1 else "")


def _cpu_name() -> str:
    """Name that the operating system gives the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
