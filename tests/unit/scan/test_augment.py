"""Magnification and contrast: bounded, smooth, and functions of the example's key."""

import pytest
import torch

from stem_complete.scan import (
    NoNoise,
    ScanSimulator,
    archimedean,
    blur,
    example_keys,
)
from stem_complete.scan.augment import change_contrast, magnify

KEYS = example_keys(0, 0, torch.arange(64), stream=0)


def images(count, side=32):
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(count, 1, side, side, generator=generator) - 1


def test_zoom_of_one_changes_nothing():
    x = images(4)
    torch.testing.assert_close(magnify(x, KEYS[:4], 1.0), x, atol=1e-5, rtol=0)


def test_magnified_parts_are_smoother_and_within_range():
    x = images(64)
    zoomed = magnify(x, KEYS, 4.0)
    assert zoomed.shape == x.shape
    assert zoomed.min() >= x.min()
    assert zoomed.max() <= x.max()
    roughness = (zoomed[..., 1:] - zoomed[..., :-1]).square().mean((1, 2, 3))
    original = (x[..., 1:] - x[..., :-1]).square().mean((1, 2, 3))
    assert (roughness < original).all()
    # Zooms differ from example to example.
    assert roughness.std() > 0.1 * roughness.mean()


def test_a_magnified_ramp_is_a_gentler_ramp_inside_the_old_one():
    ramp = torch.linspace(-1, 1, 32).view(1, 1, 1, 32).expand(64, 1, 32, 32)
    zoomed = magnify(ramp, KEYS, 4.0)[:, 0, 16, 8:24]
    slopes = (zoomed[:, -1] - zoomed[:, 0]) / 15 / (2 / 31)
    assert ((slopes > 1 / 4 - 1e-3) & (slopes < 1 + 1e-3)).all()
    assert slopes.min() < 0.35
    assert slopes.max() > 0.9


def test_contrast_keeps_the_range_and_the_order_of_intensities():
    x = images(64)
    changed = change_contrast(x, KEYS)
    assert torch.equal(changed.amin((1, 2, 3)), -torch.ones(64))
    assert torch.equal(changed.amax((1, 2, 3)), torch.ones(64))
    inverted = 0
    for before, after in zip(x.flatten(1), changed.flatten(1), strict=True):
        sorted_after = after[before.argsort()]
        steps = sorted_after.diff()
        falls = bool((steps <= 0).all())
        assert falls or bool((steps >= 0).all())
        inverted += falls
    assert 16 < inverted < 48


def test_a_constant_image_stays_finite():
    assert change_contrast(torch.zeros(4, 1, 8, 8), KEYS[:4]).abs().eq(1).all()


def test_turned_parts_keep_their_shapes():
    # A disc stays a disc at any angle, and its area tells the zoom.
    place = torch.arange(128) - 63.5
    disc = ((place**2 + place[:, None] ** 2) < 20**2).float().expand(64, 1, 128, 128)
    parts = magnify(disc, KEYS, 1.0, size=64)
    assert parts.shape == (64, 1, 64, 64)
    zooms = (parts.sum((1, 2, 3)) / (torch.pi * 20**2)).sqrt()
    assert zooms.min() < 0.6
    assert ((zooms > 0.45) & (zooms < 1.02)).all()


def test_parts_are_turned_by_any_angle():
    ramp = torch.linspace(-1, 1, 128).view(1, 1, 1, 128).expand(64, 1, 128, 128)
    middle = magnify(ramp, KEYS, 1.0, size=32)[:, 0, 12:20, 12:20]
    across, down = middle.diff(dim=2).mean((1, 2)), middle.diff(dim=1).mean((1, 2))
    angles = torch.atan2(down, across)
    counts = torch.histc(angles, bins=4, min=-torch.pi, max=torch.pi)
    assert (counts > 6).all()


def test_impossible_parts_are_refused():
    with pytest.raises(ValueError, match="max_zoom must be at least 1"):
        magnify(images(1), KEYS[:1], 0.5)
    with pytest.raises(ValueError, match="cannot have 64 px"):
        magnify(images(1), KEYS[:1], 1.0, size=64)


def test_the_simulator_compares_with_what_it_scanned():
    path = archimedean((32, 32), 1 / 4)
    simulator = ScanSimulator(
        path, NoNoise(), augment=True, blur_sigma_px=2.5, seed=1, sample="original", contrast=True
    )
    x = images(8)
    batch = simulator(x, 5, torch.arange(8))
    assert not torch.allclose(batch.unblurred.sort().values, x.sort().values)
    torch.testing.assert_close(batch.truth, blur(batch.unblurred))
    measured = batch.scan.dwell > 0
    assert torch.equal(batch.scan.intensity[measured], batch.unblurred[measured])
    alone = simulator(x[3:4], 5, torch.tensor([3]))
    torch.testing.assert_close(alone.unblurred, batch.unblurred[3:4])
