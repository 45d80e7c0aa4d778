"""Plane waves found in partial scans: lattices, and nothing where there are none."""

import math

import pytest
import torch

from stem_complete.scan import (
    GEOMETRIES,
    NoNoise,
    PartialScan,
    ReferenceNoise,
    Stream,
    acquire_pixels,
    archimedean,
    example_keys,
    normal,
    plane_waves,
    spline_fill,
)
from stem_complete.scan.filters import gaussian

KEYS = example_keys(0, 0, torch.arange(2), Stream.NOISE)
PLATE = {"fidelity": 10.0, "dwell_exponent": 0.0, "stiffness": 4.0}


def lattice(shape, periods_px=(9.0, 14.0)):
    """Two waves each, in other directions in the second image, of amplitude 0.3."""
    y, x = torch.arange(float(shape[0]))[:, None], torch.arange(float(shape[1]))
    images = []
    for angle in (0.3, 1.2):
        waves = torch.zeros(shape)
        for number, period in enumerate(periods_px):
            turned = angle + number * math.pi / 3
            along = x * math.cos(turned) + y * math.sin(turned)
            waves += 0.3 * torch.cos(2 * math.pi * along / period + number)
        images.append(waves)
    return torch.stack(images)[:, None]


def scan_of(images, coverage, noise=None):
    dwell = archimedean(images.shape[-2:], coverage).dwell_map()[None, None]
    return acquire_pixels(images, dwell, noise or NoNoise(), KEYS[: len(images)])


def rms(images):
    return images.square().mean((1, 2, 3)).sqrt()


def plate_errors(scan, truth):
    """Of a plate through the whole scan, and of one through what waves leave over, with them."""
    waves = plane_waves(scan)
    rest = PartialScan(scan.intensity - waves, scan.dwell)
    plates = spline_fill(scan, **PLATE), waves + spline_fill(rest, **PLATE)
    return tuple(rms(plate - truth) for plate in plates)


@pytest.mark.parametrize("shape", [(256, 256), (255, 193)])
@pytest.mark.parametrize("coverage", [1 / 20, 1 / 50])
@pytest.mark.parametrize("noise", [NoNoise(), ReferenceNoise()], ids=["clean", "noisy"])
def test_a_lattice_goes_on_between_the_turns(shape, coverage, noise):
    truth = lattice(shape)
    scan = scan_of(truth, coverage, noise)
    found = plane_waves(scan)
    assert (rms(found - truth) < 0.55 * rms(truth)).all()
    # A plate flattens it there.
    assert (rms(spline_fill(scan, **PLATE) - truth) > 0.7 * rms(truth)).all()


def test_gain_and_offset_change_nothing_else():
    scan = scan_of(lattice((256, 256)), 1 / 20)
    found = plane_waves(scan)
    other = plane_waves(PartialScan(500 * scan.intensity + 4e3, scan.dwell))
    torch.testing.assert_close(other, 500 * found, atol=0.05, rtol=0)


def test_each_scan_has_its_own():
    scan = scan_of(lattice((256, 256)), 1 / 20)
    alone = [plane_waves(PartialScan(*(part[i : i + 1] for part in scan))) for i in range(2)]
    torch.testing.assert_close(plane_waves(scan), torch.cat(alone), atol=1e-5, rtol=0)


def test_noise_is_no_lattice():
    noise = normal(KEYS, (1, 256, 256))
    found = plane_waves(scan_of(noise, 1 / 20))
    assert (rms(found) < 0.1 * rms(noise)).all()


@pytest.mark.parametrize("turns", [4.1, 4.3, 4.7, 5.2, 6.0])
def test_what_a_plate_bridges_is_left_to_it(turns):
    # Where aliases were taken for waves, errors grew up to fourfold.
    truth = lattice((512, 512), periods_px=(10 * turns, 12 * turns))
    without, with_waves = plate_errors(scan_of(truth, 1 / 10), truth)
    assert (without < 0.05 * rms(truth)).all()
    assert (with_waves < 1.75 * without).all()


@pytest.mark.parametrize("contrast", [1, 2])
def test_no_particle_with_a_lattice_is_much_worse_for_it(contrast):
    y, x = torch.arange(128.0)[:, None], torch.arange(128.0)
    inside = torch.sigmoid((45 - torch.hypot(x - 55, y - 60)) / 2)
    fringes = torch.cat([lattice((128, 128), periods) for periods in ((9, 14), (12, 20), (20, 30))])
    images = inside * (0.5 + contrast * fringes) + 0.2 * torch.sin(x / 25) * torch.cos(y / 35)
    keys = example_keys(1, 0, torch.arange(6), Stream.NOISE)
    scan = acquire_pixels(
        images, archimedean((128, 128), 1 / 20).dwell_map()[None, None], NoNoise(), keys
    )
    without, with_waves = plate_errors(scan, images)
    assert (with_waves < 1.3 * without).all()
    assert contrast == 1 or (with_waves / without).log().mean() < 0


@pytest.mark.parametrize("coverage", [1 / 2, 1 / 5, 1 / 10])
@pytest.mark.parametrize("geometry", ["hilbert", "sparse_rows", "jittered_grid"])
def test_no_long_wave_is_taken_for_a_short_one(geometry, coverage):
    # Paths that repeat themselves see aliases of anything smooth, which made errors twice as large.
    smooth = gaussian(normal(KEYS, (1, 256, 256)), 8.0)
    truth = smooth / rms(smooth)[:, None, None, None]
    dwell = GEOMETRIES[geometry]((256, 256), coverage).dwell_map()[None, None]
    without, with_waves = plate_errors(acquire_pixels(truth, dwell, NoNoise(), KEYS), truth)
    assert (with_waves < 1.02 * without).all()


@pytest.mark.parametrize("shape", [(2, 2), (3, 5), (33, 70)])
def test_any_shape_and_nothing_measured(shape):
    constant = PartialScan(torch.full((1, 1, *shape), 1234.5), torch.ones(1, 1, *shape))
    empty = PartialScan(torch.full((1, 1, *shape), torch.nan), torch.zeros(1, 1, *shape))
    for scan in (constant, empty):
        found = plane_waves(scan)
        assert found.shape == (1, 1, *shape)
        assert found.abs().max() < 1e-3
