"""Training steps that several benchmarks time, as the loop takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.config import Config, load_config
from stem_complete.data.loader import ImageBatch
from stem_complete.distributed import WorkerContext
from stem_complete.losses import half_size, squared_error
from stem_complete.models import fold_norms
from stem_complete.scan import SimulatedBatch
from stem_complete.training import build_task
from stem_complete.training.completion import CompletionTask
from stem_complete.training.cuda_graph import CudaGraph
from stem_complete.training.state import TrainingState, build_optimizer
from stem_complete.training.step import TrainingStep

CPU = torch.device("cpu")

Step = Callable[[], object]


class Problem(NamedTuple):
    """A task and a batch for it.

    Attributes:
        task: On the device.
        batch: Micrographs in [-1, 1], [b, 1, h, w].
    """

    config: Config
    task: CompletionTask
    batch: Tensor


def problem(
    *changes: str,
    quick: bool,
    batch_size: int = 1,
    device: torch.device | str = CPU,
) -> Problem:
    """The paper's network and 512x512 micrographs; the compact one and 128x128 if `quick`."""
    preset, size = ("compact", 128) if quick else ("paper", 512)
    base = ["name=benchmark", "data.store=none", f"model.preset={preset}"]
    base += [f"training.batch_size={batch_size}"]
    config = load_config([], [*base, *changes])
    images = F.avg_pool2d(torch.randn(batch_size, 1, size + 4, size + 4), 5, stride=1)
    images = images / images.abs().amax(dim=(1, 2, 3), keepdim=True)
    task = build_task(config, (size, size))
    return Problem(config, task.to(device), images.to(device))


def training_step(problem: Problem, *, simulated: bool = True) -> Step:
    """A step of one worker, by the loop's own code.

    Args:
        problem: What to train on.
        simulated: Whether the step simulates its scans; False takes ones that are there.
    """
    task, batch = problem.task, problem.batch
    positions = torch.arange(len(batch), device=batch.device)
    if not simulated:
        scans = task.simulator(batch, 0, positions)
        task.simulator.forward = lambda *_: scans  # type: ignore[method-assign]
    state = TrainingState(problem.config, task)
    take_step = TrainingStep(problem.config, state, WorkerContext(device=batch.device))
    batches = [ImageBatch(batch, positions, positions)]

    def step() -> None:
        take_step(batches)
        take_step.flags.pop()
        take_step.window.examples.clear()

    return step


def unguarded_step(problem: Problem, *, fused: bool = True) -> Step:
    """The same step without guard, exchange, digest, curves and weight average.

    Args:
        problem: What to train on.
        fused: Whether Adam is one kernel, as in training, or a loop over lists of tensors.
    """
    task, batch = problem.task, problem.batch
    if fused:
        optimizer = build_optimizer(task, problem.config)
    else:
        optimizer = torch.optim.Adam(task.parameters(), lr=3e-4, foreach=True)
    usable = torch.ones((), dtype=torch.bool, device=batch.device)

    def compute(images: Tensor, number: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        optimizer.zero_grad(set_to_none=True)
        output = task(images, number, positions)
        (output.loss.sum() / len(images)).backward()
        optimizer.step()
        task.commit(task.statistics(), usable)
        return (output.loss.detach(),)

    call = CudaGraph(compute) if problem.config.training.cuda_graph else compute
    positions = torch.arange(len(batch), device=batch.device)
    number = torch.zeros((), dtype=torch.int64, device=batch.device)
    return lambda: call(batch, number, positions)


def plain_step(problem: Problem) -> Step:
    """The same convolutions without weight and mean norm, ALRC and guard, and plain Adam."""
    task = problem.task
    network = fold_norms(task.network).train().requires_grad_(True)
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=3e-4, fused=True)
    positions = torch.arange(len(problem.batch), device=problem.batch.device)
    batch: SimulatedBatch = task.simulator(problem.batch, 0, positions)
    x = task.encode(batch.scan).x.contiguous(memory_format=torch.channels_last)
    truth, half_truth = batch.truth, half_size(batch.truth)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        full, half = network(x)
        loss = squared_error(full, truth, 200.0) + squared_error(half, half_truth, 200.0)
        loss.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
