"""Augmentation: random parts, magnifications, flips, rotations and contrasts of micrographs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.filters import filter_mirrored
from stem_complete.scan.random import KeysOf, Stream

LARGEST_GAMMA = 2.0
SMOOTHING_PX = (0.7, 5.0)
"""From what pixel noise survives to what leaves shapes alone: smallest and largest width."""


@dataclass(frozen=True)
class Augmentation:
    """Random variations of square training micrographs, functions of their examples' keys.

    Attributes:
        max_zoom: Largest magnification of the parts that replace the micrographs, see `magnify`.
        crop_px: Size of these parts [px], which are then also turned by any angle; None is the size
            of the micrographs.
        contrast: Change tone curves and invert half of the images, see `change_contrast`.
        sharp_fraction: Fraction of the parts that are cut out pixel by pixel, at magnification 1.
            Others are interpolated, which smooths the noise of a micrograph.
        overlay: Lay two parts of each micrograph over each other, see `overlaid`.
        smooth_fraction: Fraction of the parts, or their sums, that are made smooth, see `smoothed`.
    """

    max_zoom: float = 1.0
    crop_px: int | None = None
    contrast: bool = False
    sharp_fraction: float = 0.0
    overlay: bool = False
    smooth_fraction: float = 0.0

    def __call__(self, images: Tensor, keys: KeysOf) -> Tensor:
        """Variations of `images` [b, 1, h, h] in [-1, 1], of `crop_px` each way if that is set."""
        parts = self._part(images, keys(Stream.PARTS))
        if self.overlay:
            others = self._part(images, keys(Stream.OTHER_PARTS))
            # One that is as large as the micrograph would be laid over itself.
            others = flip_rotate(others, random.integers(keys(Stream.OTHER_FLIPS), 8))
            parts = overlaid(parts, others, random.uniform(keys(Stream.OVERLAY), (1, 1, 1)))
        images = parts
        if self.smooth_fraction:
            draws = random.uniform(keys(Stream.SMOOTHING), (2, 1, 1, 1))
            smooth = smoothed(images, draws[:, 0])
            images = torch.where(draws[:, 1] < self.smooth_fraction, smooth, images)
        images = flip_rotate(images, random.integers(keys(Stream.FLIPS), 8))
        if self.contrast:
            exponent = 2 * random.uniform(keys(Stream.TONE_CURVE), (1, 1, 1)) - 1
            invert = random.uniform(keys(Stream.INVERSION), (1, 1, 1)) < 0.5
            images = change_contrast(images, LARGEST_GAMMA**exponent, invert)
        return images

    def _part(self, images: Tensor, keys: Tensor) -> Tensor:
        if self.max_zoom == 1 and self.crop_px is None:
            return images
        return magnify(
            images, keys, self.max_zoom, size=self.crop_px, sharp_fraction=self.sharp_fraction
        )


def overlaid(images: Tensor, others: Tensor, phase: Tensor) -> Tensor:
    """Weighted sums of two images each, as of specimens that lie over each other.

    There are as many of them as pairs of parts of a micrograph, which no network learns by heart.

    Args:
        images: `[b, 1, h, w]`.
        others: Of the same shape.
        phase: Uniform in [0, 1), `[b, 1, 1, 1]`. The other image's share is `sin^2(pi phase / 2)`:
            mostly small or large, so that single specimens are not rare.
    """
    share = torch.sin(phase * (math.pi / 2)) ** 2
    return images + share * (others - images)


def smoothed(images: Tensor, draw: Tensor) -> Tensor:
    """Images filtered by a Gaussian each, as of specimens that are smooth at the size of a pixel.

    The noise of a micrograph is part of the truth that networks learn to return. Where all training
    micrographs have some, networks take the noise of a scan of a smooth specimen for such.

    Args:
        images: `[b, 1, h, w]`, sides of at least 16 px.
        draw: Uniform in [0, 1), `[b, 1, 1, 1]`. Logarithms of widths are uniformly distributed
            over `SMOOTHING_PX`.
    """
    smallest, largest = SMOOTHING_PX
    sigma = smallest * (largest / smallest) ** draw
    taps = [torch.exp(-0.5 * (distance / sigma) ** 2) for distance in range(int(3 * largest) + 1)]
    total = 2 * sum(taps[1:]) + taps[0]
    return filter_mirrored(images, [tap / total for tap in taps])


def flip_rotate(images: Tensor, choice: Tensor) -> Tensor:
    """`images` [b, 1, h, h], each under one of the 8 symmetries of the square.

    Args:
        images: Square images.
        choice: 0 .. 7 per image `[b]` int64: its bit 4 swaps x and y, then bit 2 flips y and
            bit 1 flips x.

    Raises:
        ValueError: The images are not square.
    """
    side = images.shape[-1]
    if images.shape[1:] != (1, side, side):
        raise ValueError(f"flips and rotations need square images, got {list(images.shape)}")
    # Each symmetry walks through the pixels at other steps from another corner.
    swap, flip_y, flip_x = (((choice & bit) > 0).long() for bit in (4, 2, 1))
    down, across = side + swap * (1 - side), 1 + swap * (side - 1)
    corner = (side - 1) * (flip_y * down + flip_x * across)
    steps = torch.arange(side, device=images.device)
    rows = corner[:, None] + (1 - 2 * flip_y)[:, None] * down[:, None] * steps
    columns = (1 - 2 * flip_x)[:, None] * across[:, None] * steps
    places = (rows[:, :, None] + columns[:, None, :]).flatten(1)
    return images.flatten(1).gather(1, places).view_as(images)


def magnify(
    images: Tensor,
    keys: Tensor,
    max_zoom: float,
    *,
    size: int | None = None,
    sharp_fraction: float = 0.0,
) -> Tensor:
    """A part of each image, at another magnification, by bilinear interpolation.

    Its place is random. Small parts of sharp images are smooth, as oversampled micrographs are.

    Args:
        images: `[b, 1, h, w]`.
        keys: Keys of the examples `[b]`.
        max_zoom: Largest zoom, at least 1; logarithms of zooms are uniformly distributed.
        size: With None, parts are enlarged to the size of the image, and the smallest zoom is 1.
            Otherwise they are turned by any angle and returned as `[b, 1, size, size]`, with a size
            of at most h and w; the smallest zoom then shows the whole shorter side. Where a turned
            part reaches beyond the image, the image is mirrored.
        sharp_fraction: Fraction of the parts that are neither magnified nor turned, and begin at
            whole pixels.

    Raises:
        ValueError: The zoom or the size is impossible.
    """
    b, _, h, w = images.shape
    if max_zoom < 1:
        raise ValueError(f"max_zoom must be at least 1, got {max_zoom}")
    if size is not None and not 0 < size <= min(h, w):
        raise ValueError(f"parts of images of {h} x {w} px cannot have {size} px")
    height, width = (h, w) if size is None else (size, size)
    draws = random.uniform(keys, (5 if sharp_fraction else 4,))
    smallest = 1.0 if size is None else size / min(h, w)
    zoom = smallest * (max_zoom / smallest) ** draws[:, 0]
    angle = 2 * math.pi * draws[:, 3] * (size is not None)
    if sharp_fraction:
        sharp = draws[:, 4] < sharp_fraction
        zoom, angle = torch.where(sharp, 1, zoom), torch.where(sharp, 0, angle)
    part = torch.stack((width / w / zoom, height / h / zoom), 1)  # as fractions of the image
    place = draws[:, 1:3]
    if sharp_fraction:
        steps = torch.tensor([w - width, h - height], device=images.device)
        whole = (place * (steps + 1)).floor().minimum(steps) / steps.clamp(min=1)
        place = torch.where(sharp[:, None], whole, place)
    centre = (1 - part) * (2 * place - 1)
    cos, sin = angle.cos(), angle.sin()
    # Angles are those of square pixels; the image spans -1 to 1 in both directions.
    rows = torch.stack(
        (
            part[:, 0] * cos,
            -part[:, 0] * sin * (height / width),
            centre[:, 0],
            part[:, 1] * sin * (width / height),
            part[:, 1] * cos,
            centre[:, 1],
        ),
        dim=1,
    )
    grid = F.affine_grid(rows.view(-1, 2, 3), [b, 1, height, width], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def change_contrast(images: Tensor, gamma: Tensor, invert: Tensor) -> Tensor:
    """`images` [b, 1, h, w] stretched to [0, 1], to the power of `gamma`, stretched to [-1, 1].

    Bright specimens on dark ground, the reverse, and all between; constant images become -1 or 1.

    Args:
        images: Images.
        gamma: Exponents `[b, 1, 1, 1]`.
        invert: Which images are negated afterwards `[b, 1, 1, 1]` bool.
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    unit = (images - low) / torch.where(high > low, high - low, 1)
    stretched = 2 * unit**gamma - 1
    return torch.where(invert, -stretched, stretched)
