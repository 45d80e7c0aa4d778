"""What paths cost and where they leave gaps, and their pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stem_complete.evaluation.scan_paths import facts_of, geometries_figure, path_figure
from stem_complete.scan import ScanPath, archimedean, serpentine_raster

# Three samples on a row, one pixel apart, then a jump of 3 and 4 px, half a dwell each.
PATH = ScanPath(
    torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [5.0, 4.0]]), torch.full((4,), 0.5), (6, 8)
)


def test_facts() -> None:
    facts = facts_of(PATH)
    assert facts.samples == 4
    assert facts.dwell == 2
    assert facts.coverage == PATH.coverage
    assert facts.travel_px == 7
    assert facts.longest_jump_px == 5
    # The furthest are the corners at (7, 0), sqrt(20) from (5, 4), and (0, 5), 5 from (0, 0).
    assert facts.largest_distance_px == pytest.approx(5)
    assert 0 < facts.mean_distance_px < 5


def test_a_full_scan_leaves_no_gap() -> None:
    facts = facts_of(serpentine_raster((16, 20), 1))
    assert facts.mean_distance_px == facts.largest_distance_px == 0
    assert facts.longest_jump_px == 1


def test_samples_outside_the_image_or_in_its_last_half_pixel_are_no_trouble() -> None:
    positions = torch.tensor([[-0.5, 2.0], [7.49, 5.49], [30.0, 2.0]])
    path = ScanPath(positions, torch.ones(3), (6, 8))
    assert facts_of(path).largest_distance_px < 6
    assert path_figure(path, "own").axes


def test_a_path_is_drawn_where_it_is_in_the_colours_of_time() -> None:
    figure = path_figure(PATH, "own")
    left, right = figure.axes[:2]
    (image,) = left.images
    drawn = np.ma.filled(image.get_array(), np.nan)
    height, width = drawn.shape
    assert height / width == 6 / 8

    def at(x: float, y: float) -> float:
        return drawn[int((y + 0.5) * height / 6), int((x + 0.5) * width / 8)]

    assert [at(0, 0), at(2, 0), at(5, 4)] == pytest.approx([0, 2 / 3, 1])
    assert np.isnan(at(7, 0))
    np.testing.assert_array_equal(right.images[0].get_array(), PATH.dwell_map())
    assert "4 samples, travel 7 px" in left.get_xlabel()
    assert "5.0 px at most" in " ".join(right.get_xlabel().split())


def test_all_geometries_in_one_figure() -> None:
    spiral = archimedean((32, 32), "1/5")
    figure = geometries_figure({f"number_{n}": spiral for n in range(7)})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [*(f"number {n}" for n in range(7)), "", "", ""]
    with pytest.raises(ValueError, match="at least one"):
        geometries_figure({})
