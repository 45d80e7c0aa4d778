"""Partial scans of images along a dwell map."""

from __future__ import annotations

import pytest
import torch
from scans import images_of, keys_of

from stem_complete.scan import (
    DetectorNoise,
    NoNoise,
    ReferenceNoise,
    acquire,
    archimedean,
)

NOISES = [NoNoise(), ReferenceNoise(), DetectorNoise(40.0, 2.0)]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_unmeasured_pixels_are_nan_and_only_those(noise):
    image, dwell = images_of(3, 1, 40, 40), archimedean((40, 40), "1/10").dwell_map()[None, None]
    scan = acquire(image, dwell, noise, keys_of(3))
    assert scan.intensity.shape == scan.dwell.shape == image.shape
    assert scan.intensity.dtype == scan.dwell.dtype == torch.float32
    assert torch.equal(scan.intensity.isnan(), (dwell == 0).expand_as(image))
    assert not scan.intensity.isinf().any()
    assert 0.2 < scan.intensity.isnan().float().mean() < 0.8


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_a_scan_is_the_same_alone_and_in_a_batch(noise):
    image, dwell = images_of(4, 1, 40, 40), archimedean((40, 40), "1/10").dwell_map()[None, None]
    batch = acquire(image, dwell, noise, keys_of(4)).intensity
    alone = [acquire(image[i : i + 1], dwell, noise, keys_of(4)[i : i + 1])[0] for i in range(4)]
    assert torch.equal(batch.nan_to_num(9), torch.cat(alone).nan_to_num(9))


@pytest.mark.parametrize(
    ("image", "dwell", "keys", "message"),
    [
        ((2, 3, 8, 8), (1, 1, 8, 8), 2, "images"),
        ((8, 8), (8, 8), 1, "images"),
        ((2, 1, 8, 8), (8, 8), 2, "does not fit"),
        ((2, 1, 8, 8), (1, 1, 8, 9), 2, "does not fit"),
        ((2, 1, 8, 8), (3, 1, 8, 8), 2, "does not fit"),
        ((2, 1, 8, 8), (1, 1, 8, 8), 1, "keys"),
    ],
)
def test_acquire_checks_its_shapes(image, dwell, keys, message):
    with pytest.raises(ValueError, match=message):
        acquire(torch.zeros(image), torch.ones(dwell), NoNoise(), keys_of(keys))
