"""Where a scan leaves no gaps: local means of what was measured, as far as they are not noise.

Completions are of the blurred micrograph. A scan without gaps and noise has it exactly, while
splines and networks that were made for gaps smooth in other ways: of smooth specimens they are off
by several times as much.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.bands import in_bands, sums_in_bands
from stem_complete.scan.filters import filter_mirrored, gaussian_taps
from stem_complete.scan.partial_scan import sum_pixels
from stem_complete.scan.parts import Parts

# Samples are shared between the four pixels around them, which blurs by so much [px^2]: tuned to
# the mean error on validation scans along spirals, Hilbert curves and rows of half the pixels and
# of all.
_SHARED_PX2 = 0.65
_LEAST_PX2 = 0.1
_REACH_PX = 3  # at which that Gaussian ends

_AROUND = 5  # side of the squares in which pixels are counted [px]
_GAPS, _NO_GAPS = 0.8, 0.95  # fractions of them that were measured
# What a pixel has of a row beside it is half of that row's, and tells nothing of its own.
_FAINT = 0.5  # dwell up to which a pixel counts as a gap, in units of the mean around it
# A path that noise has made five pixels wide fills these squares. The gaps beside it show in wider
# ones, which are made of blocks [px]: from a distance of 10 px between its turns nothing counts.
_BLOCK_PX, _WIDE_BLOCKS = 4, 5
_WIDE_GAPS, _NO_WIDE_GAPS = 0.5, 0.7
_LEAST_AREA = 0.01  # fraction of the image, below which nothing is averaged

# What is left of counting noise in the finest details of the means, in units of what is left in
# all: 0.028 to 0.033 along spirals, Hilbert curves and rows at any dose.
_FINEST_OF_NOISE = 0.029
# Completions are made of the same measurements, and are off by most of their noise, too. What they
# differ by from means that are nothing but noisier, in units of that noise, and the exponent are
# fitted to the best mixtures on 448 validation scans: spirals, Lissajous figures, Hilbert curves
# and rasters of a third of the pixels to all, without noise and at doses of 100 to 1000, of
# micrographs as they are and smoother.
_OWN_NOISE = 0.46
_EXPONENT = 4
# What completions are off by in the same units, at doses of 100 to 1000: 0.5 to 1; and at most so
# many times what both differ by.
_SHARED_NOISE = 0.65
_MOST_DISTANCES = 2.0
# Where noise hides more than gaps do, completions are far less noisy than means. Their noise in
# units of the error that is likely from gaps.
_LITTLE, _MUCH = 0.6, 0.9
_FINEST = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
"""Immerkaer 1996, doi:10.1006/cviu.1996.0060: blind to all that is linear along either axis."""

_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
_ROUGH, _ROUGHEST = 8.0, 16.0  # mean size around a pixel, in units of that in the whole scan

_HALO = 6  # rows that filters look at beyond a band


class LocalMeans(NamedTuple):
    """How far completions are local means, and what that says of their errors.

    Attributes:
        share: Of the means in each pixel `[b, 1, h, w]`, from 0 to 1.
        error: Of the means in each scan `[b, 1, 1, 1]`.
        least_error: Of other completions where there are no gaps, from the noise of the means, and
            0 elsewhere `[b, 1, h, w]`.
    """

    share: Tensor
    error: Tensor
    least_error: Tensor

    def of(self, number: int) -> LocalMeans:
        """Those of one scan of the batch."""
        one = slice(number, number + 1)
        return LocalMeans(self.share[one], self.error[one], self.least_error[one])

    def expected_error(self, of_completion: Tensor) -> Tensor:
        """That of what means were mixed into, from the expected error of the completions before."""
        of_completion = of_completion.maximum(self.least_error)
        return torch.hypot((1 - self.share) * of_completion, self.share * self.error)


def averaged_where_dense(
    completion: Tensor, parts: Parts, blur_sigma_px: float
) -> tuple[Tensor, LocalMeans | None]:
    """Completions that are local means of the measurements where these leave no gaps.

    How far they are follows from the means themselves: what they differ by from the completion is
    taken for the completion's error as far as their noise does not explain it. None if there are
    gaps nearly everywhere.

    Args:
        completion: Of each scan `[b, 1, h, w]`.
        parts: What the scans consist of.
        blur_sigma_px: Of the blurred micrographs that completions are of, see `filters.blur`.
    """
    dwell = parts.rest.dwell
    dense = in_bands(_without_gaps, dwell, halo=_BLOCK_PX * (_WIDE_BLOCKS + 1), multiple=_BLOCK_PX)
    area = sum_pixels(dense)
    if (area < _LEAST_AREA * dense[0].numel()).all() or min(dwell.shape[-2:]) <= _REACH_PX:
        return completion, None
    means, finest, rough = _means(completion, parts, blur_sigma_px)
    tiny = torch.finfo(dwell.dtype).tiny  # where a constant scan has 0
    typical = (sums_in_bands(torch.mul, dense, rough) / area.clamp(min=1)).clamp(min=tiny)
    dense = in_bands(lambda dense, rough: _less_rough(dense, rough / typical), dense, rough)
    del rough
    noise, distance = _noise_and_distance(means, finest, completion, dense)
    del finest
    distance = distance.clamp(min=tiny)
    hidden = noise / parts.predicted.error.clamp(min=tiny)
    clear = ((_MUCH - hidden) / (_MUCH - _LITTLE)).clamp(0, 1)
    share = (1 - (_OWN_NOISE * noise / distance) ** _EXPONENT).clamp(min=0) * clear * dense
    image = in_bands(
        lambda completion, means, share: completion + share * (means - completion),
        completion,
        means,
        share,
    )
    # Details are taken for noise here, but not if both agree.
    least = (_SHARED_NOISE * noise).minimum(_MOST_DISTANCES * distance)
    return image, LocalMeans(share, noise.minimum(distance), least * dense)


def _means(completion: Tensor, parts: Parts, blur_sigma_px: float) -> tuple[Tensor, ...]:
    """Local means, their finest details, and the roughness around each pixel, `[b, 1, h, w]` each.

    Gaps are filled with the completion.
    """
    taps = gaussian_taps(_rest_px(blur_sigma_px), _REACH_PX)

    def averaged(completion: Tensor, intensity: Tensor, waves: Tensor, dwell: Tensor) -> Tensor:
        filled = torch.where(dwell > 0, parts.mean + waves + intensity, completion)
        means = filter_mirrored(filled, taps)
        rough = _filtered(filled, _LAPLACIAN).abs()
        rough = _mean_around(rough, _AROUND)
        return torch.cat([means, _filtered(means, _FINEST), rough], 1)

    maps = (completion, parts.rest.intensity, parts.waves, parts.rest.dwell)
    return in_bands(averaged, *maps, halo=_HALO).chunk(3, 1)


def _noise_and_distance(
    means: Tensor, finest: Tensor, completion: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Deviation of the means' noise, and of the means from the completion, `[b, 1, 1, 1]` each.

    Args:
        means: Local means `[b, 1, h, w]`.
        finest: Their finest details `[b, 1, h, w]`.
        completion: Of each scan `[b, 1, h, w]`.
        dense: Weights of the pixels `[b, 1, h, w]`.
    """

    def sizes(*maps: Tensor) -> Tensor:
        means, finest, completion, dense = maps
        square = (means - completion).square()
        return torch.cat([dense, dense * finest.abs(), dense * square], 1)

    sums = sums_in_bands(sizes, means, finest, completion, dense)
    finest, square = (sums[:, 1:] / sums[:, :1].clamp(min=1)).chunk(2, 1)
    # The deviation of normal noise follows from its mean size; the norm of the filter is 6.
    noise = math.sqrt(math.pi / 2) / 6 / _FINEST_OF_NOISE * finest
    return noise, square.sqrt()


