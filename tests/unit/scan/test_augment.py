"""Augmentation: parts, flips and contrasts, bounded and functions of the example's key."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from stem_complete.scan import (
    Augmentation,
    NoNoise,
    ScanSimulator,
    Stream,
    archimedean,
    blur,
    example_keys,
)
from stem_complete.scan.augment import (
    SMOOTHING_PX,
    change_contrast,
    flip_rotate,
    magnify,
    overlaid,
    smoothed,
)

KEYS = example_keys(0, 0, torch.arange(64), Stream.PARTS)


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
    gamma = torch.linspace(0.5, 2, 64).view(64, 1, 1, 1)
    changed = change_contrast(x, gamma, torch.arange(64).view(64, 1, 1, 1) % 2 == 0)
    assert torch.equal(changed.amin((1, 2, 3)), -torch.ones(64))
    assert torch.equal(changed.amax((1, 2, 3)), torch.ones(64))
    for number, (before, after) in enumerate(zip(x.flatten(1), changed.flatten(1), strict=True)):
        sorted_after = after[before.argsort()]
        steps = sorted_after.diff()
        assert (steps <= 0).all() if number % 2 == 0 else (steps >= 0).all()


def test_a_constant_image_stays_finite():
    ones, yes = torch.ones(4, 1, 1, 1), torch.ones(4, 1, 1, 1, dtype=torch.bool)
    assert change_contrast(torch.zeros(4, 1, 8, 8), ones, yes).abs().eq(1).all()


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


@pytest.mark.parametrize("size", [None, 32])
def test_sharp_parts_are_cut_out_pixel_by_pixel(size):
    image = images(1, side=48)
    parts = magnify(image.expand(64, -1, -1, -1), KEYS, 3.0, size=size, sharp_fraction=0.5)
    side = size or 48
    all_parts = image[0, 0].unfold(0, side, 1).unfold(1, side, 1)
    distances = [(all_parts - part).abs().amax((2, 3)) for part in parts[:, 0]]
    exact = [int(d.argmin()) for d in distances if d.min() < 1e-4]
    assert 20 <= len(exact) <= 44
    if size:
        assert len(set(exact)) > 15


def test_impossible_parts_are_refused():
    with pytest.raises(ValueError, match="max_zoom must be at least 1"):
        magnify(images(1), KEYS[:1], 0.5)
    with pytest.raises(ValueError, match="cannot have 64 px"):
        magnify(images(1), KEYS[:1], 1.0, size=64)


def test_the_simulator_compares_with_what_it_scanned():
    path = archimedean((32, 32), 1 / 4)
    simulator = ScanSimulator(
        path, NoNoise(), 1, augmentation=Augmentation(contrast=True), sample="original"
    )
    x = images(8)
    batch = simulator(x, 5, torch.arange(8))
    assert not torch.allclose(batch.unblurred.sort().values, x.sort().values)
    torch.testing.assert_close(batch.truth, blur(batch.unblurred))
    measured = batch.scan.dwell > 0
    assert torch.equal(batch.scan.intensity[measured], batch.unblurred[measured])
    alone = simulator(x[3:4], 5, torch.tensor([3]))
    torch.testing.assert_close(alone.unblurred, batch.unblurred[3:4])


def test_half_of_the_images_are_inverted_if_contrast_varies():
    ramp = torch.linspace(-1, 1, 32).expand(64, 1, 32, 32)

    def keys(stream):
        return example_keys(0, 0, torch.arange(64), stream)

    varied = Augmentation(contrast=True)(ramp, keys)
    flipped = Augmentation()(ramp, keys)
    falls = ((varied - varied.mean()) * flipped).mean((1, 2, 3)) < 0
    assert 16 < int(falls.sum()) < 48


def apply(image, choice):
    return flip_rotate(image, torch.tensor([choice]))


def test_the_eight_choices_are_the_symmetries_of_the_square():
    image = images(1, 6)
    choices = [apply(image, choice) for choice in range(8)]
    assert torch.equal(choices[0], image)
    expected = [torch.rot90(turned, n, (-1, -2)) for turned in (image, image.mT) for n in range(4)]
    for symmetry in expected:
        assert sum(torch.equal(symmetry, choice) for choice in choices) == 1


def test_the_eight_choices_are_a_group():
    image = images(1, 5)
    single = [apply(image, choice) for choice in range(8)]
    products = np.array(
        [
            [
                next(c for c in range(8) if torch.equal(single[c], apply(single[first], second)))
                for second in range(8)
            ]
            for first in range(8)
        ]
    )
    for line in (*products, *products.T):
        assert sorted(line) == list(range(8))
    # The same group element whatever the image: an action, not eight unrelated shuffles.
    other = images(1, 8)
    for first in range(8):
        for second in range(8):
            composed = apply(apply(other, first), second)
            assert torch.equal(composed, apply(other, int(products[first, second])))


def test_each_image_of_a_batch_gets_its_own_choice():
    eight, choice = images(8, 4), torch.arange(7, -1, -1)
    for number, flipped in enumerate(flip_rotate(eight, choice)):
        assert torch.equal(flipped[None], apply(eight[number : number + 1], 7 - number))


@pytest.mark.parametrize("choice", range(8))
def test_symmetries_commute_with_blur(choice):
    image = images(1, 9)
    assert torch.allclose(blur(apply(image, choice)), apply(blur(image), choice), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 2, 4, 4), (4, 4)], ids=str)
def test_flip_rotate_checks_its_images(shape):
    with pytest.raises(ValueError, match="images"):
        flip_rotate(torch.zeros(shape), torch.zeros(2, dtype=torch.int64))


def test_overlaid_parts_are_sums_of_two_of_one_micrograph():
    flat = torch.stack([torch.full((1, 48, 48), value) for value in (-1.0, 0.25, 1.0)])
    augment = Augmentation(max_zoom=2, crop_px=32, overlay=True)
    positions = torch.arange(3)
    keys = partial(example_keys, 0, 0, positions)
    torch.testing.assert_close(augment(flat, keys), flat[:, :, :32, :32])
    # Two steps to the right, and turned: a sum has edges at four places, a part at two.
    stripes = (torch.arange(48) // 24 % 2).float().expand(64, 1, 48, 48)
    keys = partial(example_keys, 0, 0, torch.arange(64))
    sums, parts = (
        Augmentation(max_zoom=2, crop_px=32, overlay=overlay)(stripes, keys)
        for overlay in (True, False)
    )
    between = ((sums > 0.05) & (sums < 0.95)).float().mean((1, 2, 3))
    assert between.median() > 0.2
    assert ((parts > 0.05) & (parts < 0.95)).float().mean() < 0.1


def test_shares_of_overlaid_images_are_mostly_small_or_large():
    phase = torch.linspace(0, 1, 1001)[:-1].view(-1, 1, 1, 1)
    shares = overlaid(torch.zeros(1000, 1, 1, 1), torch.ones(1000, 1, 1, 1), phase).flatten()
    assert (shares.diff() > 0).all()
    assert shares[0] == 0
    # The arcsine distribution: a fifth lies in each tail of 0.0955.
    assert (shares < 0.0955).float().mean() == pytest.approx(0.2, abs=0.002)
    assert shares.mean() == pytest.approx(0.5, abs=0.001)


def test_parts_are_smoothed_by_gaussians_of_widths_that_are_drawn():
    rough, draw = images(3, 64), torch.tensor([0.0, 0.5, 0.9]).view(-1, 1, 1, 1)
    smallest, largest = SMOOTHING_PX
    for image, number, smooth in zip(rough, draw.flatten(), smoothed(rough, draw), strict=True):
        sigma = smallest * (largest / smallest) ** float(number)
        expected = gaussian_filter(image[0].numpy(), sigma, mode="mirror", radius=15)
        np.testing.assert_allclose(smooth[0].numpy(), expected, atol=1e-5)


def test_a_fraction_of_the_parts_is_smooth():
    rough = images(64, 48)
    keys = partial(example_keys, 0, 0, torch.arange(64))
    some, none = (
        Augmentation(crop_px=32, sharp_fraction=1.0, smooth_fraction=fraction)(rough, keys)
        for fraction in (0.4, 0.0)
    )
    left_alone = (some == none).all(3).all(2).flatten()
    assert 0.4 < left_alone.float().mean() < 0.8
    roughness = (some[..., 1:] - some[..., :-1]).square().mean((1, 2, 3))
    assert roughness[~left_alone].max() < roughness[left_alone].min()
