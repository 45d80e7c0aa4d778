"""Complete micrographs -> partial scans and the truth to compare completions with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stem_complete.scan import random
from stem_complete.scan.acquisition import acquire
from stem_complete.scan.augment import change_contrast, flip_rotate
from stem_complete.scan.filters import blur
from stem_complete.scan.noise import NoiseModel, SomeNoise
from stem_complete.scan.partial_scan import PartialScan
from stem_complete.scan.path import ScanPath

# What the numbers drawn from an example's key are for.
_AUGMENTATION, _NOISE, _CONTRAST, _PATH, _IS_NOISY = 0, 1, 3, 4, 5


class SimulatedBatch(NamedTuple):
    """Simulated scans of a batch of micrographs.

    Attributes:
        scan: The partial scans.
        truth: Blurred micrographs `[b, 1, h, w]` in [-1, 1]; the losses compare with them.
        unblurred: The same micrographs before the blur.
        keys: `[b]`; `random.fold_in` makes further random numbers of these examples from them.
    """

    scan: PartialScan
    truth: Tensor
    unblurred: Tensor
    keys: Tensor


class ScanSimulator(nn.Module):
    """Scans micrographs along given paths; it has no state but their dwell maps.

    An example's path, flip, rotation and noise depend on seed, step and position alone, so that it
    gives the same scan in any batch on any worker.

    Args:
        paths: Of the probe, of the micrographs' shape; each example is scanned along one of them.
        noise: How the detector sees a micrograph.
        augment: Apply one of the 8 flips and rotations, at random.
        blur_sigma_px: Of the truth's 5x5 Gaussian blur.
        seed: Of the run.
        contrast: Change the micrographs' tone curves at random, see `augment.change_contrast`.
        noisy_fraction: Of the examples; the detector sees the others without noise.
        sample: Which image the probe measures: the paper's text has the blurred truth, the
            published code the original.

    Raises:
        ValueError: The arguments do not fit together.
    """

    dwell: Tensor  # of each path [p, 1, h, w]
    pixels: Tensor  # in which it is not 0 [p, n]

    def __init__(
        self,
        paths: ScanPath | Sequence[ScanPath],
        noise: NoiseModel,
        augment: bool,
        blur_sigma_px: float,
        seed: int,
        sample: Literal["blurred", "original"] = "blurred",
        *,
        contrast: bool = False,
        noisy_fraction: float = 1.0,
    ) -> None:
        super().__init__()
        paths = [paths] if isinstance(paths, ScanPath) else list(paths)
        shapes = {path.shape for path in paths}
        if len(shapes) != 1:
            raise ValueError(f"expected paths of one shape, got {sorted(shapes)}")
        (shape,) = shapes
        if augment and shape[0] != shape[1]:
            raise ValueError(f"augment needs square images, got {shape}")
        if not 0 <= noisy_fraction <= 1:
            raise ValueError(f"noisy_fraction must be in [0, 1], got {noisy_fraction}")
        if blur_sigma_px <= 0:
            raise ValueError(f"blur_sigma_px must be positive, got {blur_sigma_px}")
        if sample not in ("blurred", "original"):
            raise ValueError(f'sample must be "blurred" or "original", got {sample!r}')
        # Paths are part of the config: a checkpoint need not repeat their maps.
        maps = [path.dwell_map() for path in paths]
        self.register_buffer("dwell", torch.stack(maps)[:, None], persistent=False)
        self.register_buffer("pixels", _measured_pixels(maps), persistent=False)
        self.noise = noise
        self.augment = augment
        self.blur_sigma_px = blur_sigma_px
        self.seed = seed
        self.sample = sample
        self.contrast = contrast
        self.noisy_fraction = noisy_fraction

    def forward(self, images: Tensor, step: int | Tensor, positions: Tensor) -> SimulatedBatch:
        """Scans of `images` [b, 1, h, w] in [-1, 1].

        Args:
            images: Micrographs.
            step: Of the run; a 0-dimensional int64 tensor avoids recompilation.
            positions: Of the examples in the global batch `[b]` int64.
        """
        keys = random.example_keys(self.seed, step, positions, stream=0)

        # The scan and the truth see the same image.
        if self.augment:
            images = flip_rotate(images, random.integers(random.fold_in(keys, _AUGMENTATION), 8))
        if self.contrast:
            images = change_contrast(images, random.fold_in(keys, _CONTRAST))
        truth = blur(images, self.blur_sigma_px)

        measured = truth if self.sample == "blurred" else images
        dwell, pixels = self.dwell, self.pixels
        if len(dwell) > 1:
            path = random.integers(random.fold_in(keys, _PATH), len(dwell))
            dwell, pixels = dwell[path], pixels[path]
        noise = self.noise
        if self.noisy_fraction < 1:
            chance = random.uniform(random.fold_in(keys, _IS_NOISY), (1,))
            noise = SomeNoise(noise, (chance < self.noisy_fraction).float())
        scan = acquire(measured, dwell, noise, random.fold_in(keys, _NOISE), pixels)
        return SimulatedBatch(scan, truth, images, keys)


def _measured_pixels(maps: Sequence[Tensor]) -> Tensor:
    """Flat indices [p, n] of the pixels with dwell in each map; short rows repeat their first."""
    rows = [dwell.flatten().nonzero()[:, 0] for dwell in maps]
    padded = pad_sequence(rows, batch_first=True, padding_value=-1)
    return torch.where(padded < 0, padded[:, :1], padded)
