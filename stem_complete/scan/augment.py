"""More micrographs out of few: the same specimen at other magnifications and contrasts."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan import random
from stem_complete.scan.filters import check_images

_ZOOM, _GAMMA, _INVERT = 0, 1, 2  # what random numbers are for
LARGEST_GAMMA = 2.0


def flip_rotate(images: Tensor, choice: Tensor) -> Tensor:
    """`images` [b, 1, h, h], each under one of the 8 symmetries of the square.

    Args:
        images: Square images.
        choice: 0 .. 7 per image `[b]` int64: its bit 4 swaps x and y, then bit 2 flips y and
            bit 1 flips x.

    Raises:
        ValueError: The images are not square.
    """
    check_images(images)
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


def magnify(images: Tensor, keys: Tensor, max_zoom: float, *, size: int | None = None) -> Tensor:
    """A part of each image, at another magnification, by bilinear interpolation.

    It lies anywhere. Small parts of sharp images are smooth ones, as oversampled micrographs are.

    Args:
        images: `[b, 1, h, w]`.
        keys: Of the examples `[b]`, see `random.example_keys`.
        max_zoom: Largest of the zooms, whose logarithms are uniformly distributed; at least 1.
        size: None: parts are enlarged to the whole image, from a zoom of 1 on. Else they are turned
            by any angle and come as `[b, 1, size, size]`, at most h and w; the smallest zoom shows
            the whole shorter side. What a turned part lacks is mirrored.

    Raises:
        ValueError: The zoom or the size is impossible.
    """
    b, _, h, w = images.shape
    if max_zoom < 1:
        raise ValueError(f"max_zoom must be at least 1, got {max_zoom}")
    if size is not None and not 0 < size <= min(h, w):
        raise ValueError(f"parts of images of {h} x {w} px cannot have {size} px")
    height, width = (h, w) if size is None else (size, size)
    draws = random.uniform(random.fold_in(keys, _ZOOM), (4,))
    smallest = 1.0 if size is None else size / min(h, w)
    zoom = smallest * (max_zoom / smallest) ** draws[:, 0]
    part = torch.stack((width / w / zoom, height / h / zoom), 1)  # of the image, each way
    centre = (1 - part) * (2 * draws[:, 1:3] - 1)
    angle = 2 * math.pi * draws[:, 3] * (size is not None)
    cos, sin = angle.cos(), angle.sin()
    # Angles are those of square pixels, the image spans -1 to 1 either way.
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


def change_contrast(images: Tensor, keys: Tensor) -> Tensor:
    """Images with another tone curve, stretched to [-1, 1] again, half of them inverted.

    On [0, 1] intensities become `x ** gamma` with the logarithm of gamma uniform between those of
    1/2 and 2: bright specimens on dark ground, the reverse, and all between.

    Args:
        images: `[b, 1, h, w]`; constant ones become -1 or 1.
        keys: Of the examples `[b]`.
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    unit = (images - low) / torch.where(high > low, high - low, 1)
    exponent = 2 * random.uniform(random.fold_in(keys, _GAMMA), (1, 1, 1)) - 1
    stretched = 2 * unit ** (LARGEST_GAMMA**exponent) - 1
    invert = random.uniform(random.fold_in(keys, _INVERT), (1, 1, 1)) < 0.5
    return torch.where(invert, -stretched, stretched)
