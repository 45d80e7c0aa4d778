"""Noise models: image, dwell and random keys -> measured intensities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.filters import REFERENCE_BLUR_SIGMA_PX, blur


class NoiseModel(Protocol):
    """How a detector sees an image."""

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
        """Intensities `[b, n]` in some pixels; any number where the dwell is 0.

        Args:
            image: `[b, 1, h, w]` in [-1, 1].
            dwell: In those pixels `[b or 1, n]`.
            keys: Of the examples `[b]`.
            pixels: Their flat indices in an image `[b or 1, n]` int64.
        """
        ...


@dataclass(frozen=True)
class NoNoise:
    """The measured intensity is the image's."""

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:  # noqa: ARG002
        """`image` itself."""
        return values_at(pixels, image)


@dataclass(frozen=True)
class ReferenceNoise:
    """The published code's detection `d (d x + 2 (1 - d) U b)`, divided by the dwell d.

    U is uniform in [0, 1) per pixel, b the 5x5 blur of the image x, stretched to [-1, 1] by its
    own minimum and maximum: short dwell is noisier, and biased towards b (partial-STEM, 2020).
    """

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
        """Intensities `[b, n]` in `pixels`."""
        # The published dwell never exceeds 1; more than that is as good as 1.
        dwell = dwell.clamp(max=1)
        background = _stretched_at(pixels, blur(image, REFERENCE_BLUR_SIGMA_PX))
        chance = random.uniform_at(keys, pixels)
        return dwell * values_at(pixels, image) + 2 * (1 - dwell) * chance * background


@dataclass(frozen=True)
class DetectorNoise:
    """Poisson counting of electrons, then Gaussian readout noise.

    Attributes:
        dose_electrons_per_px: Electrons that a full pixel dwell of intensity 1 counts; an
            intensity of -1 counts none.
        readout_std_electrons: Standard deviation of the readout of one pixel.
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
        electrons = random.poisson_at(random.fold_in(keys, 0), rate, pixels)
        if self.readout_std_electrons:
            readout = random.normal_at(random.fold_in(keys, 1), pixels)
            electrons = electrons + self.readout_std_electrons * readout
        return 2 * electrons / full - 1


@dataclass(frozen=True)
class SomeNoise:
    """Some images with noise, others without.

    Attributes:
        noise: Of the former.
        share: Of the noise in each image [b, 1]: 1 with it, 0 without.
    """

    noise: NoiseModel
    share: Tensor

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor, pixels: Tensor) -> Tensor:
        """Intensities `[b, n]` in `pixels`."""
        noisy = self.noise.measure(image, dwell, keys, pixels)
        clean = values_at(pixels, image)
        # Where nothing was measured they may be anything, so they are chosen and not weighed.
        return torch.where(self.share > 0, noisy, clean)


def values_at(pixels: Tensor, images: Tensor) -> Tensor:
    """Values [b or 1, n] of `images` [b or 1, 1, h, w] at `pixels` [b or 1, n]."""
    num_images = max(len(images), len(pixels))
    return images.flatten(1).expand(num_images, -1).gather(1, pixels.expand(num_images, -1))


def _stretched_at(pixels: Tensor, images: Tensor) -> Tensor:
    """Values [b, n] of images that are scaled to [-1, 1] by their own minimum and maximum.

    A constant image becomes 0.
    """
    low, high = images.flatten(1).amin(1, keepdim=True), images.flatten(1).amax(1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    return (values_at(pixels, images) - middle) / torch.where(half > 0, half, 1)
