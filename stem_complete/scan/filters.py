"""Gaussian filters of images and of partial scans."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.bands import in_bands
from stem_complete.scan.partial_scan import PartialScan

REFERENCE_BLUR_SIGMA_PX = 2.5
"""Standard deviation of the published code's blur."""

_FILL_SIGMA_PITCHES = 0.4  # tuned width of `fill_sigma_px` in distances between a spiral's turns
_TRUNCATE = 4.0  # standard deviations at which the Gaussian ends


def fill_sigma_px(coverage: float) -> float:
    """Width of the Gaussian that bridges the gaps of scans of this coverage: 8 px at 1/20."""
    return _FILL_SIGMA_PITCHES / coverage


def normalised_convolution(scan: PartialScan, sigma_px: float) -> Tensor:
    """Images [b, 1, h, w] without gaps: dwell-weighted local means of partial scans.

    They are `G * (dwell intensity) / G * dwell` with a Gaussian G (Knutsson and Westin 1993,
    doi:10.1109/CVPR.1993.341081), and the mean of the scan where nothing was measured within reach.
    `evaluation.baselines.normalised_convolution` is the same on the host, as a baseline.

    Args:
        scan: Partial scans.
        sigma_px: Standard deviation of the Gaussian [px].
    """
    weight = scan.dwell.expand_as(scan.intensity)
    intensity = scan.intensity.nan_to_num(0.0, math.inf, -math.inf)
    mean = _mean(weight * intensity) / _mean(weight).clamp(min=torch.finfo(weight.dtype).tiny)
    # Minus the mean, so that a small contrast on a large offset survives in float32.
    sums = torch.cat((weight * (intensity - mean), weight), dim=1)
    blurred, reach = gaussian(sums, sigma_px).chunk(2, dim=1)
    # Smaller weights are rounding errors beyond the end of the Gaussian.
    reached = reach > 1e-6
    return mean + torch.where(reached, blurred / torch.where(reached, reach, 1), 0)


def blur(images: Tensor, sigma_px: float = REFERENCE_BLUR_SIGMA_PX) -> Tensor:
    """`images` [b, 1, h, w] filtered by a 5x5 Gaussian of `sigma_px`, mirrored at the border.

    It equals OpenCV's `GaussianBlur` of size (5, 5) with BORDER_REFLECT_101.
    """
    return filter_mirrored(images, gaussian_taps(sigma_px, 2))


def gaussian_taps(sigma_px: float, reach_px: int) -> list[float]:
    """Weights of a Gaussian that ends at this distance, for `filter_mirrored`; 1 in the sum."""
    weights = [math.exp(-(distance**2) / (2 * sigma_px**2)) for distance in range(reach_px + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]


def filter_mirrored(images: Tensor, taps: Sequence[float | Tensor]) -> Tensor:
    """`images` [..., h, w] filtered symmetrically along rows and columns, mirrored at the border.

    The border pixel is not repeated (OpenCV's BORDER_REFLECT_101). Sums of shifted images, unlike
    convolutions, give an image the same result in every batch and on every device.

    Args:
        images: Images of at least `len(taps)` px along both axes.
        taps: Weights of the centre, the two neighbours, the two second neighbours, ...; numbers, or
            those of each image.
    """
    reach = len(taps) - 1
    for dim in (-1, -2):
        size = images.shape[dim]
        before = images.narrow(dim, 1, reach).flip(dim)
        after = images.narrow(dim, size - 1 - reach, reach).flip(dim)
        padded = torch.cat([before, images, after], dim)
        images = images * taps[0]
        for distance, tap in enumerate(taps[1:], 1):
            before = padded.narrow(dim, reach - distance, size)
            after = padded.narrow(dim, reach + distance, size)
            # In place: fresh memory costs as much as the sums.
            images += (before + after).mul_(tap)
    return images


def gaussian_reach_px(sigma_px: float) -> int:
    """Distance at which the Gaussian of `gaussian` ends [px]."""
    return max(1, round(_TRUNCATE * sigma_px))


def gaussian(images: Tensor, sigma_px: float) -> Tensor:
    """Images [b, c, h, w] convolved with a Gaussian; they are 0 beyond their borders."""
    radius = gaussian_reach_px(sigma_px)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = kernel / kernel.sum()

    def convolved(images: Tensor) -> Tensor:
        b, c, h, w = images.shape
        flat = images.reshape(b * c, 1, h, w)
        flat = F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(radius, 0))
        return F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, radius)).view(b, c, h, w)

    return in_bands(convolved, images, halo=radius)


def _mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3), keepdim=True)
