"""Single pixels: which, and in which order."""

from __future__ import annotations

import pytest
import torch

from stem_complete.scan import jittered_grid, random_pixels

POINTS = [random_pixels, jittered_grid]


@pytest.mark.parametrize("make", POINTS)
@pytest.mark.parametrize("coverage", [1, 1 / 2, 1 / 7, 1 / 50], ids="{:.3g}".format)
def test_no_pixel_is_visited_twice(make, coverage):
    path = make((60, 90), coverage)
    assert torch.equal(path.positions, path.positions.round())
    assert len(path.positions.unique(dim=0)) == len(path.positions)
    assert len(path.positions) == pytest.approx(coverage * 60 * 90, rel=0.05)


# The cells of a grid are as large only if they divide the image.
@pytest.mark.parametrize(("make", "shape"), [(random_pixels, (15, 17)), (jittered_grid, (16, 18))])
def test_each_pixel_is_as_likely(make, shape):
    counts = torch.zeros(shape)
    for seed in range(256):
        x, y = make(shape, 1 / 4, seed).positions.long().T
        counts[y, x] += 1
    # About 64 of 256 scans, within four and a half standard deviations for each pixel.
    assert (counts - counts.mean()).abs().max() < 4.5 * (256 * 3 / 16) ** 0.5


def test_random_pixels_come_row_by_row_back_and_forth():
    x, y = random_pixels((40, 40), 1 / 5).positions.T
    assert (y.diff() >= 0).all()
    for row in range(40):
        along = x[y == row].diff()
        assert (along < 0).all() if row % 2 else (along > 0).all()


def test_each_cell_of_a_grid_has_one_pixel_in_serpentine_order():
    x, y = jittered_grid((80, 120), 1 / 100).positions.T
    column, row = (x / 10).floor().view(8, 12), (y / 10).floor().view(8, 12)
    assert torch.equal(row, torch.arange(8.0).double()[:, None].expand(8, 12))
    assert torch.equal(column[0], torch.arange(12.0).double())
    assert torch.equal(column[1], torch.arange(12.0).double().flip(0))
