"""Batches of scans: beside a plain loop, late beside early, two workers beside one, and starts."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import zarr

from stem_complete.data.conventions import raster_scan
from stem_complete.inference import (
    RELEASED_MODEL,
    Outputs,
    complete_scans,
    load_completer,
    write_completion,
)
from stem_complete.scan import archimedean
from stem_complete.serving.batch import complete_files
from stem_complete.serving.batch.in_process import InProcess
from stem_complete.serving.batch.units import Outcome, Pool, Unit

from . import Setting
from .report import Comparison, Goal

SIDE_PX = 64
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def run(setting: Setting) -> Iterator[Comparison]:
    """Scans per second, and what a long batch costs more at its end."""
    few, many = (4, 20) if setting.quick else (200, 10_000)
    scans = write_scans(setting.folder / "scans.zarr", few)
    completer = load_completer(device=setting.device)
    rates: dict[str, list[float]] = {"batch": [], "loop": []}
    for number in range(setting.rounds):
        output = setting.folder / f"out{number}"
        rates["batch"].append(few / cpu_seconds(complete_files, [scans], completer, output))
        rates["loop"].append(few / cpu_seconds(loop, scans, completer, output))
        shutil.rmtree(output)
    what = f"{SIDE_PX}x{SIDE_PX} px, CPU time"
    yield Comparison(
        f"batch of {few} scans to TIFF, {what}",
        "scans/s",
        rates["batch"],
        "plain loop: read, complete, write",
        rates["loop"],
        Goal(">=", 0.95),
    )
    many_scans = write_scans(setting.folder / "many.zarr", many)
    yield from late(setting, many_scans, "without Ray", lambda: InProcess(completer))
    if setting.quick:  # Ray starts in half a minute, and a process in seconds
        return
    yield from late(setting, many_scans, "two workers on Ray", lambda: ray_pool(2))
    yield from scaling(setting, scans)
    yield from starts(setting, write_scans(setting.folder / "four.zarr", 4))


def write_scans(path: Path, num: int, side: int = SIDE_PX) -> Path:
    """A zarr array of so many noisy spiral scans."""
    dwell = archimedean((side, side), "1/10").dwell_map().numpy()
    y, x = np.mgrid[:side, :side].astype(np.float32)
    array = zarr.create_array(
        path, shape=(num, side, side), chunks=(1, side, side), dtype="float32"
    )
    rng = np.random.default_rng(0)
    for number in range(num):
        image = np.sin(x / (5 + number % 7)) * np.cos(y / (4 + number % 5))
        image += 0.1 * rng.standard_normal(image.shape, np.float32)
        array[number] = np.where(dwell > 0, image, np.nan)
    return path


def cpu_seconds(work: Callable[..., object], *arguments: object) -> float:
    """CPU time that this process takes."""
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


def loop(scans: Path, completer: object, output: Path) -> None:
    """What one would write without the engine."""
    array = zarr.open_array(scans, mode="r")
    rasters = (raster_scan(array[number]) for number in range(array.shape[0]))
    for number, completed in enumerate(complete_scans(completer, rasters)):
        write_completion(completed, output / f"loop-{number}.tif")


class Mark(NamedTuple):
    """What was spent up to a moment.

    Attributes:
        wall: Time [s].
        own: CPU time [s] of this process with Ray's own below it.
        workers: CPU time [s] of workers on Ray.
        memory: Of this process [MiB].
    """

    wall: float
    own: float
    workers: float
    memory: float

    @classmethod
    def now(cls) -> "Mark":
        """What was spent so far."""
        this = psutil.Process()
        own, workers = sum(this.cpu_times()[:2]), 0.0
        for process in this.children(recursive=True):
            with suppress(psutil.Error):
                seconds = sum(process.cpu_times()[:2])
                if "".join(process.cmdline()[:1]).startswith("ray::RayWorker"):
                    workers += seconds
                else:
                    own += seconds
        return cls(time.perf_counter(), own, workers, this.memory_info().rss / 2**20)

    def __sub__(self, other: "Mark") -> "Mark":  # type: ignore[override]
        return Mark(*(a - b for a, b in zip(self, other, strict=True)))


def marks(
    scans: Path, output: Path, pool: Pool, places: tuple[int, ...], check: bool
) -> list[Mark]:
    """A batch of an NPY for each scan: what was spent once so many were done."""
    found = []
    done = count(1)

    def note(_unit: Unit, _outcome: Outcome) -> None:
        if next(done) in places:
            found.append(Mark.now())

    outputs = Outputs(self_check=check)
    complete_files([scans], pool, output, outputs=outputs, file_format="npy", each=note)
    shutil.rmtree(output)
    return found


def ray_pool(num_workers: int) -> Pool:
    """Workers on a local cluster."""
    from stem_complete.serving.batch.on_ray import RayPool

    return RayPool(RELEASED_MODEL, num_workers=num_workers)


def late(
    setting: Setting, scans: Path, where: str, pool: Callable[[], Pool]
) -> Iterator[Comparison]:
    """The last tenth of a long batch beside its first, and memory at both."""
    num = zarr.open_array(scans, mode="r").shape[0]
    tenth = num // 10
    # The first tenth begins when libraries are loaded, and all workers have begun.
    begin = max(1, tenth // 10)
    places = (begin, tenth, num - tenth + begin, num)
    rates: dict[str, list[float]] = {"first": [], "last": []}
    memory: dict[str, list[float]] = {"first": [], "last": []}
    for number in range(setting.rounds):
        output = setting.folder / f"many{number}"
        first, of_first, last, of_last = marks(scans, output, pool(), places, check=False)
        for name, spent in (("first", of_first - first), ("last", of_last - last)):
            rates[name].append((tenth - begin) / (spent.own + spent.workers))
        memory["first"].append(of_first.memory)
        memory["last"].append(of_last.memory)
    what = f"of {num:,} scans of {SIDE_PX}x{SIDE_PX} px, {where}"
    yield Comparison(
        f"last tenth {what}, CPU time",
        "scans/s",
        rates["last"],
        "first tenth",
        rates["first"],
        Goal(">=", 0.9),
    )
    yield Comparison(
        f"memory of the driver at the end {what}",
        "MiB",
        memory["last"],
        "at a tenth",
        memory["first"],
        Goal("<=", 1.02),
    )


def scaling(setting: Setting, scans: Path) -> Iterator[Comparison]:
    """Two workers on Ray beside one and beside this process alone, with self-check.

    On two cores, two workers have what the driver and Ray leave. So CPU time tells how fast they
    are on a machine that has nothing else to do.
    """
    pools: dict[str, Callable[[], Pool]] = {
        "alone": lambda: InProcess(load_completer(device="cpu")),
        "one": lambda: ray_pool(1),
        "two": lambda: ray_pool(2),
    }
    num = zarr.open_array(scans, mode="r").shape[0]
    places = (num // 5, num - num // 10)  # without the start, and the last that one works alone
    spent: dict[str, list[Mark]] = {name: [] for name in pools}
    for number in range(setting.rounds):
        for name, pool in pools.items():
            output = setting.folder / f"{name}{number}"
            begin, end = marks(scans, output, pool(), places, check=True)
            spent[name].append(end - begin)
    each = 1000 / (places[1] - places[0])  # ms of a scan
    what = f"scan of {SIDE_PX}x{SIDE_PX} px in a batch on Ray"
    yield Comparison(
        f"{what}, CPU time of its worker, of one",
        "ms",
        [each * of.workers for of in spent["one"]],
        "in this process, without Ray",
        [each * of.own for of in spent["alone"]],
        Goal("<=", 1.05),
    )
    yield Comparison(
        f"{what}, CPU time of driver and Ray, of two workers",
        "ms",
        [each * of.own for of in spent["two"]],
        "its worker",
        [each * of.workers for of in spent["two"]],
    )
    yield Comparison(
        "two workers on two cores, by CPU time of all processes",
        "scans/s",
        [2000 / (each * (of.own + of.workers)) for of in spent["two"]],
        "one worker, which has a core to itself",
        [1000 / (each * of.workers) for of in spent["one"]],
        Goal(">=", 1.8),
    )
    yield Comparison(
        "two workers on two cores, by the clock",
        "scans/s",
        [1000 / (each * of.wall) for of in spent["two"]],
        "one worker",
        [1000 / (each * of.wall) for of in spent["one"]],
        Goal(">=", 1.8),
        "of a machine that does nothing else",
    )


def starts(setting: Setting, scans: Path) -> Iterator[Comparison]:
    """From the command to the line on its first completion, beside its limit."""
    for options, limit_s in ((), 3.0), (("--ray", "--workers", "2"), 20.0):
        cpu, wall = [], []
        for number in range(setting.rounds):
            output = setting.folder / f"start{number}"
            command = [sys.executable, "-m", "stem_complete", "complete", str(scans), "--json"]
            command += ["--output", str(output), *options]
            started = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=ONE_THREAD) as process:
                assert process.stdout is not None
                assert b'"done"' in process.stdout.readline()
                wall.append(time.perf_counter() - started)
                cpu.append(sum(psutil.Process(process.pid).cpu_times()[:2]))
                process.stdout.read()
            shutil.rmtree(output)
        for values, kind in (cpu, "CPU time of the command"), (wall, "by the clock"):
            yield Comparison(
                f"start to first completion, {' '.join(options) or 'without Ray'}, {kind}",
                "s",
                values,
                "limit",
                [limit_s] * len(values),
                Goal("<=", 1.0),
            )
