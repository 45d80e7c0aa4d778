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
        return _at(pixels, image)


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
        background = _stretched_at(pixels, blur(image, _REFERENCE_BLUR_SIGMA_PX))
        chance = random.uniform_at(keys, pixels)
        return dwell * _at(pixels, image) + 2 * (1 - dwell) * chance * background


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
        rate = full * (_at(pixels, image) + 1) / 2
        electrons = random.poisson_at(random.fold(keys, 0), rate, pixels)
        if self.readout_std_electrons:
            readout = random.normal_at(random.fold(keys, 1), pixels)
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
        clean = _at(pixels, image)
        # Where nothing was measured they may be anything, so they are chosen and not weighed.
        return torch.where(self.share > 0, noisy, clean)


def acquire(
    image: Tensor,
    dwell: Tensor,
    noise: NoiseModel,
    keys: Tensor,
    pixels: Tensor | None = None,
) -> PartialScan:
    """Partial scan of `image` along a dwell map.

    Args:
        image: `[b, 1, h, w]` in [-1, 1].
        dwell: `[b, 1, h, w]`, or `[1, 1, h, w]` for all images [full pixel dwells].
        noise: How the detector sees the image.
        keys: One per example `[b]`, from `example_keys`.
        pixels: Flat indices `[b or 1, n]` int64 of all pixels in which the dwell may be more than
            0, which saves the noise of the others; None takes them all. The result is the same.

    Raises:
        ValueError: The shapes do not fit.
    """
    _check_images(image)
    if dwell.ndim != 4 or dwell.shape[1:] != image.shape[1:] or len(dwell) not in (1, len(image)):
        raise ValueError(f"dwell {list(dwell.shape)} does not fit images {list(image.shape)}")
    if keys.shape != image.shape[:1]:
        raise ValueError(f"keys must be [{len(image)}], one per image, got {list(keys.shape)}")
    if pixels is None:
        pixels = torch.arange(image[0].numel(), device=image.device)[None]
    visited = _at(pixels, dwell)
    # 1 where measured and NaN elsewhere, in less time than a mask takes on CPUs.
    measured = noise.measure(image, visited, keys, pixels) * (visited / visited)
    intensity = torch.full_like(image, torch.nan)
    intensity.flatten(1).scatter_(1, pixels.expand_as(measured), measured)
    return PartialScan(intensity, dwell.expand_as(image))


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
    # Each symmetry walks through the pixels at other steps from another corner.
    side = images.shape[-1]
    swap, flip_y, flip_x = (((choice & bit) > 0).long() for bit in (4, 2, 1))
    down, across = side + swap * (1 - side), 1 + swap * (side - 1)
    corner = (side - 1) * (flip_y * down + flip_x * across)
    steps = torch.arange(side, device=images.device)
    rows = corner[:, None] + (1 - 2 * flip_y)[:, None] * down[:, None] * steps
    columns = (1 - 2 * flip_x)[:, None] * across[:, None] * steps
    places = (rows[:, :, None] + columns[:, None, :]).flatten(1)
    return images.flatten(1).gather(1, places).view_as(images)


def blur(images: Tensor, sigma_px: float = _REFERENCE_BLUR_SIGMA_PX) -> Tensor:
    """`images` [b, 1, h, w] under a 5x5 Gaussian of `sigma_px`, mirrored at the border.

    It equals OpenCV's `GaussianBlur` of size (5, 5) with BORDER_REFLECT_101.
    """
    weights = [math.exp(-(distance**2) / (2 * sigma_px**2)) for distance in range(3)]
    total = weights[0] + 2 * sum(weights[1:])
    return filter_mirrored(images, [weight / total for weight in weights])


def _at(pixels: Tensor, images: Tensor) -> Tensor:
    """Values [b or 1, n] of `images` [b or 1, 1, h, w] at `pixels` [b or 1, n]."""
    num_images = max(len(images), len(pixels))
    return images.flatten(1).expand(num_images, -1).gather(1, pixels.expand(num_images, -1))


def _stretched_at(pixels: Tensor, images: Tensor) -> Tensor:
    """Values [b, n] of images that are scaled to [-1, 1] by their own minimum and maximum.

    A constant image becomes 0.
    """
    low, high = images.flatten(1).amin(1, keepdim=True), images.flatten(1).amax(1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    return (_at(pixels, images) - middle) / torch.where(half > 0, half, 1)


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be [b, 1, h, w], got {list(images.shape)}")
