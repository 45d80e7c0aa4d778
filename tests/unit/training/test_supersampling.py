"""The supersampling task: what is asked of the network, and how it is varied."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stem_complete.losses import ALRC
from stem_complete.training.supersampling import (
    SupersamplingTask,
    halved_and_enlarged,
    images_of,
    standardised,
    varied,
)

EXAMPLES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3073), np.uint8))
POSITIONS = torch.arange(6)


def task(**changes):
    torch.manual_seed(0)
    return SupersamplingTask(**{"power": 2, "weight": 25.0, "make_alrc": None} | changes)


def test_an_example_is_a_label_and_three_planes():
    images = images_of(EXAMPLES)
    assert images.shape == (6, 3, 32, 32)
    assert images[2, 1, 0].tolist() == EXAMPLES[2, 1 + 1024 : 1 + 1024 + 32].tolist()


def test_images_are_standardised_each_by_its_own_mean_and_deviation():
    images = standardised(images_of(EXAMPLES))
    assert images.mean((1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(images.square().mean((1, 2, 3)), torch.ones(6))
    assert standardised(torch.full((1, 3, 32, 32), 7.0)).abs().max() == 0


def test_variations_follow_from_seed_step_and_position():
    images = images_of(EXAMPLES)
    whole = varied(images, 1, 5, POSITIONS)
    parts = [varied(images[part], 1, 5, POSITIONS[part]) for part in (slice(4), slice(4, 6))]
    assert torch.equal(torch.cat(parts), whole)
    for other in ((2, 5, POSITIONS), (1, 6, POSITIONS), (1, 5, POSITIONS + 6)):
        assert not torch.equal(varied(images, *other), whole)


def test_variations_are_those_of_the_paper():
    """A flip, a shift of up to 63, and a contrast of 0.2 to 1.8 about each channel's mean."""
    image = images_of(EXAMPLES)[:1]
    many = varied(image.expand(200, -1, -1, -1), 0, 0, torch.arange(200))
    centred, each = (x - x.mean((2, 3), keepdim=True) for x in (image, many))
    plain = (each * centred).sum((1, 2, 3)) / centred.square().sum()
    turned = (each * centred.flip(3)).sum((1, 2, 3)) / centred.square().sum()
    contrast = torch.maximum(plain, turned)
    assert 0.19 < contrast.min() < 0.3
    assert 1.7 < contrast.max() < 1.81
    assert 60 < (plain > turned).sum() < 140
    shift = (many - image).mean((1, 2, 3))
    assert -63 < shift.min() < -55
    assert 55 < shift.max() < 63


def test_enlarged_images_keep_their_corners_and_straight_lines():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    torch.testing.assert_close(halved_and_enlarged(ramp), ramp, atol=1e-6, rtol=0)
    checks = (torch.arange(32)[:, None] + torch.arange(32)) % 2
    assert halved_and_enlarged(checks.float()[None, None]).std() < 0.5 * checks.float().std()


@pytest.mark.parametrize("power", [2, 4])
def test_the_loss_is_the_mean_power_of_the_error(power):
    found = task(power=power)
    output = found(EXAMPLES, 3, POSITIONS)
    images = standardised(varied(images_of(EXAMPLES), 0, 3, POSITIONS))
    errors = (found.restore(images) - images) ** power
    torch.testing.assert_close(output.loss, 25 * errors.mean((1, 2, 3)))
    assert output.losses["image"] is output.loss


def test_losses_above_a_limit_become_their_roots_before_they_are_clipped():
    before = task(power=4)(EXAMPLES, 0, POSITIONS).loss.detach()
    limit = float(before.median())
    after = task(power=4, root_above=limit)(EXAMPLES, 0, POSITIONS).loss
    torch.testing.assert_close(after, torch.where(before < limit, before, before.sqrt()))


def test_each_loss_is_clipped_on_its_own():
    before = task()(EXAMPLES, 0, POSITIONS).loss.detach()
    start = float(before.mean())

    def make():
        return ALRC(1e-3, mu1_start=start, mu2_start=1.01 * start**2, accumulate=True)

    output = task(make_alrc=make)(EXAMPLES, 0, POSITIONS)
    limit = start + 1e-4 * start
    torch.testing.assert_close(output.loss, before.clamp(max=limit))
    torch.testing.assert_close(output.losses["image"], before)
    torch.testing.assert_close(output.clipped["image"], before.clamp(max=limit))


def test_validation_varies_nothing_and_draws_the_first():
    found = task()
    first, again = (found.validate(EXAMPLES, POSITIONS + shift) for shift in (0, 9))
    assert first.metrics.keys() == set(found.metric_names)
    assert torch.equal(first.metrics["rmse"], again.metrics["rmse"])
    torch.testing.assert_close(first.metrics["image_loss"], 25 * first.metrics["rmse"] ** 2)
    assert first.picture.shape == (32, 96)
