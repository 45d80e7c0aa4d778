"""Complete micrographs -> partial scans and the truth to compare completions with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stem_complete.scan import random
from stem_complete.scan.acquisition import acquire
from stem_complete.scan.augment import Augmentation
from stem_complete.scan.filters import REFERENCE_BLUR_SIGMA_PX, blur
from stem_complete.scan.noise import NoiseModel, SomeNoise
from stem_complete.scan.partial_scan import PartialScan
from stem_complete.scan.path import ScanPath
from stem_complete.scan.random import Stream
from stem_complete.vocabulary import Sample


class SimulatedBatch(NamedTuple):
    """Simulated scans of a batch of micrographs.

    Attributes:
        scan: Partial scans.
        truth: Blurred micrographs `[b, 1, h, w]` in [-1, 1]; the losses compare with them.
        unblurred: The same micrographs before the blur.
    """

    scan: PartialScan
    truth: Tensor
    unblurred: Tensor


class ScanSimulator(nn.Module):
    """Scans micrographs along given paths; its only state are their dwell maps.

    Everything random about an example depends on seed, step and position alone, so that it gives
    the same scan in any batch on any worker.

    Args:
        paths: Paths of the probe over images of one shape; each example is scanned along one.
        noise: How the detector sees a micrograph.
        seed: Seed of the run.
        augmentation: Variation of the micrographs before they are scanned; None scans them as they
            are.
        blur_sigma_px: Standard deviation of the truth's 5x5 Gaussian blur [px].
        sample: Image that the probe measures: the blurred truth, as in the paper's text, or the
            original, as in the published code.
        noisy_fraction: Fraction of the examples that are scanned with noise.

    Raises:
        ValueError: The arguments do not fit together.
    """

    dwell: Tensor  # dwell map of each path [p, 1, h, w]
    pixels: Tensor  # flat indices of the pixels with dwell, for each path [p, n]

    def __init__(
        self,
        paths: ScanPath | Sequence[ScanPath],
        noise: NoiseModel,
        seed: int,
        *,
        augmentation: Augmentation | None = None,
        blur_sigma_px: float = REFERENCE_BLUR_SIGMA_PX,
        sample: Sample = "blurred",
        noisy_fraction: float = 1.0,
    ) -> None:
        super().__init__()
        paths = [paths] if isinstance(paths, ScanPath) else list(paths)
        shapes = {path.shape for path in paths}
        if len(shapes) != 1:
            raise ValueError(f"expected paths of one shape, got {sorted(shapes)}")
        (shape,) = shapes
        if augmentation is not None and shape[0] != shape[1]:
            raise ValueError(f"augmentation needs square images, got {shape}")
        if not 0 <= noisy_fraction <= 1:
            raise ValueError(f"noisy_fraction must be in [0, 1], got {noisy_fraction}")
        if blur_sigma_px <= 0:
            raise ValueError(f"blur_sigma_px must be positive, got {blur_sigma_px}")
        if sample not in get_args(Sample):
            raise ValueError(f'sample must be "blurred" or "original", got {sample!r}')
        # Paths are part of the config: a checkpoint need not repeat their maps.
        maps = [path.dwell_map() for path in paths]
        self.register_buffer("dwell", torch.stack(maps)[:, None], persistent=False)
        self.register_buffer("pixels", _measured_pixels(maps), persistent=False)
        self.noise = noise
        self.seed = seed
        self.augmentation = augmentation
        self.blur_sigma_px = blur_sigma_px
        self.sample = sample
        self.noisy_fraction = noisy_fraction

    def forward(self, images: Tensor, step: int | Tensor, positions: Tensor) -> SimulatedBatch:
        """Scans of `images` [b, 1, h, w] in [-1, 1].

        Args:
            images: Micrographs.
            step: Step of the run; a 0-dimensional int64 tensor avoids recompilation.
            positions: Positions of the examples in the global batch `[b]` int64.
        """
        keys = partial(random.example_keys, self.seed, step, positions)
        if self.augmentation is not None:
            images = self.augmentation(images, keys)
        truth = blur(images, self.blur_sigma_px)

        dwell, pixels = self.dwell, self.pixels
        if len(dwell) > 1:
            path = random.integers(keys(Stream.PATH), len(dwell))
            dwell, pixels = dwell[path], pixels[path]
        noise = self.noise
        if self.noisy_fraction < 1:
            chance = random.uniform(keys(Stream.IS_NOISY), (1,))
            noise = SomeNoise(noise, chance < self.noisy_fraction)
        measured = truth if self.sample == "blurred" else images
        scan = acquire(measured, dwell, noise, keys(Stream.NOISE), pixels)
        return SimulatedBatch(scan, truth, images)


def _measured_pixels(maps: Sequence[Tensor]) -> Tensor:
    """Flat indices [p, n] of the pixels with dwell in each map; short rows repeat their first."""
    rows = [dwell.flatten().nonzero()[:, 0] for dwell in maps]
    padded = pad_sequence(rows, batch_first=True, padding_value=-1)
    return torch.where(padded < 0, padded[:, :1], padded)
