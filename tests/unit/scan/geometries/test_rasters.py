"""Scans along rows: which pixels, in which order."""

from __future__ import annotations

import pytest
import torch

from stem_complete.scan import interleaved_raster, line_hop, serpentine_raster, sparse_rows

SHAPES = [(64, 64), (37, 50), (50, 37)]
ROWS = [serpentine_raster, interleaved_raster, sparse_rows, line_hop]


@pytest.mark.parametrize("make", ROWS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_full_scan_visits_each_pixel_once_for_one_dwell(make, shape):
    path = make(shape, 1)
    assert (path.dwell == 1).all()
    assert len(path.positions) == len(path.positions.unique(dim=0)) == shape[0] * shape[1]
    assert (path.dwell_map() == 1).all()


@pytest.mark.parametrize("make", ROWS)
@pytest.mark.parametrize("coverage", [1 / 3, 1 / 8, 1 / 20], ids="1/{:.3g}".format)
def test_samples_are_pixels_and_none_is_visited_twice(make, coverage):
    path = make((96, 80), coverage)
    assert torch.equal(path.positions, path.positions.round())
    assert len(path.positions.unique(dim=0)) == len(path.positions)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("coverage", [1, 1 / 4, 1 / 10], ids="{:.3g}".format)
def test_a_serpentine_goes_from_pixel_to_pixel_and_turns_at_the_borders(shape, coverage):
    path = serpentine_raster(shape, coverage)
    steps = path.positions.diff(dim=0)
    assert (steps.abs().sum(1) == 1).all()
    x = path.positions[1:, 0]
    assert set(x[steps[:, 1] != 0].tolist()) == {0, shape[1] - 1}


def test_sparse_serpentines_have_equally_spaced_rows():
    path = serpentine_raster((200, 200), 1 / 10)
    rows = path.positions[path.positions[:, 0] == 100, 1]
    assert len(rows) in (19, 20)
    assert rows.diff().max() - rows.diff().min() <= 1
    assert abs(rows[0] + rows[-1] - 199) <= 1


def test_interleaved_rows_come_in_four_passes():
    path = interleaved_raster((32, 8), 1 / 2)
    rows = path.positions[::8, 1]
    assert (path.positions[:8, 0] == torch.arange(8)).all()
    assert torch.equal(rows.sort().values, torch.arange(1, 33, 2).double())
    assert torch.equal(rows[:4], torch.tensor([1, 9, 17, 25]).double())
    # After each pass the rows so far are as evenly spaced as whole passes can be.
    for number, gap in ((4, 8), (8, 4), (16, 2)):
        assert rows[:number].sort().values.diff().max() <= gap


def test_sparse_rows_are_one_of_each_band():
    rows = sparse_rows((100, 16), 1 / 10, 5).positions[::16, 1]
    assert torch.equal((rows / 10).floor(), torch.arange(10).double())
    many = torch.cat([sparse_rows((100, 2), 1 / 10, seed).positions[::2, 1] for seed in range(200)])
    # Each row of a band is as likely: a tenth of 2,000, within four standard deviations.
    counts = (many % 10).long().bincount(minlength=10)
    assert (counts - 200).abs().max() < 4 * (2000 * 0.09) ** 0.5


def test_line_hops_stay_in_their_band_and_are_short():
    path = line_hop((96, 400), 1 / 16, 2)
    lines = path.positions.view(6, 400, 2)
    assert torch.equal((lines[..., 1] / 16).floor(), torch.arange(6)[:, None].expand(6, 400))
    assert lines[..., 1].diff(dim=1).abs().max() == 4
    assert torch.equal(lines[0, :, 0], torch.arange(400).double())
    assert torch.equal(lines[1, :, 0], torch.arange(400).double().flip(0))


def test_line_hops_visit_each_row_of_a_band_alike():
    many = torch.cat([line_hop((8, 64), 1 / 8, seed).positions[:, 1] for seed in range(150)])
    share = many.long().bincount(minlength=8) / len(many)
    assert share.min() > 0.105
    assert share.max() < 0.145
