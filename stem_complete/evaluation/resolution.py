"""Fourier ring correlation: down to which detail a completion agrees with the truth.

Saxton and Baumeister (1982, doi:10.1111/j.1365-2818.1982.tb00405.x). Being normalised ring by
ring, it asks whether detail of a size is right, not how strong it is. A blur does not change it,
unless it inverts the contrast of a period: the correlation then changes its sign.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RINGS = 32
"""From frequency 0 to that of Nyquist, all equally wide."""

ONE_SEVENTH = 1 / 7

_NYQUIST = 0.5  # cycles / px
_TAPERED = 0.25  # share of each side over which an image fades out, as its edges do not meet


class RingCorrelation(NamedTuple):
    """Agreement of two images by spatial frequency.

    Attributes:
        frequency: Middles of the rings [k], in cycles / px.
        correlation: [k], from -1 to 1.
        num_independent: Independent frequencies in each ring [k]: half of all, as those of an image
            come in conjugate pairs.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    num_independent: NDArray[np.float64]


def ring_correlation(truth: ArrayLike, image: ArrayLike) -> RingCorrelation:
    """Correlation of two images [h, w] in each ring of frequencies.

    Args:
        truth: The true image.
        image: The completion.

    Returns:
        `NUM_RINGS` rings, fewer of images under 64 px; 0 where an image has nothing.
    """
    one, other = (_spectrum(np.asarray(each, np.float64)) for each in (truth, image))
    rings = _rings(*one.shape)
    num_rings = int(rings.max())  # the last has what is beyond Nyquist's frequency

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        each = np.bincount(rings.ravel(), weights=values.ravel(), minlength=num_rings + 1)
        return each[:num_rings].astype(np.float64)

    power = np.sqrt(sums(np.abs(one) ** 2) * sums(np.abs(other) ** 2))
    together = sums((one * other.conj()).real)
    return RingCorrelation(
        frequency=_NYQUIST * (np.arange(num_rings) + 0.5) / num_rings,
        correlation=np.divide(together, power, out=np.zeros(num_rings), where=power > 0),
        num_independent=sums(np.ones(rings.shape)) / 2,
    )


def half_bit(num_independent: ArrayLike) -> NDArray[np.float64]:
    """The correlation at which each frequency carries half a bit of information.

    Van Heel and Schatz (2005, doi:10.1016/j.jsb.2005.05.009, equation 17).

    Args:
        num_independent: Independent frequencies in each ring [k].
    """
    root = np.sqrt(np.maximum(num_independent, 1.0))
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def resolution_px(found: RingCorrelation, threshold: ArrayLike) -> float | None:
    """Period of the frequency at which the correlation first falls below a threshold [px].

    2 px, the shortest period that pixels can have, if it never does; None if it is below from the
    first ring on.

    Args:
        found: The correlation.
        threshold: Of each ring [k], or one of all.
    """
    margin = found.correlation - np.asarray(threshold, np.float64)
    below = np.flatnonzero(margin < 0)
    if not len(below):
        return 1 / _NYQUIST
    ring = int(below[0])
    if ring == 0:
        return None
    before, after = margin[ring - 1 : ring + 1]
    step = found.frequency[ring] - found.frequency[ring - 1]
    return float(1 / (found.frequency[ring - 1] + step * before / (before - after)))


def _spectrum(image: NDArray[np.float64]) -> NDArray[np.complex128]:
    height, width = image.shape
    window = _taper(height)[:, None] * _taper(width)
    mean = (window * image).sum() / window.sum()
    spectrum: NDArray[np.complex128] = np.fft.fft2(window * (image - mean))
    return spectrum


@lru_cache(8)
def _taper(size: int) -> NDArray[np.float64]:
    from scipy.signal.windows import tukey

    window: NDArray[np.float64] = tukey(size + 2, 2 * _TAPERED)[1:-1]
    return window


@lru_cache(8)
def _rings(height: int, width: int) -> NDArray[np.int64]:
    """Number of the ring of each frequency [h, w]; one more for those beyond Nyquist's."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    num_rings = min(NUM_RINGS, min(height, width) // 2)
    # A ring has its upper end, and so the highest frequency is in the last one.
    numbers = np.ceil(frequency / _NYQUIST * num_rings - 1e-9).astype(np.int64) - 1
    clipped: NDArray[np.int64] = np.clip(numbers, 0, num_rings)
    return clipped
