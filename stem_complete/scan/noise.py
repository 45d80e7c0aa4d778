"""Noise models: image, dwell and random keys -> measured intensities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.filters import REFERENCE_BLUR_SIGMA_PX, blur

# Numbers that make the keys of a detector's electrons and readout independent.
_ELECTRONS, _READOUT = 0, 1


class NoiseModel(Protocol):
    """How a detector measures an image."""

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
        """Measured intensities `[b, n]` in the given pixels; arbitrary where the dwell is 0.

        Args:
            image: Images `[b, 1, h, w]` in [-1, 1].
            dwell: Dwell in the pixels `[b or 1, n]` [full pixel dwells].
            keys: Keys of the examples `[b]`.
            pixels: Flat indices of the pixels in an image `[b or 1, n]` int64.
        """
        ...


@dataclass(frozen=True)
class NoNoise:
    """Measures the intensities of the image."""

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:  # noqa: ARG002
        """Intensities of `image` `[b, n]` in `pixels`."""
        return values_at(pixels, image)


@dataclass(frozen=True)
class ReferenceNoise:
    """Detection `d (d x + 2 (1 - d) U b)` of the published code, divided by the dwell d.

    x is the image, b its 5x5 blur, stretched to [-1, 1], and U uniform in [0, 1) per pixel. Pixels
    of short dwell are noisier and biased towards b (github.com/Jeffrey-Ede/partial-STEM, 2020).
    """

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
        """Intensities `[b, n]` in `pixels`."""
        # The published dwell never exceeds 1; a longer one is treated as 1.
        dwell = dwell.clamp(max=1)
        background = _stretched_at(pixels, blur(image, REFERENCE_BLUR_SIGMA_PX))
        chance = random.uniform_at(keys, pixels)
        return dwell * values_at(pixels, image) + 2 * (1 - dwell) * chance * background


@dataclass(frozen=True)
class DetectorNoise:
    """Poisson counting of electrons, then Gaussian readout noise.

    Attributes:
        dose_electrons_per_px: Mean number of electrons counted over a full pixel dwell at
            intensity 1; at -1 it is 0.
        readout_std_electrons: Standard deviation of the readout noise of a pixel.
    """

    dose_electrons_per_px: float
    readout_std_electrons: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.dose_electrons_per_px < math.inf:
            raise ValueError(
                f"dose_electrons_per_px must be positive, got {self.dose_electrons_per_px}"
            )
        if not 0 <= self.readout_std_electrons < math.inf:
            raise ValueError(
                f"readout_std_electrons must not be negative, got {self.readout_std_electrons}"
            )

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
        """Intensities `[b, n]` in `pixels`, scaled back from the counts."""
        full = self.dose_electrons_per_px * dwell
        rate = full * (values_at(pixels, image) + 1) / 2
        electrons = random.poisson_at(random.fold_in(keys, _ELECTRONS), rate, pixels)
        if self.readout_std_electrons:
            readout = random.normal_at(random.fold_in(keys, _READOUT), pixels)
            electrons = electrons + self.readout_std_electrons * readout
        return 2 * electrons / full - 1


@dataclass(frozen=True)
class SomeNoise:
    """Noise in some images of a batch and none in the others.

    Attributes:
        noise: Noise model of the noisy images.
        is_noisy: Which images are noisy `[b, 1]` bool.
    """

    noise: NoiseModel
    is_noisy: Tensor

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
        """Intensities `[b, n]` in `pixels`."""
        noisy = self.noise.measure(image, dwell, keys, pixels)
        clean = values_at(pixels, image)
        # Selected rather than multiplied, as intensities may be NaN where the dwell is 0.
        return torch.where(self.is_noisy, noisy, clean)


def values_at(pixels: Tensor, images: Tensor) -> Tensor:
    """Values [b or 1, n] of `images` [b or 1, 1, h, w] at `pixels` [b or 1, n]."""
    num_images = max(len(images), len(pixels))
    return images.flatten(1).expand(num_images, -1).gather(1, pixels.expand(num_images, -1))


def _stretched_at(pixels: Tensor, images: Tensor) -> Tensor:
    """Values [b, n] at `pixels` of images, each stretched to [-1, 1]; constant images become 0."""
    low, high = images.flatten(1).amin(1, keepdim=True), images.flatten(1).amax(1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    return (values_at(pixels, images) - middle) / torch.where(half > 0, half, 1)
