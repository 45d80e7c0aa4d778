"""Spirals: the published one to the pixel, and the exact one to its coverage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

import stem_complete
from stem_complete.scan import (
    archimedean,
    archimedean_angular,
    drawn_archimedean,
    fermat,
    nominal_archimedean,
)

PUBLISHED = Path(stem_complete.__file__).parent / "examples/published"
SHAPES = [(512, 512), (255, 255), (128, 300), (301, 97)]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nominal_spiral_is_the_published_mask(number):
    import tifffile

    mask = torch.from_numpy(tifffile.imread(PUBLISHED / f"mask-{number}.tif"))
    spiral = nominal_archimedean((512, 512), "1/20").dwell_map()
    assert torch.equal(spiral, mask)
    assert spiral.max() == 0.625


# Measured on the authors' code: nominal coverage -> 1 / mean dwell.
TRUE_COVERAGES = {
    "1/10": 11.25, "1/16": 17.9, "1/20": 22.1, "1/25": 27.3, "1/36": 38.2,
    "1/49": 50.0, "1/64": 60.5, "1/81": 73.7, "1/100": 87.0,
}  # fmt: skip


@pytest.mark.parametrize(("nominal", "inverse"), TRUE_COVERAGES.items())
def test_nominal_spirals_have_the_published_true_coverage(nominal, inverse):
    path = nominal_archimedean((512, 512), nominal)
    assert 1 / path.coverage == pytest.approx(inverse, abs=0.05)


def test_nominal_path_holds_each_drawn_pixel_once_from_the_centre_outwards():
    path = nominal_archimedean((512, 512), "1/20")
    assert torch.equal(path.positions, path.positions.round())
    assert len(path.positions.unique(dim=0)) == len(path.positions)
    assert (path.dwell == 1).all()
    # Time order: the radius never falls back by more than a pixel's diagonal and truncation.
    radius = (path.positions - 256.5).norm(dim=1)
    assert radius[0] < 1
    assert (radius.cummax(0).values - radius).max() < 3


@pytest.mark.parametrize("shape", [(97, 97), (100, 260)], ids=str)
def test_nominal_spirals_of_other_shapes_cover_roughly_their_inverse_pitch(shape):
    assert nominal_archimedean(shape, "1/10").coverage == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("inverse", [10, 16, 20, 36, 50, 100])
def test_exact_spiral_has_exactly_its_coverage(shape, inverse):
    path = archimedean(shape, Fraction(1, inverse))
    dwell = path.dwell_map()
    assert float(dwell.double().mean()) == pytest.approx(1 / inverse, rel=1e-5)
    assert path.coverage == pytest.approx(1 / inverse, rel=1e-5)
    assert dwell.min() >= 0
    assert dwell.max() <= 1
    # Continuous: many more values than the sixteenths of the drawn spiral.
    assert len(dwell.unique()) > 100


@pytest.mark.parametrize("shape", [(512, 512), (64, 200)], ids=str)
@pytest.mark.parametrize("coverage", [1, 0.5, 1 / 3, 1 / 400, 1 / 1000])
def test_exact_spiral_is_sensible_at_any_coverage(shape, coverage):
    dwell = archimedean(shape, coverage).dwell_map()
    assert float(dwell.double().mean()) == pytest.approx(coverage, rel=1e-5)
    assert dwell.min() >= 0
    assert dwell.max() <= 1.3


def test_full_coverage_is_nearly_uniform():
    dwell = archimedean((256, 256), 1).dwell_map()
    assert dwell[1:-1, 1:-1].std() < 0.05


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("coverage", [1 / 10, 1 / 40], ids=["1/10", "1/40"])
def test_exact_probe_moves_at_constant_speed_in_time_order(shape, coverage):
    path = archimedean(shape, coverage)
    centre = torch.tensor([shape[1] - 1, shape[0] - 1]) / 2
    offset = path.positions - centre
    assert (path.dwell == path.dwell[0]).all()
    # Equal dwell per arc length, while the probe stays in the image (until the first corner cut).
    within = int((offset.norm(dim=1) < min(shape) / 2 - 1).sum())
    steps = path.positions[:within].diff(dim=0).norm(dim=1)
    assert steps.max() / steps[5:].min() < 1.02
    # The radius grows with time by one pitch, 1 / coverage, per turn.
    radius = offset.norm(dim=1)
    assert (radius.diff() > 0).all()
    angle = torch.atan2(offset[:, 1], offset[:, 0])
    turns = (radius * coverage - angle / (2 * torch.pi)) % 1
    assert torch.minimum(turns, 1 - turns)[1:].max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_spiral_reaches_the_whole_image(shape):
    pitch = 12
    path = archimedean(shape, Fraction(1, pitch))
    x, y = path.positions.T
    assert ((x >= -0.5) & (x < shape[1] - 0.5) & (y >= -0.5) & (y < shape[0] - 0.5)).all()
    rows, columns = torch.arange(0, shape[0], 11), torch.arange(0, shape[1], 7)
    pixels = torch.cartesian_prod(columns, rows).double()
    corners = torch.cartesian_prod(torch.tensor([0, shape[1] - 1]), torch.tensor([0, shape[0] - 1]))
    distance = torch.cdist(torch.cat([pixels, corners.double()]), path.positions[::4]).amin(1)
    # Half a pitch from the nearest turn, but at the corners, beyond which the next turn lies.
    assert distance.max() < pitch + 1
    assert distance.quantile(0.95) < pitch / 2 + 1


@pytest.mark.parametrize("coverage", ["1/20", " 1/20 ", "0.05", 0.05, Fraction(1, 20)], ids=repr)
def test_coverage_may_be_written_in_several_ways(coverage):
    reference = archimedean((64, 64), 1 / 20)
    path = archimedean((64, 64), coverage)
    assert torch.equal(path.positions, reference.positions)
    assert torch.equal(path.dwell, reference.dwell)


@pytest.mark.parametrize("coverage", ["1/10", 1 / 17.9, 1 / 87])
def test_drawn_spirals_are_pixels_and_have_the_true_coverage(coverage):
    path = drawn_archimedean((512, 512), coverage)
    assert torch.equal(path.positions, path.positions.round())
    assert set(path.dwell.tolist()) == {1.0}
    assert path.coverage == pytest.approx(float(Fraction(str(coverage))), rel=1e-2)


def test_no_drawn_spiral_is_as_dense():
    with pytest.raises(ValueError, match=r"coverage 0\.9 is more than a drawn spiral can have"):
        drawn_archimedean((128, 128), 0.9)


@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_constant_angular_velocity_turns_by_the_same_angle_for_each_sample(shape):
    path = archimedean_angular(shape, "1/10")
    offset = path.positions - torch.tensor([shape[1] - 1, shape[0] - 1]) / 2
    radius, angle = offset.norm(dim=1), torch.atan2(offset[:, 1], offset[:, 0])
    within = int((radius < min(shape) / 2 - 1).sum())
    turned = angle[:within].diff() % (2 * torch.pi)
    assert turned.max() - turned.min() < 1e-9
    assert (path.dwell == path.dwell[0]).all()
    # Of the same turns as the spiral at constant speed, samples at most 0.75 px apart.
    turns = (radius / 10 - angle / (2 * torch.pi)) % 1
    assert torch.minimum(turns, 1 - turns)[1:].max() < 1e-6
    assert path.positions[:within].diff(dim=0).norm(dim=1).max() < 0.76


def test_constant_angular_velocity_dwells_longest_in_the_centre():
    dwell = archimedean_angular((128, 128), 1 / 2).dwell_map()
    # As 1 / radius: at half the radius, twice the dwell.
    y, x = torch.meshgrid(*[torch.arange(128) - 63.5] * 2, indexing="ij")
    radius = torch.hypot(x, y)
    near, far = (dwell[(radius - r).abs() < 4].mean() for r in (25, 50))
    assert near / far == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_fermat_points_are_evenly_spread_and_visited_along_turns(shape):
    path = fermat(shape, "1/20")
    assert path.dwell.min() == path.dwell.max() == pytest.approx(1, abs=0.03)
    spacing = 20**0.5
    distance = torch.cdist(path.positions, path.positions).fill_diagonal_(torch.inf).amin(1)
    # Random points would come as near as a fraction of a pixel.
    assert distance.min() > 0.8 * spacing
    assert distance.max() < 1.2 * spacing
    # While the turns are whole, the probe steps to a near point, and the radius grows.
    radius = (path.positions - torch.tensor([shape[1] - 1, shape[0] - 1]) / 2).norm(dim=1)
    within = int((radius < min(shape) / 2 - 2 * spacing).sum())
    assert path.positions[:within].diff(dim=0).norm(dim=1).max() < 2.5 * spacing
    assert (radius.cummax(0).values - radius).max() < 1.5 * spacing
