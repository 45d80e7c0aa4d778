"""Loading of training examples beside what training consumes."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from stem_complete.benchmark import durations
from stem_complete.data.loader import Batch, training_batches
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore

from . import Setting
from .ingest import write_micrographs
from .report import Comparison, Goal
from .steps import Step, named, problem, training_step

CROPS, QUICK_CROPS = 128, 4  # loaded at a time, so that those read ahead hardly count
CPU_PROCESSES = (0, 1, 2, 4, 8)
GPU_PROCESSES, GPU_BATCH = 8, 32


def run(setting: Setting) -> Iterator[Comparison]:
    """Crops per second that the loader gives and that training steps take."""
    path = setting.folder / "store.zarr"
    micrographs = write_micrographs(setting.folder / "micrographs", 1 if setting.quick else 4)
    ingest(micrographs, path, split_fractions=(1, 0, 0))
    if setting.device.type == "cuda":
        yield on_gpu(path, setting)
    else:
        yield from on_cpu(path, setting)


def on_cpu(path: Path, setting: Setting) -> Iterator[Comparison]:
    """Loaders of more and more processes beside steps of the compact network."""
    cores, crops = len(os.sched_getaffinity(0)), QUICK_CROPS if setting.quick else CROPS
    counts = (0, 1) if setting.quick else [n for n in CPU_PROCESSES if n <= cores]
    # More steps than are ever taken: starting the processes is not measured.
    loaders = {n: batches(path, 1, n, crops * (setting.rounds + 2)) for n in counts}

    def load(num_processes: int) -> None:
        for _ in range(crops):
            next(loaders[num_processes])

    given = problem("model.preset=compact", quick=setting.quick)
    cases: dict[str, Step] = {"step": training_step(given)}
    cases |= {str(number): partial(load, number) for number in counts}
    # One core a worker, as `compact.yaml` has it: more threads wait for each other.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = durations(cases, setting.rounds)
    finally:
        torch.set_num_threads(num_threads)
        for loader in loaders.values():
            loader.close()
    for number in counts:
        yield Comparison(
            f"loader, {number} processes",
            "crops/s",
            [crops / value for value in seconds[str(number)]],
            f"training steps, {named(given)}, one thread",
            [1 / value for value in seconds["step"]],
            Goal(">=", 2.0),
            note="batch size 1, store in memory",
        )


def on_gpu(path: Path, setting: Setting) -> Comparison:
    """Eight processes beside steps of the paper's network in bf16."""
    device = setting.device
    given = problem(
        "training.precision=bf16", quick=setting.quick, batch_size=GPU_BATCH, device=device
    )
    loader = batches(path, GPU_BATCH, GPU_PROCESSES, 2 * setting.rounds + 4, pin_memory=True)
    cases: dict[str, Step] = {
        "step": training_step(given),
        "load": lambda: next(loader).to(device),
    }
    seconds = durations(cases, setting.rounds, warm_up=2)
    loader.close()
    return Comparison(
        f"loader to the GPU, {GPU_PROCESSES} processes",
        "crops/s",
        [GPU_BATCH / value for value in seconds["load"]],
        f"training steps, {named(given)}",
        [GPU_BATCH / value for value in seconds["step"]],
        Goal(">=", 1.2),
        f"batch size {GPU_BATCH}, bf16, store in memory",
    )


def batches(
    path: Path, batch_size: int, num_processes: int, number: int, *, pin_memory: bool = False
) -> Iterator[Batch]:
    """So many batches of the store's training split."""
    return training_batches(
        MicrographStore(path),
        steps=range(number),
        seed=0,
        batch_size=batch_size,
        micro_batch_size=batch_size,
        num_processes=num_processes,
        pin_memory=pin_memory,
    )
