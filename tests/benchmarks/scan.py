"""Scan simulation beside a per-image version in NumPy and beside a training step.

The per-image version is what one writes from the published code (Ede 2020, partial-STEM), with
NumPy, SciPy and scikit-image. That code draws and blurs with Pillow and OpenCV, which the package
does not depend on; OpenCV's blurs in particular are faster than SciPy's.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import line
from torch import Tensor

from stem_complete.benchmark import durations
from stem_complete.losses import half_size, mean_power

from . import Setting
from .report import Comparison, Goal
from .steps import Problem, named, problem

Image = NDArray[np.float32]

COVERAGE = 1 / 20  # the paper's
BATCH_SIZE = 8
NUM_POINTS = 10_000
BLUR_SIGMA_PX = 2.5
PROBE = (0.25, 0.5, 0.25)


def run(setting: Setting) -> Iterator[Comparison]:
    """Images a core simulates in a second; and the share of a training step."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield beside_numpy(setting)
    finally:
        torch.set_num_threads(num_threads)
    yield beside_training(setting)


def beside_numpy(setting: Setting) -> Comparison:
    """The same scans; the per-image version draws a spiral for each image, as published."""
    given = problem(
        "scan.geometry=nominal",
        quick=setting.quick,
        batch_size=BATCH_SIZE,
        device=setting.device,
    )
    images = given.batch[:, 0].cpu().numpy()
    generator = np.random.default_rng(0)

    def numpy() -> None:
        for image in images:
            simulate(image, spiral(image.shape[-1], COVERAGE), generator)

    cases = {"ours": simulation(given), "numpy": numpy}
    seconds = durations(cases, setting.rounds)
    return Comparison(
        f"scan simulation, {images.shape[-1]} px, batch {BATCH_SIZE}",
        "images/s/core",
        [len(images) / value for value in seconds["ours"]],
        "NumPy, SciPy and scikit-image, one image after the other",
        [len(images) / value for value in seconds["numpy"]],
        Goal(">=", 20),
        "one thread",
    )


def beside_training(setting: Setting) -> Comparison:
    """Simulation of one image, and the passes of the network that trains on it."""
    given = problem(quick=setting.quick, device=setting.device)
    cases = {"simulation": simulation(given), "step": forward_backward(given)}
    seconds = durations(cases, setting.rounds)
    return Comparison(
        "scan simulation of one image",
        "ms",
        [1e3 * value for value in seconds["simulation"]],
        f"forward and backward pass, {named(given)}",
        [1e3 * value for value in seconds["step"]],
        Goal("<=", 0.05),
        "the goal is for GPUs",
    )


def simulation(given: Problem) -> Callable[[], Tensor]:
    """Flips, blurs, scans and encodes a batch: the network's input [b, 2, h, w]."""
    positions = torch.arange(len(given.batch), device=given.batch.device)

    @torch.no_grad()
    def simulate_batch() -> Tensor:
        return given.task.encode(given.task.simulator(given.batch, 0, positions).scan).x

    return simulate_batch


def forward_backward(given: Problem) -> Callable[[], object]:
    """Forward and backward pass of the network on a scan that is there already."""
    task = given.task.train()
    with torch.no_grad():
        batch = task.simulator(given.batch, 0, torch.arange(1, device=given.batch.device))

    def step() -> None:
        task.zero_grad(set_to_none=True)
        full, half, *_ = task.complete(batch)
        loss = mean_power(full, batch.truth, 2, task.weight)
        loss = loss + mean_power(half, half_size(batch.truth), 2, task.weight)
        loss.sum().backward()

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
    truth = filtered(image, gaussian())
    detected = detect(truth, dwell, generator)
    detected[dwell == 0] = -1
    return Example(truth, (detected + 1) / (1 + detected.max()), dwell)


def detect(truth: Image, dwell: Image, generator: np.random.Generator) -> Image:
    """Dwell times noisy intensity, [h, h], of an image in [-1, 1]."""
    chance = generator.random(truth.shape, dtype=np.float32)
    return dwell * (dwell * truth + 2 * (1 - dwell) * chance * background(truth))


def background(truth: Image) -> Image:
    """What short dwell is biased towards: the blurred image, stretched to [-1, 1]."""
    blurred = filtered(truth, gaussian())
    low, high = blurred.min(), blurred.max()
    return 2 * (blurred - low) / (high - low) - 1


def spiral(size: int, coverage: float) -> Image:
    """Dwell map [size, size] of an Archimedean spiral of `coverage` pixels per pixel of pitch."""
    canvas_size = math.ceil(math.sqrt(2) * size)
    radius = canvas_size / 2
    growth = 1 / (2 * np.pi * coverage)
    end = radius / growth
    theta = np.arange(0, end, end / NUM_POINTS)
    x = (growth * theta * np.cos(theta) + radius).astype(int)
    y = (growth * theta * np.sin(theta) + radius).astype(int)
    canvas = np.zeros((canvas_size, canvas_size), np.float32)
    for (x0, y0), (x1, y1) in pairwise(zip(x.tolist(), y.tolist(), strict=True)):
        canvas[line(y0, x0, y1, x1)] = 1
    start = canvas_size // 2 - size // 2
    return filtered(canvas[start : start + size, start : start + size], PROBE)


def gaussian() -> tuple[float, ...]:
    """Weights of the blur, five of them."""
    weights = [math.exp(-(x**2) / (2 * BLUR_SIGMA_PX**2)) for x in range(-2, 3)]
    return tuple(weight / sum(weights) for weight in weights)


def filtered(image: Image, weights: tuple[float, ...]) -> Image:
    """`image` under `weights` each way, mirrored at the border."""
    rows = ndimage.correlate1d(image, weights, axis=0, mode="mirror")
    return ndimage.correlate1d(rows, weights, axis=1, mode="mirror")
