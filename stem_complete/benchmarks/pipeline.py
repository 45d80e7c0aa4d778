"""Loading of training examples beside what training consumes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from stem_complete.benchmarks.ingest import write_micrographs
from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.benchmarks.steps import Step, problem, training_step
from stem_complete.data.loader import ImageBatch, training_batches
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore

CROPS, QUICK_CROPS = 128, 4
"""Loaded at a time: so many that the two that each process has read ahead hardly count."""

_PROCESSES = (0, 1, 2, 4, 8)
_GPU_PROCESSES, _GPU_BATCH = 8, 32
_LOAD_ON_GPU = "loader to the GPU, num_processes=8"
_NO_GPU = "not measured: no CUDA device"


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """Crops per second that the loader gives and that training steps take."""
    path = folder / "store.zarr"
    ingest(
        write_micrographs(folder / "micrographs", 1 if effort.quick else 4),
        path,
        split_fractions=(1, 0, 0),
    )
    yield from _on_cpu(path, effort)
    if torch.cuda.is_available():
        yield from _on_gpu(path, effort)
    else:
        yield Comparison(_LOAD_ON_GPU, "crops/s", (), note=_NO_GPU)
        yield Comparison("training fed by a prefetch to the GPU", "crops/s", (), note=_NO_GPU)


def _on_cpu(path: Path, effort: Effort) -> Iterator[Comparison]:
    cores = len(os.sched_getaffinity(0))
    num_processes = (0, 1) if effort.quick else [n for n in _PROCESSES if n <= cores]
    num_crops = QUICK_CROPS if effort.quick else CROPS
    # More steps than are ever taken: starting the processes is not measured.
    steps = range(num_crops * (effort.rounds + 2))
    loaders = {number: _batches(path, steps, 1, number) for number in num_processes}

    def load(number: int) -> None:
        loaded = sum(len(next(loaders[number]).crops) for _ in range(num_crops))
        assert loaded == num_crops

    cases: dict[str, Step] = {
        "step": training_step(problem("model.preset=compact", quick=effort.quick)),
        **{str(number): partial(load, number) for number in num_processes},
    }
    # One core a worker, as `compact.yaml` has it. More threads wait for each other: beside other
    # work on the machine their steps take up to 20 times as long.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = durations(cases, effort.rounds)
    finally:
        torch.set_num_threads(num_threads)
        loaders.clear()  # ends the processes
    consumed = [1 / value for value in seconds["step"]]
    for number in num_processes:
        yield Comparison(
            f"loader, num_processes={number}",
            "crops/s",
            [num_crops / value for value in seconds[str(number)]],
            "training steps of the compact network, one thread",
            consumed,
            Goal(">=", 2.0),
            note="batch size 1, store in memory",
        )


def _on_gpu(path: Path, effort: Effort) -> Iterator[Comparison]:
    """The network of the paper in bf16, and what its steps are fed with."""
    device = torch.device("cuda")
    posed = problem("training.precision=bf16", quick=effort.quick, batch_size=_GPU_BATCH)
    posed.task.to(device)
    step = training_step(posed._replace(batch=posed.batch.to(device)))
    # Three cases take one in each round, of which two do not count.
    steps = range(4 * (effort.rounds + 2))
    batches = _batches(path, steps, _GPU_BATCH, _GPU_PROCESSES, pin_memory=True)
    copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    ahead: list[ImageBatch] = [next(batches).to(device)]

    def prefetched() -> None:
        """Copies the next batch while a step runs."""
        torch.cuda.current_stream().wait_stream(copying)
        ahead.pop()
        step()
        with torch.cuda.stream(copying):
            ahead.append(next(batches).to(device))

    def finished(case: Step) -> None:
        case()
        torch.cuda.synchronize()

    cases: dict[str, Step] = {
        "step": step,
        "load": lambda: next(batches).to(device),
        "both": lambda: (next(batches).to(device), step()),
        "prefetched": prefetched,
    }
    seconds = durations(
        {name: partial(finished, case) for name, case in cases.items()}, effort.rounds, warm_up=2
    )
    rates = {name: [_GPU_BATCH / value for value in values] for name, values in seconds.items()}
    note = f"batch size {_GPU_BATCH}, bf16, store in memory"
    yield Comparison(
        _LOAD_ON_GPU,
        "crops/s",
        rates["load"],
        "training steps of the paper's network",
        rates["step"],
        Goal(">=", 1.2),
        note,
    )
    yield Comparison(
        "training fed by a prefetch to the GPU",
        "crops/s",
        rates["prefetched"],
        "copied when asked",
        rates["both"],
        note=note,
    )


def _batches(
    path: Path, steps: range, batch_size: int, num_processes: int, *, pin_memory: bool = False
) -> Iterator[ImageBatch]:
    return training_batches(
        MicrographStore(path),
        steps=steps,
        seed=0,
        batch_size=batch_size,
        micro_batch_size=batch_size,
        num_processes=num_processes,
        pin_memory=pin_memory,
    )
