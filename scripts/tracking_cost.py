#!/usr/bin/env python
"""Measures how much tracking slows training down.

  python scripts/tracking_cost.py --rounds 7 --output cost.json      # 2 cores: about 8 minutes

Trains the compact network in this process, in rounds of short runs that differ only in who takes
the curves: nobody, twice, which shows the noise; MLflow with an SQLite file; a real MLflow server
on this machine; a server that is down. The order in a round is random. All but nobody sample
system metrics, too. A step takes some ten milliseconds and every tenth is logged, so tracking has
to do many times as much a second as with the paper's network. Three things are measured, without
starting and closing:

* time per step, wall clock, over the first nobody's of its round;
* CPU time per step of this process with all its threads, likewise: it depends less on what else
  the machine does;
* the share of time that the training thread spends in the recorder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stem_complete.benchmarks.report import machine
from stem_complete.config import load_config
from stem_complete.data.examples import example_micrographs
from stem_complete.data.ingest import ingest
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

NOBODY, AGAIN, SQLITE, SERVER, DOWN = "nobody", "nobody again", "sqlite", "server", "server down"
LOG_EVERY_STEPS = 10
WARM_UP_STEPS = 20


class Cost(NamedTuple):
    """Of a run: time per step by wall clock and CPU [ms], and the recorder's share of the first."""

    wall: float
    cpu: float
    recorder_share: float


Costs = dict[str, list[Cost]]
"""Of each round, by who takes the curves."""


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
        """Of the steps after the warm-up."""
        num_steps = self.num_steps - WARM_UP_STEPS
        wall_s, cpu_s = (end - start for start, end in zip(self.start, self.end, strict=True))
        return Cost(1e3 * wall_s / num_steps, 1e3 * cpu_s / num_steps, self.inside_s / wall_s)


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--output", type=Path, help="JSON with all rates, hardware, versions")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # that a server is down is no news here
    with tempfile.TemporaryDirectory() as name:
        costs = measure(Path(name), options.rounds, options.steps)
    print(report(costs))
    if options.output:
        runs = {case: [cost._asdict() for cost in found] for case, found in costs.items()}
        result = {"machine": machine(), "runs": runs}
        options.output.write_text(json.dumps(result, indent=1))


def measure(folder: Path, num_rounds: int, num_steps: int) -> Costs:
    """Costs of interleaved runs."""
    torch.set_num_threads(1)
    micrographs = sorted(example_micrographs(), key=lambda file: file.stat().st_size)[:3]
    ingest(micrographs, folder / "store.zarr", crop_size=64)
    costs: Costs = {case: [] for case in (NOBODY, AGAIN, SQLITE, SERVER, DOWN)}
    sqlite = default_uri(folder)
    with server(folder / "server") as url:
        uris = {SQLITE: sqlite, SERVER: url, DOWN: "http://127.0.0.1:9"}
        for turn in range(-1, num_rounds):  # the first is a warm-up
            for case in random.sample(list(costs), len(costs)):
                cost = run(folder, f"{turn}-{case}".replace(" ", "-"), uris.get(case), num_steps)
                if turn >= 0:
                    costs[case].append(cost)
            print(f"round {turn + 1} of {num_rounds}", file=sys.stderr)
    return costs


def run(folder: Path, name: str, uri: str | None, num_steps: int) -> Cost:
    """Cost of a short run."""
    config = load_config(
        [],
        [
            f"name=run{name}",
            f"storage={folder}",
            f"data.store={folder / 'store.zarr'}",
            "data.loader_workers=0",
            "model.preset=compact",
            "training.batch_size=4",
            f"training.steps={num_steps}",
            f"training.log_every_steps={LOG_EVERY_STEPS}",
            "training.validation_examples=1",
        ],
    )
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


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A real MLflow server, started with the command that users are told."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S602 - the command is ours
            f"exec env {ui_command(default_uri(folder))} --port {port}",
            shell=True,
            cwd=folder,
            env=os.environ | {"PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):  # noqa: S310
                    break
            except OSError:
                time.sleep(0.2)
        else:
            raise SystemExit((folder / "log").read_text())
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def report(costs: Costs) -> str:
    """A table of medians and quartiles over rounds."""
    wall, cpu, _ = (statistics.median(column) for column in zip(*costs[NOBODY], strict=True))
    lines = [
        f"{len(costs[NOBODY])} rounds; nobody: {wall:.1f} ms a step, {cpu:.1f} ms of CPU",
        f"  {'over nobody':<13}{'time':>8}{'quartiles':>16}{'CPU':>8}{'quartiles':>16}  recorder",
    ]
    for case in list(costs)[1:]:
        pairs = list(zip(costs[case], costs[NOBODY], strict=True))
        line = f"  {case:<13}"
        for ratios in ([c.wall / n.wall for c, n in pairs], [c.cpu / n.cpu for c, n in pairs]):
            low, median, high = np.percentile(ratios, [25, 50, 75])
            line += f"{median:>8.3f}{f'{low:.3f} to {high:.3f}':>16}"
        share = statistics.median(cost.recorder_share for cost in costs[case])
        lines.append(f"{line}  {share:.2%}")
    return "\n".join([*lines, json.dumps(machine())])


if __name__ == "__main__":
    main()
