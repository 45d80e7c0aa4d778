"""Hypothesis strategies that tests share: micrographs, paths, partial scans, losses.

Images are drawn by a seed and a kind instead of pixel by pixel: a failing example is then four
numbers long, and drawing one takes microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from stem_complete.scan import PartialScan, ScanPath, archimedean

Image = NDArray[Any]
Shape = tuple[int, int]
Rng = np.random.Generator

seeds = st.integers(0, 2**32 - 1)

dtypes = st.sampled_from(["uint8", "uint16", "int16", "uint32", "float32", "float64"])
"""Of the pixels of instruments' files."""

gains = st.floats(1e-4, 1e4)
"""Of a detector; `inverting` ones turn the contrast."""

inverting = gains.map(lambda gain: -gain)

offsets = st.floats(-1e3, 1e3)
"""Of a detector, in units of the contrast."""


def shapes(smallest: int = 1, largest: int = 24) -> st.SearchStrategy[Shape]:
    """(h, w) of images [px]."""
    return st.tuples(st.integers(smallest, largest), st.integers(smallest, largest))


def _noise(rng: Rng, shape: Shape) -> Image:
    return rng.normal(size=shape)


def _texture(rng: Rng, shape: Shape) -> Image:
    return gaussian_filter(rng.normal(size=shape), 4, mode="wrap")


def _lattice(rng: Rng, shape: Shape) -> Image:
    y, x = np.mgrid[: shape[0], : shape[1]]
    (u, v), phase = rng.uniform(0.05, 0.3, 2), rng.uniform(0, 2 * np.pi, 2)
    return np.cos(2 * np.pi * u * x + phase[0]) + np.cos(2 * np.pi * v * y + phase[1])


def _edge(rng: Rng, shape: Shape) -> Image:
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = rng.uniform(0, 2 * np.pi)
    return np.where(np.cos(angle) * (x - shape[1] / 2) > np.sin(angle) * (y - shape[0] / 2), 1, 0.0)


KINDS: dict[str, Callable[[Rng, Shape], Image]] = {
    "noise": _noise,
    "texture": _texture,
    "lattice": _lattice,
    "edge": _edge,
    "constant": lambda _, shape: np.zeros(shape),
}


def micrograph(kind: str, seed: int, shape: Shape, dtype: DTypeLike = np.float64) -> Image:
    """An image of mean 0 and deviation 1; of integers, one that fills the lower half of its range.

    One pixel and constant images have no deviation, and stay 0 everywhere.
    """
    image = KINDS[kind](np.random.default_rng(seed), shape)
    image = image - image.mean()
    if image.std() > 0:
        image = image / image.std()
    if not np.issubdtype(dtype, np.integer):
        return image.astype(dtype)
    most = np.iinfo(dtype).max // 2
    return np.clip(np.round(most / 2 + most / 10 * image), 0, most).astype(dtype)


def micrographs(
    shapes: st.SearchStrategy[Shape] | None = None,
    dtypes: st.SearchStrategy[str] | None = None,
    kinds: tuple[str, ...] = tuple(KINDS),
) -> st.SearchStrategy[Image]:
    """Images `[h, w]`, float64 unless `dtypes` says otherwise."""
    return st.builds(
        micrograph,
        st.sampled_from(kinds),
        seeds,
        _shapes_or(shapes),
        st.just("float64") if dtypes is None else dtypes,
    )


def scattered_path(seed: int, shape: Shape, num_samples: int, margin_px: float = 0.0) -> ScanPath:
    """Samples in random places of the image, at least `margin_px` from its border."""
    rng = np.random.default_rng(seed)
    last = np.array([shape[1] - 1, shape[0] - 1])
    positions = rng.uniform(margin_px, last - margin_px, (num_samples, 2))
    return ScanPath(torch.from_numpy(positions), torch.from_numpy(rng.random(num_samples)), shape)


def scattered_paths(
    shapes: st.SearchStrategy[Shape] | None = None, margin_px: float = 0.0
) -> st.SearchStrategy[ScanPath]:
    """Paths that jump from place to place, of random dwell, and never leave the image."""
    sizes = _shapes_or(shapes, smallest=2 + 2 * int(margin_px))
    return st.builds(scattered_path, seeds, sizes, st.integers(1, 40), st.just(margin_px))


