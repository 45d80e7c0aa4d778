"""Noise models have the published formula, or the mean and variance of their counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scans import images_of, keys_of

from stem_complete.scan import (
    DetectorNoise,
    NoNoise,
    ReferenceNoise,
    acquire,
    archimedean,
    blur,
    fold_in,
    normal,
    uniform,
)


def test_no_noise_measures_the_image():
    image = images_of(2, 1, 16, 16)
    assert torch.equal(acquire(image, torch.ones(1, 1, 16, 16), NoNoise(), keys_of(2))[0], image)


def test_reference_noise_is_the_published_formula():
    image, keys = images_of(2, 1, 33, 47), keys_of(2)
    dwell = archimedean((33, 47), "1/10").dwell_map()[None, None]
    background = blur(image, 2.5).double()
    low, high = background.amin((2, 3), keepdim=True), background.amax((2, 3), keepdim=True)
    background = 2 * (background - low) / (high - low) - 1
    d, u = dwell.double(), uniform(keys, (1, 33, 47)).double()
    detected = d * (d * image + 2 * (1 - d) * u * background)
    measured = acquire(image, dwell, ReferenceNoise(), keys).intensity
    assert torch.allclose(measured.nan_to_num(0).double() * d, detected, atol=1e-6)


def test_reference_noise_falls_with_dwell():
    image = images_of(1, 1, 64, 64)
    errors = [
        (acquire(image, torch.full_like(image, d), ReferenceNoise(), keys_of(1))[0] - image).std()
        for d in (0.1, 0.4, 0.7, 1.0, 1.5)
    ]
    assert errors[:3] == sorted(errors[:3], reverse=True)
    assert errors[3] == errors[4] == 0


def test_reference_noise_of_a_constant_image_is_finite():
    image = torch.full((1, 1, 16, 16), 0.3)
    measured = acquire(image, torch.full_like(image, 0.5), ReferenceNoise(), keys_of(1)).intensity
    assert torch.allclose(measured, torch.tensor(0.15), atol=1e-5)


@pytest.mark.parametrize("intensity", [-1, -0.5, 0.3, 1])
@pytest.mark.parametrize(("dose", "dwell", "readout"), [(20, 0.5, 0), (1000, 0.25, 3), (3, 1, 1)])
def test_detector_noise_has_the_mean_and_variance_of_its_counts(intensity, dose, dwell, readout):
    image = torch.full((1, 1, 200, 200), float(intensity))
    noise = DetectorNoise(float(dose), float(readout))
    x = acquire(image, torch.full_like(image, dwell), noise, keys_of(1)).intensity.double()
    full = dose * dwell
    variance = (full * (intensity + 1) / 2 + readout**2) * (2 / full) ** 2
    assert float(x.mean()) == pytest.approx(intensity, abs=4 * math.sqrt(variance / 40_000))
    assert float(x.var()) == pytest.approx(variance, rel=0.06)


def test_readout_noise_is_independent_of_the_counts():
    keys, image = keys_of(1), torch.zeros(1, 1, 100, 100)
    dwell = torch.ones_like(image)
    counts = acquire(image, dwell, DetectorNoise(50.0), keys).intensity
    read = acquire(image, dwell, DetectorNoise(50.0, 5.0), keys).intensity - counts
    assert float(read.std()) == pytest.approx(2 * 5 / 50, rel=0.05)
    assert abs(np.corrcoef(read.flatten(), counts.flatten())[0, 1]) < 0.04
    assert torch.allclose(read, normal(fold_in(keys, 1), (1, 100, 100)) * 0.2, atol=1e-5)


@pytest.mark.parametrize(
    ("dose", "readout"), [(0, 0), (-1, 0), (math.nan, 0), (math.inf, 0), (1, -1), (1, math.nan)]
)
def test_impossible_detectors_are_refused(dose, readout):
    with pytest.raises(ValueError, match=r"dose_electrons_per_px|readout_std_electrons"):
        DetectorNoise(dose, readout)
