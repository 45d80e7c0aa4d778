"""Batches of scans: beside a plain loop, on Ray beside this process, and late beside early."""

import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

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
    yield from late(setting, completer, many)
    if not setting.quick:  # Ray starts in half a minute
        yield from on_ray(setting, scans)


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


def late(setting: Setting, completer: object, num: int) -> Iterator[Comparison]:
    """The last tenth of a long batch beside its first, and memory at both."""
    scans = write_scans(setting.folder / "many.zarr", num)
    rates: dict[str, list[float]] = {"first": [], "last": []}
    memory: dict[str, list[float]] = {"first": [], "last": []}
    tenth = num // 10
    for number in range(setting.rounds):
        times, sizes = [], []

        def note(_unit: Unit, _outcome: Outcome, times=times, sizes=sizes) -> None:
            times.append(time.process_time())
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

        output = setting.folder / f"many{number}"
        complete_files([scans], completer, output, file_format="npy", each=note)
        # Without the very first, at which libraries are loaded.
        rates["first"].append((tenth - 1) / (times[tenth] - times[1]))
        rates["last"].append((tenth - 1) / (times[-1] - times[-tenth]))
        memory["first"].append(sizes[tenth])
        memory["last"].append(sizes[-1])
        shutil.rmtree(output)
    what = f"of {num:,} scans of {SIDE_PX}x{SIDE_PX} px"
    yield Comparison(
        f"last tenth {what}, CPU time",
        "scans/s",
        rates["last"],
        "first tenth",
        rates["first"],
        Goal(">=", 0.9),
    )
    yield Comparison(
        f"largest memory up to the end {what}",
        "MiB",
        memory["last"],
        "up to a tenth",
        memory["first"],
        Goal("<=", 1.02),
    )


def on_ray(setting: Setting, scans: Path) -> Iterator[Comparison]:
    """CPU time of two workers on Ray, of all beside them, and of this process alone.

    Of two cores, workers have what the driver and Ray leave: at 0.11 of their time, two are 1.8
    times as fast as one that shares its core with nobody.
    """
    from stem_complete.serving.batch.on_ray import RayPool

    pools: dict[str, Callable[[], Pool]] = {
        "alone": lambda: InProcess(load_completer(device="cpu")),
        "ray": lambda: RayPool(RELEASED_MODEL, num_workers=2),
    }
    spent: dict[str, list[float]] = {"alone": [], "workers": [], "beside": []}
    num = zarr.open_array(scans, mode="r").shape[0]
    begin, end = num // 5, num - num // 10  # without the start, and the last that one works alone
    for number in range(setting.rounds):
        for name, pool in pools.items():
            marks: list[tuple[float, float]] = []
            done = count(1)

            def note(_unit: Unit, _outcome: Outcome, marks=marks, done=done) -> None:
                if next(done) in (begin, end):
                    marks.append(spent_by_now())

            output = setting.folder / f"{name}{number}"
            complete_files([scans], pool(), output, outputs=Outputs(self_check=True), each=note)
            (own, workers), (own_later, workers_later) = marks
            beside = 1000 * (own_later - own) / (end - begin)
            if name == "alone":
                spent["alone"].append(beside)
            else:
                spent["beside"].append(beside)
                spent["workers"].append(1000 * (workers_later - workers) / (end - begin))
    what = f"scan of {SIDE_PX}x{SIDE_PX} px in a batch on Ray"
    yield Comparison(
        f"{what}, CPU time of its worker",
        "ms",
        spent["workers"],
        "in this process, without Ray",
        spent["alone"],
        Goal("<=", 1.05),
    )
    yield Comparison(
        f"{what}, CPU time of driver and Ray",
        "ms",
        spent["beside"],
        "its worker",
        spent["workers"],
        Goal("<=", 0.11),
    )


def spent_by_now() -> tuple[float, float]:
    """CPU time [s] of this process with Ray's own below it, and of workers."""
    of_workers, this = 0.0, psutil.Process()
    own = sum(this.cpu_times()[:2])
    for process in this.children(recursive=True):
        with suppress(psutil.Error):
            seconds = sum(process.cpu_times()[:2])
            if "".join(process.cmdline()[:1]).startswith("ray::RayWorker"):
                of_workers += seconds
            else:
                own += seconds
    return own, of_workers
