"""Spirals: the published one to the pixel, and the exact one to its coverage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from strategies import paths

import stem_complete
from stem_complete.scan import (
    GEOMETRIES,
    ScanPath,
    archimedean,
    drawn_archimedean,
    nominal_archimedean,
)
from stem_complete.scan.raster import inside_image
from stem_complete.vocabulary import Geometry

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


@pytest.mark.parametrize(
    ("coverage", "message"),
    [
        (5, r"^coverage must be in \(0, 1\], got 5; did you mean 0\.05\?$"),
        ("20", r"^coverage must be in \(0, 1\], got 20; did you mean 0\.2\?$"),
        (0, r"^coverage must be in \(0, 1\], got 0$"),
        (-0.05, r"^coverage must be in \(0, 1\], got -0\.05$"),
        ("101/100", "did you mean"),
        (1e6, r"got 1000000\.0$"),
        (float("nan"), "coverage must be a number"),
        (float("inf"), "coverage must be a number"),
        ("1/0", "coverage must be a number"),
        ("a twentieth", "coverage must be a number"),
        (None, "coverage must be a number"),
    ],
)
def test_impossible_coverages_are_refused(coverage, message):
    with pytest.raises(ValueError, match=message):
        archimedean((64, 64), coverage)


def test_configs_may_name_every_geometry():
    assert set(GEOMETRIES) == set(get_args(Geometry))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_geometry_stays_inside_the_image_and_has_its_coverage(geometry):
    path = GEOMETRIES[geometry]((256, 256), 1 / 20)
    assert inside_image(path.positions, path.shape).all()
    # A nominal coverage is the inverse pitch of the spiral, which its true one is only near to.
    assert path.coverage == pytest.approx(1 / 20, rel=0.3 if geometry == "nominal" else 0.03)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("shape", [(0, 64), (64, 1), (64,), (64, 64, 1), (63.5, 64)], ids=str)
def test_impossible_shapes_are_refused(shape, geometry):
    with pytest.raises(ValueError, match="shape must be"):
        GEOMETRIES[geometry](shape, 0.05)


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


@pytest.mark.parametrize("coverage", ["1/10", 1 / 17.9, 1 / 87])
def test_drawn_spirals_are_pixels_and_have_the_true_coverage(coverage):
    path = drawn_archimedean((512, 512), coverage)
    assert torch.equal(path.positions, path.positions.round())
    assert set(path.dwell.tolist()) == {1.0}
    assert path.coverage == pytest.approx(float(Fraction(str(coverage))), rel=1e-2)


def test_no_drawn_spiral_is_as_dense():
    with pytest.raises(ValueError, match=r"coverage 0\.9 is more than a drawn spiral can have"):
        drawn_archimedean((128, 128), 0.9)


@given(paths())
def test_coverage_is_the_mean_of_a_finite_dwell_map_of_the_images_shape(path):
    dwell = path.dwell_map()
    assert dwell.shape == path.shape
    assert (dwell.isfinite() & (dwell >= 0)).all()
    assert path.coverage == pytest.approx(float(dwell.double().mean()))
