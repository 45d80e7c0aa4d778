"""A first completion without a network: normalised convolution of what was measured."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.acquire import PartialScan

SIGMA_PITCHES = 0.4
"""Width of the Gaussian in distances between the spiral's turns: 8 px at coverage 1/20."""

_COARSER_WEIGHT = 0.003  # of the next level, beside a full dwell; 0.001 to 0.01 are as good

_TRUNCATE = 4.0  # standard deviations at which the Gaussian ends


def fill_sigma_px(coverage: float) -> float:
    """Width [px] of the Gaussian that bridges the gaps of scans of this mean dwell."""
    return SIGMA_PITCHES / coverage


def normalised_convolution(scan: PartialScan, sigma_px: float) -> Tensor:
    """Images [b, 1, h, w] of dwell-weighted local means, without gaps.

    At each pixel `G * (dwell intensity) / G * dwell` with a Gaussian G (Knutsson and Westin 1993,
    doi:10.1109/CVPR.1993.341081); where nothing was measured within reach, the mean of the scan.

    Args:
        scan: Partial scans.
        sigma_px: Standard deviation of the Gaussian [px].
    """
    weight = scan.dwell.expand_as(scan.intensity)
    intensity = scan.intensity.nan_to_num(0.0, math.inf, -math.inf)
    mean = _mean(weight * intensity) / _mean(weight).clamp(min=torch.finfo(weight.dtype).tiny)
    # About the mean, so that a small contrast on a large offset survives in float32.
    sums = torch.cat((weight * (intensity - mean), weight), dim=1)
    blurred, reach = gaussian(sums, sigma_px).chunk(2, dim=1)
    # So little weight lies beyond the Gaussian's end, where only rounding is left.
    reached = reach > 1e-6
    return mean + torch.where(reached, blurred / torch.where(reached, reach, 1), 0)


def pyramid_fill(scan: PartialScan) -> Tensor:
    """Images [b, 1, h, w] of local means over as large a region as it takes, without gaps.

    The scan is averaged to half its size again and again, weighted by the square of its dwell, as
    a short dwell is the noisier one. Back from the coarsest, each level takes its own means as far
    as their weight exceeds a small one of the coarser level's (Gortler et al. 1996,
    doi:10.1145/237170.237200, section 3.4). So it fits any coverage, and scans of several at once.

    Args:
        scan: Partial scans.
    """
    h, w = scan.dwell.shape[-2:]
    num_levels = min(h, w).bit_length() - 1
    multiple = 2**num_levels
    weight = scan.dwell.clamp(max=1).square()
    intensity = scan.intensity.nan_to_num(0.0, math.inf, -math.inf)
    mean = _mean(weight * intensity) / _mean(weight).clamp(min=torch.finfo(weight.dtype).tiny)
    # About the mean, so that a small contrast on a large offset survives in float32.
    sums = torch.cat((weight * (intensity - mean), weight), dim=1)
    levels = [F.pad(sums, (0, -w % multiple, 0, -h % multiple))]
    for _ in range(num_levels):
        levels.append(_halve(levels[-1]))
    filled = torch.zeros_like(levels[-1][:, :1])  # the mean
    for total, reach in reversed([torch.split(level, 1, dim=1) for level in levels]):
        if filled.shape != total.shape:
            filled = F.interpolate(filled, scale_factor=2, mode="bilinear")
        filled = (total + _COARSER_WEIGHT * filled) / (reach + _COARSER_WEIGHT)
    return mean + filled[..., :h, :w]


def _halve(images: Tensor) -> Tensor:
    """Images [b, c, h / 2, w / 2], each way under weights [1 3 3 1] / 8; nothing lies beyond."""
    b, c, h, w = images.shape
    taps = torch.arange(4, device=images.device)
    kernel = (1 + 2 * ((taps == 1) | (taps == 2))).to(images.dtype) / 8
    flat = images.reshape(b * c, 1, h, w)
    return F.conv2d(flat, torch.outer(kernel, kernel)[None, None], stride=2, padding=1).view(
        b, c, h // 2, w // 2
    )


def gaussian(images: Tensor, sigma_px: float) -> Tensor:
    """Images [b, c, h, w] convolved with a Gaussian; nothing lies beyond their borders."""
    radius = max(1, round(_TRUNCATE * sigma_px))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    b, c, h, w = images.shape
    flat = images.reshape(b * c, 1, h, w)
    flat = F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, radius)).view(b, c, h, w)


def _mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3), keepdim=True)
