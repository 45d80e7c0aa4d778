"""Detection pixel by pixel, as in the published code: image, dwell and keys -> intensities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.filters import REFERENCE_BLUR_SIGMA_PX, blur


class NoiseModel(Protocol):
    """How an image is measured in each pixel."""

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


def values_at(pixels: Tensor, images: Tensor) -> Tensor:
    """Values [b or 1, n] of `images` [b or 1, 1, h, w] at `pixels` [b or 1, n]."""
    num_images = max(len(images), len(pixels))
    return images.flatten(1).expand(num_images, -1).gather(1, pixels.expand(num_images, -1))


def _stretched_at(pixels: Tensor, images: Tensor) -> Tensor:
    """Values [b, n] at `pixels` of images, each stretched to [-1, 1]; constant images become 0."""
    low, high = images.flatten(1).amin(1, keepdim=True), images.flatten(1).amax(1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    return (values_at(pixels, images) - middle) / torch.where(half > 0, half, 1)
