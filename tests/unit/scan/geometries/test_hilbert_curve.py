"""Hilbert curves through images of any shape."""

from __future__ import annotations

import pytest
import torch

from stem_complete.scan import hilbert
from stem_complete.scan.geometries.hilbert_curve import cells_in_order


@pytest.mark.parametrize("columns", range(2, 14))
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 8, 9, 16])
def test_a_hilbert_curve_steps_to_neighbours_and_visits_each_cell_once(rows, columns):
    cells = cells_in_order(rows, columns)
    assert len(cells.unique(dim=0)) == len(cells) == rows * columns
    assert torch.equal(cells.amin(0), torch.tensor([0, 0]))
    assert torch.equal(cells.amax(0), torch.tensor([columns - 1, rows - 1]))
    steps = cells.diff(dim=0).abs()
    assert steps.max() == 1
    longer, shorter = max(rows, columns), min(rows, columns)
    num_diagonal = int((steps.sum(1) == 2).sum())
    assert num_diagonal == (1 if longer % 2 and not shorter % 2 else 0)


def test_a_hilbert_curve_of_a_power_of_two_fills_quadrant_after_quadrant():
    cells = cells_in_order(16, 16).view(4, 64, 2)
    for quadrant in cells:
        assert (quadrant.amax(0) - quadrant.amin(0) == 7).all()


def test_a_full_hilbert_scan_dwells_alike_on_each_pixel():
    dwell = hilbert((32, 48), 1).dwell_map()
    # But in the first and last pixel, where it goes half as far.
    assert (dwell - 1).abs().median() < 1e-3
    assert dwell.min() > 0.7
