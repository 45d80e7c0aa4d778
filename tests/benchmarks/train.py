"""A training step of the paper's network beside the arithmetic that it cannot do without."""

import gc
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from stem_complete.benchmark import durations

from . import Setting
from .report import Comparison, Goal
from .steps import Step, named, plain_step, problem, training_step

BATCH_SIZES, QUICK_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64), (1, 2)
STEPS = 10  # timed at once on a GPU
MATRIX_SIDE = 8192
BF16, GRAPH = "training.precision=bf16", "training.cuda_graph=true"


def run(setting: Setting) -> Iterator[Comparison]:
    """On a CPU beside plain convolutions; on a GPU beside a large matrix product."""
    if setting.device.type == "cuda":
        yield from one_example(setting)
        yield from batches(setting)
        return
    given = problem(quick=setting.quick)
    plain = plain_step(given)  # first: the other step changes the task
    seconds = durations(
        {"plain": plain, "ours": training_step(given, simulated=False)}, setting.rounds
    )
    yield Comparison(
        f"training step, {named(given)}",
        "s",
        seconds["ours"],
        "nn.Conv2d of the same shapes and Adam",
        seconds["plain"],
        Goal("<=", 1.10),
    )


def one_example(setting: Setting) -> Iterator[Comparison]:
    """Steps per second of one example."""
    forms = {"bf16, CUDA graph": (BF16, GRAPH), "bf16": (BF16,), "float32, CUDA graph": (GRAPH,)}
    cases = {name: several_steps(changes, 1, setting) for name, changes in forms.items()}
    seconds = durations(cases, setting.rounds)
    for name in forms:
        rates = [STEPS / value for value in seconds[name]]
        goal = Goal(">=", 1.0) if name == "bf16, CUDA graph" else None
        yield Comparison(
            f"training step, batch 1, {name}", "steps/s", rates, "200", [200.0] * len(rates), goal
        )


class Found(NamedTuple):
    """Of one batch size: seconds of steps and of a matrix product, and memory at its peak."""

    steps: list[float]
    products: list[float]
    num_bytes: int


def batches(setting: Setting) -> Iterator[Comparison]:
    """Arithmetic of larger and larger batches, until memory is full."""
    with FlopCounterMode(display=False) as counter:
        training_step(problem(quick=setting.quick, device=setting.device))()
    num_flop = counter.get_total_flops()
    found: dict[int, Found] = {}
    for batch_size in QUICK_BATCH_SIZES if setting.quick else BATCH_SIZES:
        try:
            found[batch_size] = measure(batch_size, setting)
        except torch.OutOfMemoryError:
            break
    rates = {
        size: [STEPS * size * num_flop / value / 1e12 for value in of.steps]
        for size, of in found.items()
    }
    best = max(rates, key=lambda size: np.median(rates[size]))
    for size, of in found.items():
        yield Comparison(
            f"training step, batch {size}",
            "TFLOP/s",
            rates[size],
            f"torch.mm of two {MATRIX_SIDE}x{MATRIX_SIDE} bf16 matrices",
            [2 * MATRIX_SIDE**3 / value / 1e12 for value in of.products],
            Goal(">=", 0.45) if size == best else None,
            f"{num_flop / 1e9:.4g} GFLOP an example, bf16, CUDA graph, "
            f"{STEPS * size / np.median(of.steps):.0f} examples/s, {of.num_bytes / 2**30:.1f} GiB",
        )


def measure(batch_size: int, setting: Setting) -> Found:
    """Steps of a batch beside matrix products, in the same rounds."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    steps = several_steps((BF16, GRAPH), batch_size, setting)
    left, right = torch.randn(2, MATRIX_SIDE, MATRIX_SIDE, device=setting.device).bfloat16()
    cases = {"steps": steps, "mm": lambda: torch.mm(left, right)}
    seconds = durations(cases, setting.rounds, warm_up=2)
    # A graph keeps its memory: reserved, not allocated, is what the next example would need.
    return Found(seconds["steps"], seconds["mm"], torch.cuda.max_memory_reserved())


def several_steps(changes: tuple[str, ...], batch_size: int, setting: Setting) -> Step:
    """`STEPS` steps."""
    step = training_step(
        problem(*changes, quick=setting.quick, batch_size=batch_size, device=setting.device)
    )
    return lambda: [step() for _ in range(STEPS)]
