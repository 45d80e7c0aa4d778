"""A training step of the paper's network on a GPU beside what the GPU can compute."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from stem_complete.benchmarks.devices import NO_GPU, waited
from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.benchmarks.steps import Step, problem, training_step

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
STEPS = 10
"""Timed at once."""

_MATRIX_SIDE = 8192
_GPU = torch.device("cuda")


class Found(NamedTuple):
    """Of one batch size: seconds of a step and of a matrix product, and memory at its peak."""

    steps: list[float]
    products: list[float]
    num_bytes: int


def run(effort: Effort, _: Path) -> Iterator[Comparison]:
    """Steps per second of one example, then the arithmetic of the best batch."""
    if not torch.cuda.is_available():
        yield Comparison("training step, batch 1", "steps/s", [], note=NO_GPU)
        yield Comparison("training step, best batch", "TFLOP/s", [], note=NO_GPU)
        yield Comparison("memory per example", "MiB", [], note=NO_GPU)
        return
    yield from _one_example(effort)
    yield from _batches(effort)


def _one_example(effort: Effort) -> Iterator[Comparison]:
    forms = {
        "bf16, CUDA graph": ("training.precision=bf16", "training.cuda_graph=true"),
        "bf16": ("training.precision=bf16",),
        "float32, CUDA graph": ("training.cuda_graph=true",),
    }
    cases = {name: waited(_steps(changes, 1, effort), _GPU) for name, changes in forms.items()}
    seconds = durations(cases, effort.rounds)
    wanted = Goal(">=", 1.0)
    for name in forms:
        rates = [STEPS / value for value in seconds[name]]
        goal = wanted if name == next(iter(forms)) else None
        yield Comparison(
            f"training step, batch 1, {name}", "steps/s", rates, "200", [200.0] * len(rates), goal
        )


def _batches(effort: Effort) -> Iterator[Comparison]:
    num_flop = _flop_per_example(effort)
    found: dict[int, Found] = {}
    for batch_size in BATCH_SIZES[:2] if effort.quick else BATCH_SIZES:
        try:
            found[batch_size] = _measure(batch_size, effort)
        except torch.OutOfMemoryError:
            break
    rates = {
        size: [STEPS * size * num_flop / value / 1e12 for value in of.steps]
        for size, of in found.items()
    }
    best = max(rates, key=lambda size: np.median(rates[size]))
    for size, of in found.items():
        peaks = [2 * _MATRIX_SIDE**3 / value / 1e12 for value in of.products]
        examples = STEPS * size / np.median(of.steps)
        yield Comparison(
            f"training step, batch {size}",
            "TFLOP/s",
            rates[size],
            f"torch.mm of two {_MATRIX_SIDE}x{_MATRIX_SIDE} bf16 matrices",
            peaks,
            Goal(">=", 0.45) if size == best else None,
            f"{num_flop / 1e9:.4g} GFLOP an example, bf16, CUDA graph, {examples:.0f} examples/s, "
            f"{of.num_bytes / 2**30:.1f} GiB" + (", the best batch" if size == best else ""),
        )
    smallest, largest = min(found), max(found)
    if largest > smallest:
        more = found[largest].num_bytes - found[smallest].num_bytes
        per_example = more / (largest - smallest) / 2**20
        yield Comparison(
            "memory per example",
            "MiB",
            [per_example],
            note=f"from the peaks at batch {smallest} and {largest}",
        )


def _measure(batch_size: int, effort: Effort) -> Found:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    changes = ("training.precision=bf16", "training.cuda_graph=true")
    steps = _steps(changes, batch_size, effort)
    matrices = torch.randn(2, _MATRIX_SIDE, _MATRIX_SIDE, device=_GPU).bfloat16()
    left, right = matrices
    cases = {"steps": waited(steps, _GPU), "mm": waited(lambda: torch.mm(left, right), _GPU)}
    seconds = durations(cases, effort.rounds, warm_up=2)
    # A graph keeps its memory: reserved, not allocated, is what the next example would need.
    return Found(seconds["steps"], seconds["mm"], torch.cuda.max_memory_reserved())


def _steps(changes: tuple[str, ...], batch_size: int, effort: Effort) -> Step:
    step = training_step(problem(*changes, quick=effort.quick, batch_size=batch_size, device=_GPU))

    def several() -> None:
        for _ in range(STEPS):
            step()

    return several


def _flop_per_example(effort: Effort) -> int:
    step = training_step(problem(quick=effort.quick, device=_GPU))
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())
