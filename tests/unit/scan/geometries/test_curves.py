"""Lissajous figures and random walks."""

from __future__ import annotations

import math

import pytest
import torch

from stem_complete.scan import lissajous, random_walk


@pytest.mark.parametrize("inverse", [3, 20, 50])
@pytest.mark.parametrize("shape", [(256, 256), (150, 256)], ids=str)
def test_a_lissajous_figure_is_closed_smooth_and_not_run_twice(shape, inverse):
    positions = lissajous(shape, 1 / inverse).positions
    steps = torch.cat([positions.diff(dim=0), positions[:1] - positions[-1:]])
    assert steps.norm(dim=1).max() < 0.76
    assert (steps - steps.roll(1, 0)).norm(dim=1).max() < 0.3
    # Run twice, each pixel of the way would be visited twice. Crossings are few on sparse scans.
    pixels = positions.round().long()
    entered = (pixels != pixels.roll(1, 0)).any(1)
    if inverse >= 20:
        assert len(pixels.unique(dim=0)) > 0.8 * int(entered.sum())


@pytest.mark.parametrize("coverage", [1, 1 / 5, 1 / 20, 1 / 50], ids="{:.3g}".format)
def test_a_lissajous_figure_meets_its_coverage_by_its_cycles(coverage):
    path = lissajous((512, 512), coverage)
    length = path.positions.diff(dim=0).norm(dim=1).sum()
    assert float(path.dwell.sum() / length) == pytest.approx(1, rel=0.1)


def test_a_random_walk_turns_as_slowly_as_it_says():
    path = random_walk((512, 512), 1 / 20, 1)
    inside = ((path.positions > 2) & (path.positions < 509)).all(1)
    heading = path.positions.diff(dim=0)
    heading = heading / heading.norm(dim=1, keepdim=True)
    # The mean cosine falls to 1/e over the persistence length of 80 px, 160 samples.
    lag = 160
    whole = inside.unfold(0, lag + 2, 1).all(1)
    cosine = (heading[:-lag] * heading[lag:]).sum(1)[whole]
    assert float(cosine.mean()) == pytest.approx(math.exp(-1), abs=0.15)


def test_a_random_walk_visits_all_parts_alike():
    total = sum(random_walk((32, 32), 1 / 2, seed).dwell_map() for seed in range(100))
    parts = total.view(4, 8, 4, 8).sum((1, 3))
    assert parts.max() / parts.min() < 1.5
