"""Training steps and data that several benchmarks time."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stem_complete import benchmark
from stem_complete.config import Config, load_config
from stem_complete.losses import half_size, mean_power
from stem_complete.models import fold_norms
from stem_complete.training import build_task
from stem_complete.training.completion import CompletionTask

Step = Callable[[], object]
RECORD = 3073  # bytes of an image of CIFAR-10 and its class


class Problem(NamedTuple):
    """A task and a batch of micrographs in [-1, 1], [b, 1, h, w], on one device."""

    config: Config
    task: CompletionTask
    batch: Tensor


def problem(
    *changes: str, quick: bool, batch_size: int = 1, device: torch.device | str = "cpu"
) -> Problem:
    """The paper's network and 512x512 micrographs; the compact one and 128x128 if `quick`."""
    preset, size = ("compact", 128) if quick else ("paper", 512)
    base = ["name=benchmark", "data.store=none", f"model.preset={preset}"]
    config = load_config([], [*base, f"training.batch_size={batch_size}", *changes])
    images = F.avg_pool2d(torch.randn(batch_size, 1, size + 4, size + 4), 5, stride=1)
    images = images / images.abs().amax(dim=(1, 2, 3), keepdim=True)
    return Problem(config, build_task(config, (size, size)).to(device), images.to(device))


def named(given: Problem) -> str:
    """Network, image size and batch size, as they stand in a row of the table."""
    size, device = given.batch.shape[-1], given.batch.device.type.replace("cuda", "gpu").upper()
    return f"{given.config.model.preset} network, {size}x{size}, batch {len(given.batch)}, {device}"


def training_step(given: Problem, *, simulated: bool = True) -> Step:
    """A step by the loop's own code; without simulation if not `simulated`: scans are there."""
    task, batch = given.task, given.batch
    if not simulated:
        scans = task.simulator(batch, 0, torch.arange(len(batch), device=batch.device))
        task.simulator.forward = lambda *_: scans
    return benchmark.training_step(given.config, task, batch)


def plain_step(given: Problem) -> Step:
    """The same convolutions without weight and mean norm, ALRC and guard, and plain Adam."""
    task = given.task
    network = fold_norms(task.network).train().requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4, fused=True)
    positions = torch.arange(len(given.batch), device=given.batch.device)
    batch = task.simulator(given.batch, 0, positions)
    x = task.encode(batch.scan).x.contiguous(memory_format=torch.channels_last)
    truth, half_truth = batch.truth, half_size(batch.truth)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        full, half = network(x)
        loss = mean_power(full, truth, 2, 200.0) + mean_power(half, half_truth, 2, 200.0)
        loss.mean().backward()
        optimizer.step()

    return step


def write_cifar10(folder: Path, number: int) -> NDArray[np.uint8]:
    """Fills each file of CIFAR-10 with the same images, noise of classes 0 to 9, [number, 3073]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (number, RECORD), np.uint8)
    images[:, 0] = rng.integers(0, 10, number)
    for name in (*(f"data_batch_{file}" for file in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(images.tobytes())
    return images
