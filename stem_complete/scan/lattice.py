"""Lattices: plane waves through a whole scan, fitted to what was measured.

Staged orthogonal matching pursuit (Donoho et al. 2012, doi:10.1109/TIT.2011.2173241): frequencies
that stick out of the spectrum of the residual join the waves, then all are fitted by least squares.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.partial_scan import PartialScan, dwell_weights, sum_pixels

# All tuned to the error of first completions of training and validation micrographs.
# Frequencies are chosen whose amplitude exceeds this multiple of the root mean square around them,
# which one in a million waves of noise does.
_THRESHOLD = 3.75
_AROUND = 15  # width of that surrounding along each axis [frequencies], odd
_STAGES = 3  # of the pursuit
_STEPS = 4  # of conjugate gradients per stage
_RIDGE = 0.2  # regularisation of the least squares, in units of the mean weight
_DWELL_EXPONENT = 4.0  # short dwells are noisy, and without them aliases are less regular
# Longest wavelengths in distances between a spiral's turns. Splines bridge longer ones than the
# first, but all up to the second are fitted: their aliases would be taken for shorter waves.
_LONGEST_PITCHES = 4.0
_LONGEST_FITTED_PITCHES = 8.0
_LOWEST_REGULAR = 0.05  # frequency [1 / half-size px]


def plane_waves(scan: PartialScan) -> Tensor:
    """Images [b, 1, h, w] of the plane waves found in partial scans; 0 where none is found.

    A wave through the whole image is measured many times by a spiral, however far apart its turns
    are. Waves shorter than 4 px are left out.

    Args:
        scan: Partial scans.
    """
    h, w = scan.dwell.shape[-2:]
    tiny = torch.finfo(scan.dwell.dtype).tiny
    weight = dwell_weights(scan.dwell, _DWELL_EXPONENT)
    intensity = scan.intensity.nan_to_num(0.0, math.inf, -math.inf)
    # Minus the mean, so that a small contrast on a large offset survives in float32.
    mean = sum_pixels(weight * intensity) / sum_pixels(weight).clamp(min=tiny)
    # At half size, which takes a quarter of the time.
    weighted = F.pad(torch.cat((weight, weight * (intensity - mean)), 1), (0, w % 2, 0, h % 2))
    weight, total = F.avg_pool2d(weighted, 2).chunk(2, dim=1)
    half_pitch = 0.5 / scan.dwell.mean((1, 2, 3), keepdim=True).clamp(min=tiny)
    mean_weight = weight.mean((1, 2, 3), keepdim=True)
    rows, columns, frequency = _frequencies(weight)

    # Minus local means, which keep the shorter waves.
    low_pass = torch.exp(-2 * (torch.pi * half_pitch * frequency).square())
    reach = _filter(weight, low_pass).clamp(min=1e-6 * mean_weight).clamp(min=tiny)
    total = total - weight * _filter(total, low_pass) / reach
    allowed = (frequency > 1 / (_LONGEST_FITTED_PITCHES * half_pitch)) & (frequency < 0.5)

    waves = torch.zeros_like(total)
    chosen = torch.zeros_like(allowed)
    for _ in range(_STAGES):
        power = _spectrum(total - weight * waves).abs().square()
        around = F.avg_pool2d(power, _AROUND, 1, _AROUND // 2, count_include_pad=False)
        strong = (allowed & (power > _THRESHOLD**2 * around)).to(weight.dtype)
        # A wave whose frequency lies between two of the spectrum's needs its neighbours too.
        beside = F.max_pool2d(strong, (3, 1), 1, (1, 0)) + F.max_pool2d(strong, (1, 3), 1, (0, 1))
        chosen = chosen | (allowed & (beside > 0))
        waves = _fit(waves, weight, total, chosen.to(weight.dtype), _RIDGE * mean_weight)

    short = frequency > 1 / (_LONGEST_PITCHES * half_pitch)
    # The centre of a half-size pixel is a quarter of its size beyond its first full-size pixel's.
    shift = torch.exp(-0.5j * torch.pi * (rows + columns))
    enlarged: Tensor = _enlarge(_spectrum(waves) * short * shift, waves.shape)
    return enlarged[..., :h, :w]


def regularity(dwell: Tensor) -> Tensor:
    """How alike the distances between measurements are [b, 1, 1, 1], from 0 to 1.

    It is the strongest frequency of the dwell map, but for the lowest, which a denser middle has
    too. Of a wave that regular lines measure, as every fifth of a raster, no shorter one can be
    told apart.
    """
    h, w = dwell.shape[-2:]
    weight = F.avg_pool2d(F.pad(dwell_weights(dwell, _DWELL_EXPONENT), (0, w % 2, 0, h % 2)), 2)
    power = _spectrum(weight).abs()
    mean = power[..., :1, :1]
    _, _, frequency = _frequencies(weight)
    power = power * (frequency > _LOWEST_REGULAR)
    return power.amax((2, 3), keepdim=True) / mean.clamp(min=torch.finfo(dwell.dtype).tiny)


def _fit(waves: Tensor, weight: Tensor, total: Tensor, chosen: Tensor, ridge: Tensor) -> Tensor:
    """`waves` nearer to the minimum over u of sum(weight (u - total / weight)^2 + ridge u^2).

    Conjugate gradients; u has the chosen frequencies alone.
    """
    tiny = torch.finfo(waves.dtype).tiny
    rest = _filter(total - weight * waves, chosen) - ridge * waves
    direction, size = rest, sum_pixels(rest.square())
    for _ in range(_STEPS):
        push = _filter(weight * direction, chosen) + ridge * direction
        length = size / sum_pixels(direction * push).clamp(min=tiny)
        waves, rest = waves + length * direction, rest - length * push
        last, size = size, sum_pixels(rest.square())
        direction = rest + size / last.clamp(min=tiny) * direction
    return waves


def _frequencies(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies of `images`: along rows [h, 1] and columns [w/2 + 1], and their norm [1/px]."""
    h, w = images.shape[-2:]
    rows = torch.fft.fftfreq(h, device=images.device, dtype=images.dtype)[:, None]
    columns = torch.fft.rfftfreq(w, device=images.device, dtype=images.dtype)
    return rows, columns, torch.hypot(rows, columns)


def _spectrum(images: Tensor) -> Tensor:
    spectrum: Tensor = torch.fft.rfft2(images)
    return spectrum


def _filter(images: Tensor, gain: Tensor) -> Tensor:
    filtered: Tensor = torch.fft.irfft2(_spectrum(images) * gain, s=images.shape[-2:])
    return filtered


def _enlarge(spectrum: Tensor, shape: torch.Size) -> Tensor:
    """Images of twice `shape` from a spectrum of images of `shape`, without Nyquist frequencies."""
    h, w = shape[-2:]
    rows, columns = (h - 1) // 2, (w + 1) // 2
    full = spectrum.new_zeros((*shape[:-2], 2 * h, w + 1))
    full[..., : rows + 1, :columns] = spectrum[..., : rows + 1, :columns]
    full[..., 2 * h - rows :, :columns] = spectrum[..., h - rows :, :columns]
    enlarged: Tensor = 4 * torch.fft.irfft2(full, s=(2 * h, 2 * w))
    return enlarged
