"""A first completion without a network: local means or a membrane through what was measured."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.acquire import PartialScan

SIGMA_PITCHES = 0.4
"""Width of the Gaussian in distances between the spiral's turns: 8 px at coverage 1/20."""

_SWEEPS = 6  # of the relaxation at each scale; 16 lower the fill's errors by 1 %
_FLOPPY = 0.01  # stiffness [px^2] of a plate that bends like a membrane
_SPREAD = 20.0  # between the fastest and the slowest error that a scale has to damp

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


def spline_fill(
    scan: PartialScan, *, fidelity: float, dwell_exponent: float, stiffness: float
) -> Tensor:
    """Images [b, 1, h, w] of a plate under tension that springs pull to what was measured.

    Nearly the least sum of |grad u|^2 + s (laplace u)^2 + f w (u - I)^2, as in
    `evaluation.baselines.spline`, by a cascade of grids (Bornemann and Deuflhard 1996,
    doi:10.1007/s002110050234): relaxed on the coarsest, then enlarged and relaxed again on each
    finer one, by the Chebyshev method. It fits any coverage and takes some hundredths of the time
    of solving the equations; on micrographs it errs 1 % more at 1/50, 5 % more at 1/20.

    Args:
        scan: Partial scans.
        fidelity: Stiffness f of the springs.
        dwell_exponent: Of w = dwell^exponent, which has a mean of 1 over the measured pixels.
        stiffness: Of the plate, s [px^2].
    """
    h, w = scan.dwell.shape[-2:]
    num_levels = max(min(h, w).bit_length() - 2, 0)
    multiple = 2**num_levels
    tiny = torch.finfo(scan.dwell.dtype).tiny
    # Where nothing was measured 0, without a mask, which takes much longer on CPUs.
    measured = scan.dwell / scan.dwell.clamp(min=tiny)
    weight = measured * scan.dwell.clamp(max=1) ** dwell_exponent
    share = weight / _sum(weight).clamp(min=tiny)
    intensity = scan.intensity.nan_to_num(0.0, math.inf, -math.inf)
    mean = _sum(share * intensity)
    # About the mean, so that a small contrast on a large offset survives in float32.
    springs = fidelity * _sum(measured) * share
    pulls = torch.cat((springs * (intensity - mean), springs), dim=1)
    levels = [F.pad(pulls, (0, -w % multiple, 0, -h % multiple))]
    for _ in range(num_levels):
        levels.append(4 * F.avg_pool2d(levels[-1], 2))
    plate = torch.zeros_like(levels[-1][:, :1])
    for level in range(num_levels, -1, -1):
        if plate.shape[-1] != levels[level].shape[-1]:
            plate = F.interpolate(plate, scale_factor=2, mode="bilinear")
        pull, stiff = torch.split(levels[level], 1, dim=1)
        plate = _relax(plate, pull, stiff, stiffness / 4**level)
    return mean + plate[..., :h, :w]


def _relax(u: Tensor, pull: Tensor, springs: Tensor, stiffness: float) -> Tensor:
    """`u` nearer to where L u + s L L u + springs u = pull, L being minus the Laplacian.

    Chebyshev iteration (Saad 2003, Iterative methods for sparse linear systems, algorithm 12.1) on
    the equation over its diagonal, whose eigenvalues are at most `fastest`.
    """
    fastest = (8 + 64 * stiffness) / (4 + 20 * stiffness)
    centre, radius = fastest * (1 + 1 / _SPREAD) / 2, fastest * (1 - 1 / _SPREAD) / 2
    inverse = 1 / (4 + 20 * stiffness + springs)
    ratio = radius / centre
    force = inverse * _force(u, pull, springs, stiffness)
    change = force / centre
    for _ in range(_SWEEPS - 1):
        u = u + change
        force = inverse * _force(u, pull, springs, stiffness)
        last, ratio = ratio, 1 / (2 * centre / radius - ratio)
        change = ratio * last * change + (2 * ratio / radius) * force
    return u + change


def _force(u: Tensor, pull: Tensor, springs: Tensor, stiffness: float) -> Tensor:
    """What is left over of the equation at `u`."""
    bent = _minus_laplacian(u)
    rest = pull - springs * u - bent
    # On coarse grids the plate's own stiffness is next to nothing, and costs as much.
    return rest - stiffness * _minus_laplacian(bent) if stiffness > _FLOPPY else rest


def _minus_laplacian(images: Tensor) -> Tensor:
    """Five-point stencil; beyond the border, the image goes on as it ends."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows, columns = padded[..., 1:-1], padded[..., 1:-1, :]
    neighbours = rows[..., :-2, :] + rows[..., 2:, :] + columns[..., :-2] + columns[..., 2:]
    return 4 * images - neighbours


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


def _sum(images: Tensor) -> Tensor:
    return images.sum((1, 2, 3), keepdim=True)


def _mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3), keepdim=True)
