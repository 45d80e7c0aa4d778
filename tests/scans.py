"""Seeded images, and partial scans of them, that the tests of `scan` share."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from stem_complete.scan import PartialScan, Stream, archimedean, example_keys, uniform

DWELL = archimedean((96, 128), 1 / 10).dwell_map()[None, None].expand(2, -1, -1, -1)
"""Dwell maps of two spiral scans, [2, 1, 96, 128]."""


def scan_of(image: Tensor, dwell: Tensor = DWELL) -> PartialScan:
    """What a scan without noise measures."""
    return PartialScan(torch.where(dwell > 0, image, torch.nan), dwell)


def smooth_images() -> Tensor:
    """Random images [2, 1, 96, 128] that change over 12 px."""
    noise = np.random.default_rng(0).normal(size=(2, 1, 96, 128))
    return torch.from_numpy(gaussian_filter(noise, (0, 0, 12, 12)) * 30).float()


def images_of(*shape: int) -> Tensor:
    """Random images in [-1, 1]."""
    return uniform(example_keys(0, 1, torch.arange(shape[0]), Stream.NOISE), shape[1:]) * 2 - 1


def keys_of(num: int) -> Tensor:
    """Keys of the random numbers of so many examples."""
    return example_keys(0, 0, torch.arange(num), Stream.NOISE)
