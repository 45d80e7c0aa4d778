"""More micrographs out of few: the same specimen at other magnifications and contrasts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan import random

_ZOOM, _GAMMA, _INVERT = 0, 1, 2  # what random numbers are for
LARGEST_GAMMA = 2.0


def magnify(images: Tensor, keys: Tensor, max_zoom: float) -> Tensor:
    """A part of each image, enlarged to the whole by bilinear interpolation.

    The part's side is the image's over a zoom whose logarithm is uniform in [0, log max_zoom]; it
    lies anywhere. Small parts of sharp images are smooth ones, as oversampled micrographs are.

    Args:
        images: `[b, 1, h, w]`.
        keys: Of the examples `[b]`, see `random.example_keys`.
        max_zoom: At least 1.
    """
    draws = random.uniform(random.fold(keys, _ZOOM), (3,))
    side = max_zoom ** -draws[:, 0]
    centre = (1 - side)[:, None] * (2 * draws[:, 1:] - 1)
    zeros = torch.zeros_like(side)
    rows = torch.stack((side, zeros, centre[:, 0], zeros, side, centre[:, 1]), dim=1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
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
    exponent = 2 * random.uniform(random.fold(keys, _GAMMA), (1, 1, 1)) - 1
    stretched = 2 * unit ** (LARGEST_GAMMA**exponent) - 1
    invert = random.uniform(random.fold(keys, _INVERT), (1, 1, 1)) < 0.5
    return torch.where(invert, -stretched, stretched)
