"""What holds of all geometries."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import seeds, shapes

from stem_complete.scan import GEOMETRIES, RANDOM_GEOMETRIES, archimedean
from stem_complete.scan.raster import inside_image
from stem_complete.vocabulary import Geometry

# The published spirals are what they are: their coverages are near what was asked for.
EXACT = [name for name in GEOMETRIES if name not in ("drawn", "nominal")]
WITHOUT_JUMPS = ["lissajous", "hilbert", "serpentine_raster", "random_walk"]
SINGLE_PIXELS = ["fermat", "jittered_grid", "random"]

coverages = st.floats(1 / 110, 1) | st.sampled_from([1, 1 / 2, 1 / 5, 1 / 20, 1 / 50, 1 / 110])


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


@pytest.mark.parametrize("geometry", EXACT)
@settings(max_examples=20)
@example(shape=(4, 2), coverage=1 / 64, seed=0)
@given(shape=shapes(2, 90), coverage=coverages, seed=seeds)
def test_coverage_is_exact_and_all_samples_are_in_the_image(geometry, shape, coverage, seed):
    path = GEOMETRIES[geometry](shape, coverage, seed)
    assert path.shape == shape
    assert path.coverage == pytest.approx(coverage, rel=1e-5)
    assert inside_image(path.positions, shape).all()
    assert (path.dwell > 0).all()
    # A constant sample rate, and few samples: at most four for each full pixel dwell.
    assert path.dwell.min() == path.dwell.max()
    if min(shape) >= 32 and coverage >= 1 / 10:
        assert len(path.dwell) < 4.2 * coverage * shape[0] * shape[1]


@pytest.mark.parametrize("geometry", [name for name in EXACT if name != "random_walk"])
def test_long_images_are_reached_on_all_sides(geometry):
    for shape in ((300, 40), (40, 300)):
        path = GEOMETRIES[geometry](shape, "1/15")
        assert path.coverage == pytest.approx(1 / 15, rel=1e-5)
        x, y = path.positions.T
        # To about a row, a cell or a turn.
        assert x.min() < 16
        assert x.max() > shape[1] - 17
        assert y.min() < 16
        assert y.max() > shape[0] - 17


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_seeds_choose_the_paths_of_random_geometries_alone(geometry):
    make = GEOMETRIES[geometry]
    one, again, other = (make((64, 48), 1 / 7, seed) for seed in (3, 3, 4))
    assert torch.equal(one.positions, again.positions)
    assert torch.equal(one.dwell, again.dwell)
    assert torch.equal(one.positions, other.positions) == (geometry not in RANDOM_GEOMETRIES)
    assert torch.equal(make((64, 48), 1 / 7).positions, make((64, 48), 1 / 7, 0).positions)


@pytest.mark.parametrize("geometry", WITHOUT_JUMPS)
@pytest.mark.parametrize("coverage", [1, 1 / 3, 1 / 20], ids="{:.3g}".format)
def test_the_probe_does_not_jump_and_spends_a_dwell_on_each_pixel_of_its_way(geometry, coverage):
    path = GEOMETRIES[geometry]((128, 160), coverage)
    steps = path.positions.diff(dim=0).norm(dim=1)
    assert steps.max() <= 1
    # Steps cut the corners of a Hilbert curve.
    assert float(path.dwell[0] / steps.mean()) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("geometry", SINGLE_PIXELS)
@pytest.mark.parametrize("coverage", [1, 1 / 3, 1 / 20, 1 / 110], ids="{:.3g}".format)
def test_single_pixels_are_measured_for_one_dwell(geometry, coverage):
    path = GEOMETRIES[geometry]((128, 160), coverage)
    assert float(path.dwell[0]) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("geometry", EXACT)
def test_a_full_scan_measures_everywhere(geometry):
    dwell = GEOMETRIES[geometry]((64, 64), 1).dwell_map()
    measured = (dwell > 0.2).double().mean()
    # A random walk crosses itself, and a Lissajous figure and a constant angular velocity spend
    # their time elsewhere.
    least = {"random_walk": 0.6, "lissajous": 0.8, "archimedean_angular": 0.9}
    assert measured > least.get(geometry, 0.99)
