"""What geometries share."""

from __future__ import annotations

import pytest
import torch

from stem_complete.scan.geometries.coverage import along, band_edges, random_numbers, with_coverage


def test_points_along_a_line_are_equally_far_apart():
    vertices = torch.tensor([[0.0, 0.0], [10.0, 0.0], [10.0, 4.0], [4.0, 4.0]]).double()
    points = along(vertices, 0.5)
    assert len(points) == 40
    assert torch.equal(points[:2], torch.tensor([[0.25, 0.0], [0.75, 0.0]]).double())
    steps = points.diff(dim=0)
    assert torch.allclose(steps.abs().sum(1), torch.tensor(0.5).double())
    assert torch.equal(points[-1], torch.tensor([4.25, 4.0]).double())


@pytest.mark.parametrize(("count", "size"), [(1, 7), (3, 7), (7, 7), (26, 512), (5, 100)])
def test_bands_divide_an_image_as_evenly_as_can_be(count, size):
    edges = band_edges(count, size)
    assert (edges[0], edges[-1], len(edges)) == (0, size, count + 1)
    assert set(edges.diff().tolist()) <= {size // count, -(-size // count)}


def test_samples_outside_the_image_are_left_out_of_a_path():
    path = with_coverage(torch.tensor([[-3.0, 2.0], [2.0, 2.0], [9.0, 2.0]]), (6, 6), 1 / 10)
    assert path.positions.tolist() == [[2, 2]]
    assert path.coverage == pytest.approx(1 / 10)


def test_neighbouring_seeds_share_no_numbers():
    # The numbers of neighbouring keys are the same, shifted; those of seeds must not be.
    numbers = torch.stack([random_numbers(seed, 100) for seed in range(20)]).flatten()
    assert len(numbers.unique()) > 1990
