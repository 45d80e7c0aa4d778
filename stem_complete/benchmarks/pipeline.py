"""Loading of training examples beside what training consumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from stem_complete.benchmarks.ingest import write_micrographs
from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.benchmarks.steps import problem, training_step
from stem_complete.data.ingest import ingest
from stem_complete.data.loader import training_batches
from stem_complete.data.store import MicrographStore

CROPS, QUICK_CROPS = 128, 4
"""Loaded at a time: so many that the two that each process has read ahead hardly count."""


def run(effort: Effort, folder: Path) -> Iterator[Comparison]:
    """Crops per second that the loader gives and that training steps take, one at a time."""
    num_processes = (0, 1) if effort.quick else (0, 1, 2)
    num_crops = QUICK_CROPS if effort.quick else CROPS
    path = folder / "store.zarr"
    ingest(
        write_micrographs(folder / "micrographs", 1 if effort.quick else 4),
        path,
        split_fractions=(1, 0, 0),
    )
    # More steps than are ever taken: starting the processes is not measured.
    loaders = {
        number: iter(
            training_batches(
                MicrographStore(path),
                steps=range(num_crops * (effort.rounds + 2)),
                seed=0,
                batch_size=1,
                micro_batch_size=1,
                num_processes=number,
            )
        )
        for number in num_processes
    }

    def load(number: int) -> None:
        loaded = sum(len(next(loaders[number]).crops) for _ in range(num_crops))
        assert loaded == num_crops

    cases: dict[str, Callable[[], object]] = {
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
