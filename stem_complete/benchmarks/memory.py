"""Peak memory of the demo, of training and of batch completion, and whether it grows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil  # type: ignore[import-untyped]

from stem_complete.benchmarks.measure import Comparison, Effort, Goal
from stem_complete.benchmarks.runs import (
    STEM_COMPLETE,
    Command,
    run_config,
    small_store,
    train_command,
    windows,
)
from stem_complete.benchmarks.tracking import mlflow_server
from stem_complete.console import waiting
from stem_complete.data.bundled import example_micrographs, published_triples
from stem_complete.data.store.ingest import ingest

SAMPLE_EVERY_S, SAMPLES_PER_PSS = 0.25, 4
EARLY_STEPS, LATE_STEPS = 1_000, 10_000
GROWTH = 1.02
NEAREST = 11  # samples

_AROUND = "dashboard, agents and monitors"
_ACTORS = "other actors of Ray Train and ours"
_ROLES = {
    "ray::RayTrainWorker": "training worker",
    "raylet/raylet": "raylet",
    "gcs_server": "GCS",
    "ray::DashboardAgent": _AROUND,
    "ray::RuntimeEnvAgent": _AROUND,
    "dashboard": _AROUND,
    "monitor.py": _AROUND,
    "ray::": _ACTORS,
    "default_worker.py": _ACTORS,
    "multiprocessing.spawn": "loader",
    "mlflow": "MLflow server",
}
"""What a process is in whose command line a text occurs; the first counts."""


class Peak(NamedTuple):
    """Of the processes of one role.

    Attributes:
        rss: Largest of any of them [MiB].
        pss: Of all together, what they share counted once [MiB].
        number: Most at a time.
    """

    rss: float
    pss: float
    number: int


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """One run of each: peaks hardly vary."""
    if not Path("/proc/self/smaps_rollup").exists():
        yield Comparison("peak memory", "MiB", [], note="needs Linux, which tells what is shared")
        return
    if effort.quick:
        yield from _training_in_one_process(folder, "compact", 64)
        yield from _growth(folder, EARLY_STEPS // 20, LATE_STEPS // 50)
        return
    yield from _demo(folder)
    yield from _training_on_ray(folder)
    yield from _training_in_one_process(folder, "paper", 512)
    yield from _completion(folder)
    yield from _growth(folder, EARLY_STEPS, LATE_STEPS)


def _demo(folder: Path) -> Iterator[Comparison]:
    changes = ("training.steps=20", "training.validate_every_steps=10")
    command = [*STEM_COMPLETE, "demo", "--output", str(folder / "demo"), *changes]
    with Command(command, folder / "demo.log") as demo:
        peaks = peak_memory(demo, "the demo")
    yield from _rows("demo", peaks, "20 steps instead of 500: later ones take no more")


def _training_on_ray(folder: Path) -> Iterator[Comparison]:
    ingest(example_micrographs(), folder / "store.zarr")
    with mlflow_server(folder / "server") as (server, uri):
        config = run_config(
            "ray",
            folder,
            folder / "store.zarr",
            "training.batch_size=4",
            "training.steps=40",
            "training.validation_examples=8",
            "scaling.num_workers=2",
            "data.loader_workers=1",
            f"tracking.uri={uri}",
        )
        with Command(train_command(config), folder / "ray.log") as training:
            peaks = peak_memory(training, "training on Ray", beside=server)
    yield from _rows("training on Ray", peaks, "compact network, 512x512, batch 4 on 2 workers")


def _training_in_one_process(folder: Path, preset: str, size: int) -> Iterator[Comparison]:
    store = small_store(folder / f"store-{size}.zarr", crop_size=size)
    config = run_config(
        preset,
        folder,
        store,
        f"model.preset={preset}",
        "training.steps=3",
        "training.batch_size=1",
        "training.log_every_steps=1",
    )
    command = [*train_command(config), "--local"]
    with Command(command, folder / f"{preset}.log") as training:
        peaks = peak_memory(training, f"training of the {preset} network")
    yield from _rows(
        "training without Ray", peaks, f"{preset} network, {size}x{size}, batch 1, one thread"
    )


def _completion(folder: Path) -> Iterator[Comparison]:
    triple = published_triples()[0]
    command = [
        *(*STEM_COMPLETE, "complete", str(triple.scan.parent / "partial_scan-*.tif")),
        *("--dwell", str(triple.dwell.parent / "mask-{number}.tif"), "--published"),
        *("--model", str(folder / "paper"), "--output", str(folder / "completed")),
    ]
    with Command(command, folder / "complete.log") as completing:
        peaks = peak_memory(completing, "completion")
    yield from _rows("batch completion", peaks, "paper's network, 512x512, one process")
    yield Comparison(
        "batch completion on Ray", "MiB", [], note="files are completed in one process, without Ray"
    )


def _growth(folder: Path, early: int, late: int) -> Iterator[Comparison]:
    """Resident memory of a run at two steps: medians of the samples nearest to them."""
    config = run_config(
        "growth",
        folder,
        small_store(folder / "store-32.zarr", crop_size=32),
        f"training.steps={late + 1}",
        "training.batch_size=1",
        f"training.validate_every_steps={late // 10}",
        f"training.checkpoint_every_steps={late // 10}",
    )
    samples: list[tuple[float, float]] = []  # when, and how much [MiB]
    command = [*train_command(config), "--local"]
    with (
        Command(command, folder / "growth.log") as training,
        waiting(f"training for {late} steps"),
    ):
        (process, *_) = training.processes()
        while training.is_running():
            with suppress(psutil.NoSuchProcess):
                samples.append((time.time(), process.memory_info().rss / 2**20))
            time.sleep(0.02)
    found = windows(config)
    times, rss = np.array(samples).T
    ended, last = [window.ended_s for window in found], [window.step for window in found]
    steps = np.interp(times, ended, last, right=np.inf)

    def rss_at(step: int) -> float:
        return float(np.median(rss[np.argsort(np.abs(steps - step))[:NEAREST]]))

    yield Comparison(
        f"resident memory after {late:,} steps",
        "MiB",
        [rss_at(late)],
        f"after {early:,}",
        [rss_at(early)],
        Goal("<=", GROWTH),
        "compact network, 32x32, with curves, validation and checkpoints",
    )


def peak_memory(command: Command, what: str, *, beside: Command | None = None) -> dict[str, Peak]:
    """Peaks by role while a command runs to its end, and `all`.

    Args:
        command: Just started.
        what: What it does.
        beside: Another, whose processes count, too.

    Raises:
        RuntimeError: It failed.
    """
    rss: dict[str, float] = defaultdict(float)
    pss: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    driver, sample = command.processes()[0].pid, 0
    with waiting(f"{what}, watching its memory"):
        while command.is_running():
            together: dict[str, float] = defaultdict(float)
            there: dict[str, int] = defaultdict(int)
            for process in [*command.processes(), *(beside.processes() if beside else [])]:
                with suppress(psutil.NoSuchProcess, ProcessLookupError, OSError):
                    role = "driver" if process.pid == driver else _role(process)
                    rss[role] = max(rss[role], _mib(process, "status", "VmHWM"))
                    there[role] += 1
                    if sample % SAMPLES_PER_PSS == 0:
                        together[role] += _mib(process, "smaps_rollup", "Pss")
                    if role == "raylet":
                        shared = _mib(process, "status", "RssShmem")
                        rss["object store"] = max(rss["object store"], shared)
            together["all"] = sum(together.values())
            for role, value in together.items():
                pss[role] = max(pss[role], value)
            for role, count in there.items():
                number[role] = max(number[role], count)
            sample += 1
            time.sleep(SAMPLE_EVERY_S)
    if command.returncode:
        raise RuntimeError(f"{what} failed:\n{command.log.read_text(errors='replace')[-3000:]}")
    return {role: Peak(rss[role], pss[role], number[role]) for role in (*rss, "all")}


def _rows(what: str, peaks: dict[str, Peak], note: str) -> Iterator[Comparison]:
    for role, peak in peaks.items():
        if role == "all":
            yield Comparison(f"{what}: all processes", "MiB", [peak.pss], note=note)
        else:
            together = f"{peak.number} processes, together {peak.pss:,.0f} MiB"
            name = f"{what}: {role}"
            yield Comparison(name, "MiB", [peak.rss], note=together if peak.number > 1 else "")


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((role for part, role in _ROLES.items() if part in line), "other")


def _mib(process: psutil.Process, file: str, key: str) -> float:
    for line in Path(f"/proc/{process.pid}/{file}").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    return 0.0  # a zombie
