"""Scan simulation beside a per-image version in NumPy and beside a training step.

The per-image version is what one writes from the published code (Ede 2020, partial-STEM), with
NumPy, SciPy and scikit-image. That code draws and blurs with Pillow and OpenCV, which the package
does not depend on; OpenCV's blurs in particular are faster than SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import line
from torch import Tensor

from stem_complete.benchmarks.devices import best_device, named, waited
from stem_complete.benchmarks.measure import Comparison, Effort, Goal, durations
from stem_complete.benchmarks.steps import Problem, problem
from stem_complete.console import waiting
from stem_complete.losses import half_size, squared_error

Image = NDArray[np.float32]
Simulation = Callable[[], Tensor]

COVERAGE = 1 / 20  # the paper's
_BATCH_SIZE = 8
_NUM_POINTS = 10_000
_BLUR_SIGMA_PX = 2.5
_PROBE = (0.25, 0.5, 0.25)


def run(effort: Effort, _: Path) -> Iterator[Comparison]:
    """Images a core simulates in a second; and the share of a training step."""
    yield from _beside_numpy(effort)
    yield _beside_training(effort)


def _beside_numpy(effort: Effort) -> Iterator[Comparison]:
    # The published code's drawing of the spiral, so that both simulate the same scans.
    given = problem(
        "scan.coverage_definition=nominal",
        quick=effort.quick,
        batch_size=_BATCH_SIZE,
        device=best_device(),
    )
    images = given.batch[:, 0].cpu().numpy()
    size = images.shape[-1]
    generator = np.random.default_rng(0)
    dwell = spiral(size, COVERAGE)
    cases: dict[str, Callable[[], object]] = {
        "ours": simulation(given),
        "each": lambda: [simulate(image, spiral(size, COVERAGE), generator) for image in images],
        "once": lambda: [simulate(image, dwell, generator) for image in images],
    }
    # Compiling takes longer than a quick look may.
    compiled = "too slow for a quick look" if effort.quick else compiled_simulation(given)
    if not isinstance(compiled, str):
        cases["compiled"] = compiled
    with _one_core():
        seconds = durations(_waited(cases, given), effort.rounds)
    rates = {name: [len(images) / value for value in found] for name, found in seconds.items()}
    what = f"scan simulation of {size}x{size} images on the {named(given.batch.device)}"
    unit = "images/s/core"
    note = f"batch {_BATCH_SIZE}, one thread"
    each = "NumPy, SciPy and scikit-image; a spiral for each image, as published"
    once = "the same with the spiral drawn once for all images, as ours"
    yield Comparison(what, unit, rates["ours"], each, rates["each"], Goal(">=", 20), note)
    yield Comparison(what, unit, rates["ours"], once, rates["once"], note=note)
    if isinstance(compiled, str):
        yield Comparison(f"{what}, compiled", unit, [], note=compiled)
        return
    note = f"torch.compile, which training does not use; {note}"
    yield Comparison(f"{what}, compiled", unit, rates["compiled"], each, rates["each"], note=note)
    yield Comparison(f"{what}, compiled", unit, rates["compiled"], once, rates["once"], note=note)


def _beside_training(effort: Effort) -> Comparison:
    given = problem(quick=effort.quick, device=best_device())
    size = given.batch.shape[-1]
    cases = {"simulation": simulation(given), "step": forward_backward(given)}
    milliseconds = {
        name: [1e3 * value for value in found]
        for name, found in durations(_waited(cases, given), effort.rounds).items()
    }
    network = "compact" if effort.quick else "paper's"
    return Comparison(
        f"scan simulation of one {size}x{size} image on the {named(given.batch.device)}",
        "ms",
        milliseconds["simulation"],
        f"forward and backward pass of the {network} network",
        milliseconds["step"],
        Goal("<=", 0.05),
        "the goal is for GPUs",
    )


def simulation(given: Problem) -> Simulation:
    """Flips, blurs, scans and encodes a batch: the network's input [b, 2, h, w]."""
    positions = torch.arange(len(given.batch), device=given.batch.device)

    def simulate_batch() -> Tensor:
        with torch.no_grad():
            return given.task.encode(given.task.simulator(given.batch, 0, positions).scan).x

    return simulate_batch


