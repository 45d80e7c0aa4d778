"""Mirrored filters, blurs and normalised convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scans import DWELL, scan_of, smooth_images
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from stem_complete.scan import (
    PartialScan,
    blur,
    fill_sigma_px,
    normalised_convolution,
)
from stem_complete.scan.filters import filter_mirrored


def test_filter_mirrored_equals_scipy():
    image = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    expected = image.numpy()
    for axis in (-1, -2):
        expected = ndimage.correlate1d(expected, [1, 2, 5, 2, 1], axis=axis, mode="mirror")
    assert np.allclose(filter_mirrored(image, [5, 2, 1]), expected, rtol=1e-12)


@pytest.mark.parametrize("sigma_px", [2.5, 0.8])
def test_blur_is_a_mirrored_gaussian_of_five_pixels(sigma_px):
    # OpenCV's getGaussianKernel(5, sigma): exp(-x^2 / (2 sigma^2)), normalised over 5 px.
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * sigma_px**2))
    weights /= weights.sum()
    images = torch.rand(2, 1, 17, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = images.double().numpy()
    for axis in (-1, -2):
        expected = ndimage.correlate1d(expected, weights, axis=axis, mode="mirror")
    assert np.abs(blur(images, sigma_px).numpy() - expected).max() < 1e-6


def test_normalised_convolution_equals_scipys_with_nothing_beyond_the_border():
    image = smooth_images()
    expected = []
    for values, dwell in zip(image[:, 0].numpy(), DWELL[:, 0].numpy(), strict=True):
        sums = gaussian_filter(values * dwell, 4.0, mode="constant")
        expected.append(sums / gaussian_filter(dwell, 4.0, mode="constant"))
    filled = normalised_convolution(scan_of(image), 4.0)
    np.testing.assert_allclose(filled[:, 0], np.stack(expected), atol=1e-4)


def test_normalised_convolution_keeps_a_constant_and_leaves_no_gaps():
    filled = normalised_convolution(scan_of(torch.full((2, 1, 96, 128), 1234.5)), 4.0)
    torch.testing.assert_close(filled, torch.full_like(filled, 1234.5))


def test_normalised_convolution_is_the_mean_of_the_scan_out_of_reach():
    dwell = torch.zeros(1, 1, 64, 64)
    dwell[..., 2:4, 2:4] = 1
    intensity = torch.where(dwell > 0, 7.0, torch.nan)
    filled = normalised_convolution(PartialScan(intensity, dwell), 1.0)
    assert filled.isfinite().all()
    assert filled[0, 0, -1, -1].item() == pytest.approx(7.0)


def test_normalised_convolution_of_no_measurement_is_zero_not_nan():
    empty = PartialScan(torch.full((1, 1, 32, 32), torch.nan), torch.zeros(1, 1, 32, 32))
    assert torch.equal(normalised_convolution(empty, 2.0), torch.zeros(1, 1, 32, 32))


def test_the_width_of_a_fill_follows_the_distance_of_the_turns():
    assert fill_sigma_px(1 / 20) == pytest.approx(8.0)
    assert fill_sigma_px(1 / 100) == pytest.approx(40.0)