def _without_gaps(dwell: Tensor) -> Tensor:
    """How far all pixels around each one were measured `[b, 1, h, w]`, from 0 to 1.

    Pixels count if a wider square that contains them was mostly measured, too.
    """
    measured = (dwell > _FAINT * _mean_around(dwell, _AROUND)).to(dwell.dtype)
    around = _mean_around(measured, _AROUND)
    wide = F.avg_pool2d(measured, _BLOCK_PX, ceil_mode=True, count_include_pad=False)
    wide = F.max_pool2d(_mean_around(wide, _WIDE_BLOCKS), _WIDE_BLOCKS, 1, _WIDE_BLOCKS // 2)
    wide = F.interpolate(wide, scale_factor=_BLOCK_PX)[..., : dwell.shape[-2], : dwell.shape[-1]]
    near = ((around - _GAPS) / (_NO_GAPS - _GAPS)).clamp(0, 1)
    return near * ((wide - _WIDE_GAPS) / (_NO_WIDE_GAPS - _WIDE_GAPS)).clamp(0, 1)


def _mean_around(images: Tensor, side: int) -> Tensor:
    """Means of the squares around each pixel, of what of them lies in the image."""
    return F.avg_pool2d(images, side, 1, side // 2, count_include_pad=False)


def _less_rough(dense: Tensor, roughness: Tensor) -> Tensor:
    """Less of what is far rougher than the rest of the scan, as hot pixels and dead lines are."""
    return dense * ((_ROUGHEST - roughness) / (_ROUGHEST - _ROUGH)).clamp(0, 1)


def _filtered(images: Tensor, kernel: tuple[tuple[float, ...], ...]) -> Tensor:
    """Images [b, 1, h, w] correlated with a kernel of 3x3 px, mirrored at the border."""
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, images.new_tensor(kernel)[None, None])


def _rest_px(blur_sigma_px: float) -> float:
    """Width of the Gaussian that blurs shared pixels as far as `blur` others [px]."""
    _, near, far = gaussian_taps(blur_sigma_px, 2)
    return math.sqrt(max(2 * (near + 4 * far) - _SHARED_PX2, _LEAST_PX2))
