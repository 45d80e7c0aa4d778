"""Paths of the probe: what they check, and their dwell maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from strategies import paths

from stem_complete.scan import ScanPath


def test_any_path_has_a_dwell_map():
    # A raster scan of every other row, half a dwell per pixel.
    x, y = torch.meshgrid(torch.arange(20), torch.arange(0, 16, 2), indexing="xy")
    positions = torch.stack([x.flatten(), y.flatten()], dim=1)
    path = ScanPath(positions, torch.full((len(positions),), 0.5), (16, 20))
    assert torch.allclose(path.dwell_map()[:15], torch.tensor(0.25))
    assert path.positions.dtype == torch.float64
    assert path.coverage == pytest.approx(float(path.dwell_map().mean()))


@pytest.mark.parametrize(
    ("positions", "dwell", "message"),
    [
        (torch.zeros(3, 3), torch.ones(3), "positions must be"),
        (torch.zeros(3, 2), torch.ones(2), "one value per position"),
        (torch.full((3, 2), torch.nan), torch.ones(3), "finite"),
        (torch.full((3, 2), torch.inf), torch.ones(3), "finite"),
        (torch.zeros(3, 2), torch.tensor([1, 1, torch.nan]), "dwell must be finite"),
        (torch.zeros(3, 2), -torch.ones(3), "not negative"),
    ],
)
def test_broken_paths_are_refused(positions, dwell, message):
    with pytest.raises(ValueError, match=message):
        ScanPath(positions, dwell, (8, 8))


@given(paths())
def test_coverage_is_the_mean_of_a_finite_dwell_map_of_the_images_shape(path):
    dwell = path.dwell_map()
    assert dwell.shape == path.shape
    assert (dwell.isfinite() & (dwell >= 0)).all()
    assert path.coverage == pytest.approx(float(dwell.double().mean()))