def spirals(shapes: st.SearchStrategy[Shape] | None = None) -> st.SearchStrategy[ScanPath]:
    """Archimedean spirals of any coverage; parts of the dense ones are outside the image."""
    return st.builds(archimedean, _shapes_or(shapes, smallest=2), st.floats(0.02, 1.0))


def paths(shapes: st.SearchStrategy[Shape] | None = None) -> st.SearchStrategy[ScanPath]:
    """Paths over images of at least 2x2 px."""
    return scattered_paths(shapes) | spirals(shapes)


def raster_scan(
    seed: int, shape: Shape, measured: float, kind: str = "noise"
) -> tuple[Image, Image]:
    """A random fraction of an image's pixels, at least one, with random dwell.

    Returns:
        Intensities, NaN where not measured, and dwell, both `[h, w]` float32.
    """
    rng = np.random.default_rng(seed)
    keep = rng.random(shape) < measured
    keep[rng.integers(shape[0]), rng.integers(shape[1])] = True
    dwell = np.where(keep, rng.uniform(1 / 16, 1, shape), 0)
    intensity = 500 + 100 * micrograph(kind, seed, shape)
    return np.where(keep, intensity, np.nan).astype(np.float32), dwell.astype(np.float32)


def partial_scans(
    shapes: st.SearchStrategy[Shape] | None = None,
    measured: st.SearchStrategy[float] | None = None,
    kinds: tuple[str, ...] = ("noise", "texture", "edge"),
) -> st.SearchStrategy[tuple[Image, Image]]:
    """Partial scans of one image on the pixel grid: (intensity, dwell), see `raster_scan`.

    The fraction of measured pixels is from 0 to 1 unless `measured` says otherwise.
    """
    return st.builds(
        raster_scan,
        seeds,
        _shapes_or(shapes),
        st.floats(0, 1) if measured is None else measured,
        st.sampled_from(kinds),
    )


def tensor_scans(
    num: st.SearchStrategy[int] | None = None, **options: Any
) -> st.SearchStrategy[PartialScan]:
    """Batches of partial scans as the network's input takes them: tensors `[b, 1, h, w]`.

    Args:
        num: Scans of a batch, 1 to 3 by default.
        options: As of `partial_scans`.
    """

    def batch(scan: tuple[Image, Image], num: int) -> PartialScan:
        intensity, dwell = (torch.from_numpy(part)[None, None] for part in scan)
        # The same path, and each image another of the same detector, as in a batch of training.
        images = torch.cat([intensity * (1 + i) - 10 * i for i in range(num)])
        return PartialScan(images, dwell.expand_as(images))

    return st.builds(batch, partial_scans(**options), num or st.integers(1, 3))


LOSS_SERIES: dict[str, Callable[[Rng, int], Image]] = {
    "lognormal": lambda rng, n: np.exp(rng.normal(size=n)),
    "spikes": lambda rng, n: np.where(rng.random(n) < 0.01, 1000.0, 1.0 + 0.2 * rng.random(n)),
    "nearly constant": lambda rng, n: 1 + 1e-3 * rng.normal(size=n),
    "constant": lambda _, n: np.ones(n),
    "falling": lambda rng, n: 50 * np.exp(-np.linspace(0, 5, n)) * (1 + 0.3 * rng.random(n)),
}
"""Series of losses as training has them, by name: a function of generator and length."""

loss_values = st.floats(0.0, 1e6, width=32)
"""One example's loss."""


def losses(
    smallest: int = 1, largest: int = 32, kinds: tuple[str, ...] = tuple(LOSS_SERIES)
) -> st.SearchStrategy[Tensor]:
    """Losses of the examples of a batch `[b]` float32."""

    def draw(kind: str, seed: int, num: int) -> Tensor:
        return torch.from_numpy(LOSS_SERIES[kind](np.random.default_rng(seed), num)).float()

    return st.builds(draw, st.sampled_from(kinds), seeds, st.integers(smallest, largest))


def _shapes_or(
    given: st.SearchStrategy[Shape] | None, smallest: int = 1
) -> st.SearchStrategy[Shape]:
    return shapes(smallest) if given is None else given
