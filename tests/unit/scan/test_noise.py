"""Detection pixel by pixel has the published formula."""

from __future__ import annotations

import torch
from scans import images_of, keys_of

from stem_complete.scan import (
    NoNoise,
    ReferenceNoise,
    acquire_pixels,
    archimedean,
    blur,
    uniform,
)


def test_no_noise_measures_the_image():
    image = images_of(2, 1, 16, 16)
    assert torch.equal(
        acquire_pixels(image, torch.ones(1, 1, 16, 16), NoNoise(), keys_of(2))[0], image
    )


def test_reference_noise_is_the_published_formula():
    image, keys = images_of(2, 1, 33, 47), keys_of(2)
    dwell = archimedean((33, 47), "1/10").dwell_map()[None, None]
    background = blur(image, 2.5).double()
    low, high = background.amin((2, 3), keepdim=True), background.amax((2, 3), keepdim=True)
    background = 2 * (background - low) / (high - low) - 1
    d, u = dwell.double(), uniform(keys, (1, 33, 47)).double()
    detected = d * (d * image + 2 * (1 - d) * u * background)
    measured = acquire_pixels(image, dwell, ReferenceNoise(), keys).intensity
    assert torch.allclose(measured.nan_to_num(0).double() * d, detected, atol=1e-6)


def test_reference_noise_falls_with_dwell():
    image = images_of(1, 1, 64, 64)
    errors = [
        (
            acquire_pixels(image, torch.full_like(image, d), ReferenceNoise(), keys_of(1))[0]
            - image
        ).std()
        for d in (0.1, 0.4, 0.7, 1.0, 1.5)
    ]
    assert errors[:3] == sorted(errors[:3], reverse=True)
    assert errors[3] == errors[4] == 0


def test_reference_noise_of_a_constant_image_is_finite():
    image = torch.full((1, 1, 16, 16), 0.3)
    measured = acquire_pixels(
        image, torch.full_like(image, 0.5), ReferenceNoise(), keys_of(1)
    ).intensity
    assert torch.allclose(measured, torch.tensor(0.15), atol=1e-5)
