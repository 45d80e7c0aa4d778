"""Blocks with a skip: residual and spectral ones."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from stem_complete.models.layers import LayerOptions, WeightNormConv2d


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions and one skip over them all; nothing after the sum."""

    def __init__(self, width: int, **options: Unpack[LayerOptions]) -> None:
        super().__init__()
        layers = [WeightNormConv2d(width, width, **options) for _ in range(3)]
        layers[-1].ends_branch = True
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """`x` plus the branch, `[b, width, h, w]`."""
        residual: Tensor = self.layers(x)
        return x + residual


class SpectralBlock(nn.Module):
    """Multiplies the image's spectrum by gains that depend on its surroundings, with one skip.

    The block sees the whole image at once, so it can continue a lattice where nothing was measured:
    it amplifies what sticks out of the spectrum and drops the rest, as a Wiener filter does. Phases
    stay, so the lattice stays in place. Half of the channels are transformed, as in LaMa's Fourier
    convolutions (Suvorov et al. 2022, arXiv:2109.07161, section 2.1), which convolve real and
    imaginary parts instead; `width` is even.
    """

    def __init__(self, width: int, **options: Unpack[LayerOptions]) -> None:
        super().__init__()
        self.entry = WeightNormConv2d(width, width // 2, 1, **options)
        # Its mean norm or bias sets the noise floor above which it amplifies.
        self.gain = WeightNormConv2d(width // 2, width // 2, **options)
        self.exit = WeightNormConv2d(width // 2, width, 1, **options)
        self.exit.ends_branch = True

    def forward(self, x: Tensor) -> Tensor:
        """`x` plus the branch, `[b, width, h, w]`."""
        # Fourier transforms know no bfloat16. Of a large image nothing is kept longer than needed.
        entered = self.entry(x)
        dtype = entered.dtype
        spectrum = torch.fft.rfft2(entered.float().contiguous(), norm="ortho")
        del entered
        y = torch.fft.irfft2(spectrum * self._gain(spectrum, dtype), s=x.shape[-2:], norm="ortho")
        del spectrum
        residual: Tensor = self.exit(y.to(dtype, memory_format=torch.channels_last))
        return x + residual

    def _gain(self, spectrum: Tensor, dtype: torch.dtype) -> Tensor:
        power = spectrum.real.square() + spectrum.imag.square()
        log_power = power.log1p().to(dtype, memory_format=torch.channels_last)
        gain: Tensor = self.gain(log_power)
        return gain.float()
