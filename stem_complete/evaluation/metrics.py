"""Root mean square error, PSNR and SSIM of a completion against the truth.

Both images are first scaled by the truth's own range: its minimum becomes 0, its maximum 1. The
numbers then do not depend on the detector's units, and an RMSE of 0.05 reads as 5% of the range.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_complete.errors import DataError

Image = NDArray[np.float64]

SSIM_SIGMA_PX = 1.5
SSIM_MIN_SIDE_PX = 11  # the Gaussian window is cut off at 3.5 sigma: 5 px to each side


class Scores(NamedTuple):
    """How far a completion is from the truth.

    Attributes:
        rmse: Root mean square error, as a fraction of the truth's range; 0 is perfect.
        psnr: Peak signal-to-noise ratio [dB], peak = the truth's range; inf is perfect.
        ssim: Mean structural similarity, at most 1.
    """

    rmse: float
    psnr: float
    ssim: float


def all_metrics(
    truth: ArrayLike, image: ArrayLike, *, intensity_range: tuple[float, float] | None = None
) -> Scores:
    """RMSE, PSNR and SSIM of `image` [h, w] against `truth` [h, w], in the same units.

    Args:
        truth: The true image.
        image: The completion.
        intensity_range: Range that is scaled to [0, 1]; `truth`'s own minimum and maximum if None.
            Errors against a blurred truth are in percent of the unblurred one's range.

    Raises:
        DataError: Shapes differ, are not [h, w] or are too small for SSIM, a pixel is not finite,
            or the range is empty, as that of a constant truth is.
    """
    truth, image = _scaled(truth, image, intensity_range)
    error = _rmse(truth, image)
    psnr = -20 * math.log10(error) if error > 0 else math.inf
    return Scores(error, psnr, _ssim(truth, image))


def rmse(
    truth: ArrayLike, image: ArrayLike, *, intensity_range: tuple[float, float] | None = None
) -> float:
    """Root mean square error of `image` [h, w] as a fraction of the range; see `all_metrics`."""
    return _rmse(*_scaled(truth, image, intensity_range))


def _rmse(truth: Image, image: Image) -> float:
    return float(np.sqrt(np.mean((image - truth) ** 2)))


def _ssim(truth: Image, image: Image) -> float:
    """With the settings of Wang et al. (2004, doi:10.1109/TIP.2003.819861).

    Gaussian window of sigma 1.5 px, biased covariance.
    """
    from skimage.metrics import structural_similarity

    if min(truth.shape) < SSIM_MIN_SIDE_PX:
        raise DataError(
            expected=f"at least {SSIM_MIN_SIDE_PX} x {SSIM_MIN_SIDE_PX} px for SSIM",
            found=_size(truth),
            where="truth image",
            fix="compare larger images",
        )
    similarity = structural_similarity(
        truth,
        image,
        gaussian_weights=True,
        sigma=SSIM_SIGMA_PX,
        use_sample_covariance=False,
        data_range=1.0,
    )
    return float(similarity)


def _scaled(
    truth: ArrayLike, image: ArrayLike, intensity_range: tuple[float, float] | None
) -> tuple[Image, Image]:
    """Both images in float64, on the scale in which the range is [0, 1]."""
    truth = np.asarray(truth, dtype=np.float64)
    image = np.asarray(image, dtype=np.float64)
    for where, pixels in (("truth image", truth), ("completed image", image)):
        if pixels.ndim != 2 or pixels.size == 0:
            raise DataError(
                expected="one image [h, w]", found=_size(pixels), where=where, fix="give one image"
            )
        num_bad = pixels.size - int(np.isfinite(pixels).sum())
        if num_bad:
            raise DataError(
                expected="finite intensities",
                found=f"{num_bad} NaN or Inf pixels",
                where=where,
                fix="compare only what is finite in both",
            )
    if image.shape != truth.shape:
        raise DataError(
            expected=f"the truth's {_size(truth)}",
            found=_size(image),
            where="completed image",
            fix="compare images of one specimen and of one size",
        )
    low, high = intensity_range or (float(truth.min()), float(truth.max()))
    if not low < high:
        raise DataError(
            expected="a truth with contrast, as errors are fractions of its range",
            found=f"{low:g} to {high:g}",
            where="truth image",
            fix="leave this image out",
        )
    return (truth - low) / (high - low), (image - low) / (high - low)


def _size(image: NDArray[Any]) -> str:
    return f"shape {image.shape}" if image.ndim != 2 else f"{image.shape[0]} x {image.shape[1]} px"
