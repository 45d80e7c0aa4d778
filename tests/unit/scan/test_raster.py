"""Dwell maps of positions and drawn lines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import scattered_paths

from stem_complete.scan.raster import deposit, draw_lines


def test_a_dwell_at_a_pixel_centre_gives_sixteenths():
    image = deposit(torch.tensor([[2.0, 3.0]]), torch.ones(1), (7, 6))
    assert image.dtype == torch.float32
    expected = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(image[2:5, 1:4] * 16, expected)
    assert image.sum() == 1


@pytest.mark.parametrize(
    ("position", "expected"),
    [((0, 0), [[4, 2], [2, 1]]), ((1, 0), [[4, 4], [2, 2]]), ((1, 1), [[4, 4], [4, 4]])],
    ids=["corner", "edge", "inside"],
)
def test_the_probe_is_mirrored_at_the_border(position, expected):
    # OpenCV's BORDER_REFLECT_101: the border pixel is not repeated, so pixel 1 counts twice there.
    image = deposit(torch.tensor([position], dtype=torch.float64), torch.ones(1), (5, 5))
    assert torch.equal(image[:2, :2] * 16, torch.tensor(expected, dtype=torch.float32))


def test_a_dwell_between_pixels_is_shared_bilinearly():
    between = deposit(torch.tensor([[4.25, 5.5]]), torch.ones(1), (12, 12))
    corners = torch.tensor([[4.0, 5], [5, 5], [4, 6], [5, 6]])
    shares = torch.tensor([0.75, 0.25, 0.75, 0.25]) / 2
    assert torch.equal(between, deposit(corners, shares, (12, 12)))


@pytest.mark.parametrize(
    "outside",
    [(-0.6, 4), (4, -0.6), (7.6, 4), (4, 5.6), (-1e9, 4), (4, 1e9), (float("inf"), 4)],
    ids=str,
)
def test_positions_outside_are_ignored(outside):
    inside = torch.tensor([[3.0, 2.0]])
    both = torch.cat([inside, torch.tensor([outside])])
    image = deposit(both, torch.tensor([1.0, 1.0]), (6, 8))
    assert torch.equal(image, deposit(inside, torch.ones(1), (6, 8)))


@given(scattered_paths(margin_px=2))
def test_dwell_is_conserved_and_adds_up(path):
    xy, dwell, shape = path.positions, path.dwell, path.shape
    image = deposit(xy, dwell, shape)
    assert image.sum() == pytest.approx(float(dwell.sum()), rel=1e-4)
    parts = deposit(xy[:3], dwell[:3], shape) + deposit(xy[3:], dwell[3:], shape)
    assert torch.allclose(image, parts, atol=1e-5)


@pytest.mark.parametrize(
    ("positions", "dwell", "shape", "message"),
    [
        (torch.zeros(4), torch.zeros(4), (8, 8), "positions must be"),
        (torch.zeros(4, 3), torch.zeros(4), (8, 8), "positions must be"),
        (torch.zeros(4, 2), torch.zeros(3), (8, 8), "one value per position"),
        (torch.zeros(4, 2), torch.zeros(4, 1), (8, 8), "one value per position"),
        (torch.zeros(4, 2), torch.zeros(4), (8, 1), "shape must be"),
        (torch.zeros(4, 2), torch.zeros(4), (8, 8, 8), "shape must be"),
        (torch.zeros(4, 2), torch.zeros(4), (8.5, 8), "shape must be"),
    ],
)
def test_shapes_are_checked(positions, dwell, shape, message):
    with pytest.raises(ValueError, match=message):
        deposit(positions, dwell, shape)


def test_lines_are_those_of_pillow():
    # Pixels of Pillow 13's ImageDraw.line, one line per octant, ties (slope 1/2) included.
    cases = {
        ((0, 0), (4, 2)): [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)],
        ((4, 2), (0, 0)): [(4, 2), (3, 1), (2, 1), (1, 0), (0, 0)],
        ((0, 0), (-1, 2)): [(0, 0), (-1, 1), (-1, 2)],
        ((2, 3), (2, 1)): [(2, 3), (2, 2), (2, 1)],
        ((0, 0), (2, -2)): [(0, 0), (1, -1), (2, -2)],
        ((5, 5), (5, 5)): [(5, 5)],
    }
    for ends, pixels in cases.items():
        assert draw_lines(torch.tensor(ends)).tolist() == [list(pixel) for pixel in pixels]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=8))
def test_lines_are_connected_and_pass_through_their_points(points):
    pixels = draw_lines(torch.tensor(points)).tolist()
    assert len({tuple(pixel) for pixel in pixels}) == len(pixels)
    assert {tuple(point) for point in points} <= {tuple(pixel) for pixel in pixels}
    for number, (x, y) in enumerate(pixels[1:], 1):
        assert any(abs(x - a) <= 1 and abs(y - b) <= 1 for a, b in pixels[:number])
