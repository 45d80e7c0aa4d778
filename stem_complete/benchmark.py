"""Speed of this machine: a training step, a completion and the loader, measured in turn."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import stem_complete
from stem_complete.config import Config
from stem_complete.console import ProgressBar
from stem_complete.data.loader import Batch, training_batches
from stem_complete.data.store.store import MicrographStore
from stem_complete.distributed import WorkerContext
from stem_complete.inference import load_completer
from stem_complete.scan import PartialScan
from stem_complete.training import build_task
from stem_complete.training.completion import CompletionTask
from stem_complete.training.state import build_state
from stem_complete.training.step import build_step

BATCHES_LOADED = 32  # at a time: so many that those that were read ahead hardly count
_PACKAGES = ("torch", "numpy", "zarr", "zarrs", "safetensors")

Step = Callable[[], object]


class Goal(NamedTuple):
    """Limit of a ratio: at most ("<="), or at least (">="), a number."""

    sign: str
    ratio: float

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return ratio <= self.ratio if self.sign == "<=" else ratio >= self.ratio

    def __str__(self) -> str:
        return f"{self.sign} {self.ratio:g}"


class Comparison(NamedTuple):
    """A figure, and what it is compared with.

    Attributes:
        what: What was measured.
        unit: Of the values.
        values: One for each round; none if it could not be measured here.
        against: What it is compared with.
        reference: Its values, in the same rounds.
        goal: For the ratio of both.
        note: How to read the figure; why it was not measured.
    """

    what: str
    unit: str
    values: Sequence[float]
    against: str = ""
    reference: Sequence[float] = ()
    goal: Goal | None = None
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of each round: whatever slowed the machine down then slowed both."""
        return [value / other for value, other in zip(self.values, self.reference, strict=False)]

    @property
    def met(self) -> bool | None:
        """Whether the median ratio meets the goal; None without one."""
        if self.goal is None or not self.ratios:
            return None
        return self.goal.met(float(np.median(self.ratios)))


def benchmark(
    config: Config, store: MicrographStore, device: torch.device, rounds: int = 7
) -> list[Comparison]:
    """Rates of a training step, a completion by the released model, and the loader.

    Args:
        config: Of the training: its network, batch size, precision and loader processes.
        store: Micrographs to load, train on and complete.
        device: Where to train and complete.
        rounds: Times that each is measured.
    """
    num_loads = BATCHES_LOADED * (rounds + 2)  # one round warms up; the last reads ahead
    batches = _batches(config, store, num_loads + 1)
    batch = next(batches).to(device)
    task = build_task(config, (store.crop_size, store.crop_size)).to(device)
    scan: PartialScan = task.simulator(batch.examples[:1], 0, batch.positions[:1]).scan
    partial, dwell = (part[0, 0].cpu().numpy() for part in scan)
    completer = load_completer(device=device)

    def load() -> None:
        for _ in range(BATCHES_LOADED):
            next(batches)

    cases: dict[str, Step] = {
        "step": training_step(config, task, batch.examples),
        "completion": lambda: completer.complete(partial, dwell),
        "load": load,
    }
    seconds = durations({name: waited(case, device) for name, case in cases.items()}, rounds)
    trained = [config.batch_size / value for value in seconds["step"]]
    size = "x".join(map(str, batch.examples.shape[-2:]))
    return [
        Comparison("training step", "examples/s", trained, note=f"batch {config.batch_size}"),
        Comparison(
            "completion by the released model",
            "images/s",
            [1 / value for value in seconds["completion"]],
            note=f"{'x'.join(map(str, partial.shape))} px, with the error map",
        ),
        Comparison(
            "loader",
            "examples/s",
            [BATCHES_LOADED * config.batch_size / value for value in seconds["load"]],
            "training step",
            trained,
            Goal(">=", 2.0),
            f"{size} px, {config.data.loader_workers} processes read ahead",
        ),
    ]


def training_step(config: Config, task: CompletionTask, images: Tensor) -> Step:
    """A step of one worker on `images`, [b, 1, h, w], by the training loop's own code."""
    positions = torch.arange(len(images), device=images.device)
    take_step = build_step(config, build_state(config, task), WorkerContext(device=images.device))
    batches = [Batch(images, positions, positions)]

    def step() -> None:
        take_step(batches)
        take_step.flags.pop()
        take_step.window.examples.clear()

    return step


def durations(
    cases: Mapping[str, Step], rounds: int, *, calls: int = 1, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds that each case takes per call, in `rounds` rounds of random order.

    Args:
        cases: What to call, by name. On a GPU each must wait for the device itself, see `waited`.
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


def waited(function: Step, device: torch.device) -> Step:
    """`function`, and then a wait until the device has done its work."""

    def call() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call


def as_markdown(comparisons: Iterable[Comparison]) -> str:
    """Medians with quartiles, one row each, and the machine below."""
    lines = [
        "| | measured | against | ratio | goal | |",
        "| --- | ---: | --- | ---: | ---: | --- |",
    ]
    for found in comparisons:
        cells = [
            found.what + (f" ({found.note})" if found.note else ""),
            f"{_spread(found.values)} {found.unit}" if found.values else "not measured",
            f"{found.against}: {_spread(found.reference)} {found.unit}" if found.reference else "",
            _spread(found.ratios),
            str(found.goal or ""),
            {True: "met", False: "**missed**", None: ""}[found.met],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    facts = machine()
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines += [
        "",
        f"Median (quartiles) over rounds. {facts['cores']} cores of {facts['cpu']}, "
        f"{facts['gpu'] or 'no GPU'}, {facts['memory_gib']} GiB; "
        f"Python {facts['python']}, {versions}.",
    ]
    return "\n".join(lines)


def as_json(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """All values of all rounds, and the machine, as plain values."""
    rows = [
        found._asdict()
        | {"ratios": found.ratios, "met": found.met, "goal": str(found.goal or "") or None}
        for found in comparisons
    ]
    return {"machine": machine(), "comparisons": rows}


def machine() -> dict[str, Any]:
    """Hardware and versions."""
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_1_min": os.getloadavg()[0],
        "python": platform.python_version(),
        "stem-complete": stem_complete.__version__,
        "versions": versions,
    }


def _batches(config: Config, store: MicrographStore, number: int) -> Iterator[Batch]:
    return training_batches(
        store,
        steps=range(number),
        seed=0,
        batch_size=config.batch_size,
        micro_batch_size=config.batch_size,
        num_processes=config.data.loader_workers,
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, median, high = (_number(value) for value in np.percentile(values, [25, 50, 75]))
    return median + (f" ({low} to {high})" if len(values) > 1 else "")


def _number(value: float) -> str:
    """Three digits, without exponents."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cpu_name() -> str:
    """Name that the operating system gives the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
