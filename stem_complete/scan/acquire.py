"""Image, dwell map and noise model -> partial scan.

Everything is batched and elementwise without a branch on data, so it compiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.raster import filter_mirrored

_REFERENCE_BLUR_SIGMA_PX = 2.5


class PartialScan(NamedTuple):
    """What a microscope gives back.

    Attributes:
        intensity: Mean over the dwell in each pixel `[b, 1, h, w]`, NaN where not measured.
        dwell: `[b, 1, h, w]` [full pixel dwells], 0 where not measured.
    """

    intensity: Tensor
    dwell: Tensor


class NoiseModel(Protocol):
    """How a detector sees an image."""

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor) -> Tensor:
        """Intensities `[b, 1, h, w]` of `image` in [-1, 1]; any number where `dwell` is 0."""
        ...


@dataclass(frozen=True)
class NoNoise:
    """The measured intensity is the image's."""

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor) -> Tensor:  # noqa: ARG002
        """`image` itself."""
        return image


@dataclass(frozen=True)
class ReferenceNoise:
    """The published code's detection `d (d x + 2 (1 - d) U b)`, divided by the dwell d.

    U is uniform in [0, 1) per pixel, b the 5x5 blur of the image x, stretched to [-1, 1] by its
    own minimum and maximum: short dwell is noisier, and biased towards b (partial-STEM, 2020).
    """

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor) -> Tensor:
        """Intensities `[b, 1, h, w]` of `image` in [-1, 1]."""
        # The published dwell never exceeds 1; more than that is as good as 1.
        dwell = dwell.clamp(max=1)
        background = _stretch(blur(image, _REFERENCE_BLUR_SIGMA_PX))
        chance = random.uniform(keys, tuple(image.shape[1:]))
        return dwell * image + 2 * (1 - dwell) * chance * background


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

    def measure(self, image: Tensor, dwell: Tensor, keys: Tensor) -> Tensor:
        """Intensities `[b, 1, h, w]` of `image` in [-1, 1], scaled back from the counts."""
        full = self.dose_electrons_per_px * dwell
        electrons = random.poisson(random.fold(keys, 0), full * (image + 1) / 2)
        if self.readout_std_electrons:
            readout = random.normal(random.fold(keys, 1), tuple(image.shape[1:]))
            electrons = electrons + self.readout_std_electrons * readout
        return 2 * electrons / full - 1


def acquire(image: Tensor, dwell: Tensor, noise: NoiseModel, keys: Tensor) -> PartialScan:
    """Partial scan of `image` along a dwell map.

    Args:
        image: `[b, 1, h, w]` in [-1, 1].
        dwell: `[b, 1, h, w]`, or `[1, 1, h, w]` for all images [full pixel dwells].
        noise: How the detector sees the image.
        keys: One per example `[b]`, from `example_keys`.

    Raises:
        ValueError: The shapes do not fit.
    """
    _check_images(image)
    if dwell.ndim != 4 or dwell.shape[1:] != image.shape[1:] or len(dwell) not in (1, len(image)):
        raise ValueError(f"dwell {list(dwell.shape)} does not fit images {list(image.shape)}")
    if keys.shape != image.shape[:1]:
        raise ValueError(f"keys must be [{len(image)}], one per image, got {list(keys.shape)}")
    dwell = dwell.expand_as(image)
    intensity = noise.measure(image, dwell, keys)
    return PartialScan(torch.where(dwell > 0, intensity, torch.nan), dwell)


def flip_rotate(images: Tensor, choice: Tensor) -> Tensor:
    """`images` [b, 1, h, h], each under one of the 8 symmetries of the square.

    Args:
        images: Square images.
        choice: 0 .. 7 per image `[b]` int64: its bit 4 swaps x and y, then bit 2 flips y and
            bit 1 flips x.

    Raises:
        ValueError: The images are not square.
    """
    _check_images(images)
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"flips and rotations need square images, got {list(images.shape)}")
    choice = choice.view(-1, 1, 1, 1)
    # In this order: the strides of the first decide those of the result, and transposed ones would
    # slow down all that follows.
    images = torch.where((choice & 4) == 0, images, images.transpose(-1, -2))
    images = torch.where((choice & 2) > 0, images.flip(-2), images)
    return torch.where((choice & 1) > 0, images.flip(-1), images)


def blur(images: Tensor, sigma_px: float = _REFERENCE_BLUR_SIGMA_PX) -> Tensor:
    """`images` [b, 1, h, w] under a 5x5 Gaussian of `sigma_px`, mirrored at the border.

    It equals OpenCV's `GaussianBlur` of size (5, 5) with BORDER_REFLECT_101.
    """
    weights = [math.exp(-(distance**2) / (2 * sigma_px**2)) for distance in range(3)]
    total = weights[0] + 2 * sum(weights[1:])
    return filter_mirrored(images, [weight / total for weight in weights])


def _stretch(images: Tensor) -> Tensor:
    """Each image scaled to [-1, 1] by its own minimum and maximum; a constant one becomes 0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    return (images - middle) / torch.where(half > 0, half, 1)


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be [b, 1, h, w], got {list(images.shape)}")