def compiled_simulation(given: Problem) -> Simulation | str:
    """`simulation` in kernels that torch.compile fuses; or why there are none."""
    positions = torch.arange(len(given.batch), device=given.batch.device)
    task = given.task

    def encoded(images: Tensor, step: Tensor) -> Tensor:
        return task.encode(task.simulator(images, step, positions).scan).x

    compiled = torch.compile(encoded)
    step = torch.zeros((), dtype=torch.int64, device=given.batch.device)

    def simulate_batch() -> Tensor:
        with torch.no_grad():
            x: Tensor = compiled(given.batch, step)
            return x

    try:
        with waiting("compiling the simulation"), _one_core():
            simulate_batch()
    except RuntimeError as error:
        return f"torch.compile does not work here: {str(error).splitlines()[0]}"
    return simulate_batch


def forward_backward(given: Problem) -> Callable[[], object]:
    """Forward and backward pass of the network on a scan that is there already."""
    task = given.task.train()
    with torch.no_grad():
        batch = task.simulator(given.batch, 0, torch.arange(1, device=given.batch.device))

    def step() -> None:
        task.zero_grad(set_to_none=True)
        full, half, _ = task.complete(batch)
        loss = squared_error(full, batch.truth, task.weight)
        loss = loss + squared_error(half, half_size(batch.truth), task.weight)
        loss.sum().backward()  # type: ignore[no-untyped-call]

    return step


class Example(NamedTuple):
    """What the per-image version makes of an image, each [h, h] float32.

    Attributes:
        truth: Blurred image in [-1, 1].
        scan: Detected intensities scaled to [0, 1], 0 where not measured.
        dwell: [full pixel dwells].
    """

    truth: Image
    scan: Image
    dwell: Image


def simulate(
    image: Image, dwell: Image, generator: np.random.Generator, *, augment: bool = True
) -> Example:
    """A training example out of one image [h, h] in [-1, 1]."""
    if augment:
        image = np.rot90(image, int(generator.integers(4)))
        if generator.integers(2):
            image = np.fliplr(image)
    truth = _filter(image, _gaussian())
    detected = detect(truth, dwell, generator)
    detected[dwell == 0] = -1
    scan = (detected + 1) / (1 + detected.max())
    return Example(truth, scan, dwell)


def detect(truth: Image, dwell: Image, generator: np.random.Generator) -> Image:
    """Dwell times noisy intensity, [h, h], of an image in [-1, 1]."""
    chance = generator.random(truth.shape, dtype=np.float32)
    detected: Image = dwell * (dwell * truth + 2 * (1 - dwell) * chance * background(truth))
    return detected


def background(truth: Image) -> Image:
    """What short dwell is biased towards: the blurred image, stretched to [-1, 1]."""
    blurred = _filter(truth, _gaussian())
    low, high = blurred.min(), blurred.max()
    stretched: Image = 2 * (blurred - low) / (high - low) - 1
    return stretched


def spiral(size: int, coverage: float) -> Image:
    """Dwell map [size, size] of an Archimedean spiral of `coverage` pixels per pixel of pitch."""
    canvas_size = math.ceil(math.sqrt(2) * size)
    radius = canvas_size / 2
    growth = 1 / (2 * np.pi * coverage)
    end = radius / growth
    theta = np.arange(0, end, end / _NUM_POINTS)
    x = (growth * theta * np.cos(theta) + radius).astype(int)
    y = (growth * theta * np.sin(theta) + radius).astype(int)
    canvas = np.zeros((canvas_size, canvas_size), np.float32)
    for (x0, y0), (x1, y1) in pairwise(zip(x.tolist(), y.tolist(), strict=True)):
        canvas[line(y0, x0, y1, x1)] = 1
    start = canvas_size // 2 - size // 2
    return _filter(canvas[start : start + size, start : start + size], _PROBE)


def _gaussian() -> tuple[float, ...]:
    weights = [math.exp(-(x**2) / (2 * _BLUR_SIGMA_PX**2)) for x in range(-2, 3)]
    return tuple(weight / sum(weights) for weight in weights)


def _filter(image: Image, weights: tuple[float, ...]) -> Image:
    """`image` under `weights` each way, mirrored at the border."""
    rows = ndimage.correlate1d(image, weights, axis=0, mode="mirror")
    filtered: Image = ndimage.correlate1d(rows, weights, axis=1, mode="mirror")
    return filtered


@contextmanager
def _one_core() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _waited(
    cases: dict[str, Callable[[], object]], given: Problem
) -> dict[str, Callable[[], object]]:
    return {name: waited(case, given.batch.device) for name, case in cases.items()}
