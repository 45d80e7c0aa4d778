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
# Its power must also exceed this multiple of the power that aliases of all other waves have there:
# a path that repeats itself measures long waves as short ones.
_LEAST_TO_ALIASES = 3.0
_NEAREST_ALIAS = 3.0  # smallest distance of an alias from its wave [frequencies]
# A path repeats itself at frequencies whose power exceeds this multiple of the power around them.
_REPEATED = 4.0
_STAGES = 3  # of the pursuit
_STEPS = 4  # of conjugate gradients per stage
_RIDGE = 0.2  # regularisation of the least squares, in units of the mean weight
_DWELL_EXPONENT = 4.0  # short dwells are noisy, and without them aliases are less regular
# Longest wavelengths in gaps between a spiral's turns, which are one pixel wide. Splines bridge
# longer ones than the first, but all up to the second are fitted: their aliases would be taken for
# shorter waves.
_LONGEST_GAPS = 4.0
_LONGEST_FITTED_GAPS = 8.0


def plane_waves(scan: PartialScan) -> Tensor:
    """Images [b, 1, h, w] of the plane waves found in partial scans; 0 where none is found.

    A wave through the whole image is measured many times by a spiral, however far apart its turns
    are. Waves shorter than 4 px are left out, and what may be aliases of other waves.

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
    half_gap = (half_pitch - 0.5).clamp(min=0)
    allowed = (frequency > 1 / (_LONGEST_FITTED_GAPS * half_gap)) & (frequency < 0.5)
    aliases = _Aliases(weight)

    waves = torch.zeros_like(total)
    chosen = torch.zeros_like(allowed)
    for _ in range(_STAGES):
        power = _spectrum(total - weight * waves).abs().square()
        least = (_THRESHOLD**2 * _around(power)).maximum(_LEAST_TO_ALIASES * aliases.of(power))
        strong = (allowed & (power > least)).to(weight.dtype)
        # A wave whose frequency lies between two of the spectrum's needs its neighbours too.
        beside = F.max_pool2d(strong, (3, 1), 1, (1, 0)) + F.max_pool2d(strong, (1, 3), 1, (0, 1))
        chosen = chosen | (allowed & (beside > 0))
        waves = _fit(waves, weight, total, chosen.to(weight.dtype), _RIDGE * mean_weight)

    short = frequency > 1 / (_LONGEST_GAPS * half_gap)
    # The centre of a half-size pixel is a quarter of its size beyond its first full-size pixel's.
    shift = torch.exp(-0.5j * torch.pi * (rows + columns))
    enlarged: Tensor = _enlarge(_spectrum(waves) * short * shift, waves.shape)
    return enlarged[..., :h, :w]


class _Aliases:
    """What waves look like at other frequencies, by where they are measured.

    Args:
        weight: Weights of the measurements `[b, 1, h, w]`.
    """

    def __init__(self, weight: Tensor) -> None:
        self._shape = h, w = weight.shape[-2:]
        rows, columns, _ = _frequencies(weight)
        power = _spectrum(weight).abs().square()
        largest = power[..., :1, :1].clamp(min=torch.finfo(weight.dtype).tiny)
        others = torch.hypot(rows * h, columns * w) >= _NEAREST_ALIAS
        share = power / largest * (others & (power > _REPEATED * _around(power * others)))
        self._share = torch.fft.irfft2(share, s=self._shape)

    def of(self, power: Tensor) -> Tensor:
        """Mean power of the aliases at each frequency of waves of such powers and any phases."""
        h, w = self._shape
        product = self._share * torch.fft.irfft2(power, s=self._shape)
        aliases: Tensor = h * w * _spectrum(product).real
        return aliases


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


def _around(power: Tensor) -> Tensor:
    """Mean power around each frequency."""
    return F.avg_pool2d(power, _AROUND, 1, _AROUND // 2, count_include_pad=False)


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
