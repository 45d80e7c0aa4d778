"""MLflow tracking beside the same run without.

Every tenth step of some ten milliseconds is logged, so tracking has to do many times as much a
second as with the paper's network. Starting and closing are left out.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.benchmarks.measure import Comparison, Effort
from stem_complete.benchmarks.runs import Command, free_port, run_config, small_store
from stem_complete.console import ProgressBar
from stem_complete.distributed import WorkerContext
from stem_complete.tracking import (
    MlflowRecorder,
    SystemMetrics,
    default_uri,
    finish_run,
    open_run,
    ui_command,
)
from stem_complete.training import Recorder, Recorders, train

NOBODY = "no tracking"
WARM_UP_STEPS = 20


class Cost(NamedTuple):
    """Of a step [ms]: wall clock, CPU of all threads, and the recorder's part of the first."""

    wall: float
    cpu: float
    recorder: float


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """Short runs in this process that differ only in who takes the curves."""
    num_threads, disabled = torch.get_num_threads(), logging.root.manager.disable
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # that a server is down is no news here
    try:
        costs = measured(effort, folder)
    finally:
        torch.set_num_threads(num_threads)
        logging.disable(disabled)
    walls, cpus = ([getattr(cost, kind) for cost in costs[NOBODY]] for kind in ("wall", "cpu"))
    note = "compact network, 64x64, batch 4, every tenth step logged, system metrics"
    for case in [name for name in costs if name != NOBODY]:
        wall, cpu, recorder = (list(column) for column in zip(*costs[case], strict=True))
        yield Comparison(f"step, {case}", "ms", wall, NOBODY, walls, note=note)
        yield Comparison(f"CPU time of a step, {case}", "ms", cpu, NOBODY, cpus)
        yield Comparison(f"training waits for the recorder, {case}", "ms", recorder, "step", wall)


def measured(effort: Effort, folder: Path) -> dict[str, list[Cost]]:
    """Costs of interleaved runs."""
    store = small_store(folder / "store.zarr")
    num_steps = 40 if effort.quick else 200
    costs: dict[str, list[Cost]] = defaultdict(list)
    with mlflow_server(folder / "server") as (_, url), ProgressBar("rounds", effort.rounds) as bar:
        cases = {
            NOBODY: None,
            "no tracking again": None,
            "SQLite": default_uri(folder),
            "server": url,
            "server down": f"http://127.0.0.1:{free_port()}",
        }
        for number in range(0 if effort.quick else -1, effort.rounds):  # the first is a warm-up
            for case in random.sample(list(cases), len(cases)):
                name = f"{number + 1}-{case}".replace(" ", "-")
                cost = tracked_run(name, folder, store, cases[case], num_steps)
                if number >= 0:
                    costs[case].append(cost)
            bar.update(max(number + 1, 0))
        return {case: costs[case] for case in cases}


def tracked_run(name: str, folder: Path, store: Path, uri: str | None, num_steps: int) -> Cost:
    """Cost of a short run."""
    changes = ("training.batch_size=4", f"training.steps={num_steps}")
    config = run_config(name, folder, store, *changes)
    recorders: list[Recorder] = []
    tracked = open_run(config, uri) if uri else None
    if tracked is not None:
        recorders.append(SystemMetrics(config.run_folder, every_s=5.0))
        recorders.append(MlflowRecorder(tracked, config.run_folder, close_timeout_s=5.0))
    clock = Clock(Recorders(recorders), num_steps)
    try:
        train(config, WorkerContext(), recorder=clock)
    finally:
        clock.close()
    if tracked is not None:
        finish_run(tracked, "FINISHED")
    return clock.cost()


class Clock:
    """A `Recorder` that passes on and measures what passes between two log entries."""

    def __init__(self, recorder: Recorder, num_steps: int) -> None:
        self.recorder, self.num_steps = recorder, num_steps
        self.start = self.end = (0.0, 0.0)
        self.inside_s = 0.0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Passes values on."""
        now = time.perf_counter(), time.process_time()
        if step == self.num_steps:  # the last one comes twice, and what is between is no step
            self.end = self.end if any(self.end) else now
        self.recorder.scalars(step, values)
        if step == WARM_UP_STEPS:
            self.start = now
        if WARM_UP_STEPS <= step < self.num_steps:
            self.inside_s += time.perf_counter() - now[0]

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Passes a picture on."""
        self.recorder.picture(step, name, image)

    def close(self) -> None:
        """Closes the recorder."""
        self.recorder.close()

    def cost(self) -> Cost:
        """Of a step after the warm-up."""
        num_steps = self.num_steps - WARM_UP_STEPS
        wall_s, cpu_s = (end - start for start, end in zip(self.start, self.end, strict=True))
        return Cost(*(1e3 * value / num_steps for value in (wall_s, cpu_s, self.inside_s)))


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[Command, str]]:
    """A real MLflow server and its URL, started with the command that users are told."""
    folder.mkdir()
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = f"exec env {ui_command(default_uri(folder))} --port {port}"
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):  # noqa: S310 - our own
                return True
        except OSError:
            return False

    with Command(["bash", "-c", command], folder / "log", {"PATH": path}) as server:
        server.wait_until(answers, "answer of the MLflow server")
        yield server, url
