"""Partial scans of images: sample by sample along a path, and pixel by pixel as published."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scans import images_of, keys_of

from stem_complete.data.scans import PathScan
from stem_complete.scan import (
    Detector,
    NoNoise,
    ReferenceNoise,
    ScanHardware,
    ScanPath,
    acquire,
    acquire_pixels,
    archimedean,
    serpentine_raster,
)
from stem_complete.scan.detector import follow

PATH = archimedean((40, 40), "1/10")
NOISELESS = Detector(None)
NOISES = [NoNoise(), ReferenceNoise()]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_unmeasured_pixels_are_nan_and_only_those(noise):
    image, dwell = images_of(3, 1, 40, 40), archimedean((40, 40), "1/10").dwell_map()[None, None]
    scan = acquire_pixels(image, dwell, noise, keys_of(3))
    assert scan.intensity.shape == scan.dwell.shape == image.shape
    assert scan.intensity.dtype == scan.dwell.dtype == torch.float32
    assert torch.equal(scan.intensity.isnan(), (dwell == 0).expand_as(image))
    assert not scan.intensity.isinf().any()
    assert 0.2 < scan.intensity.isnan().float().mean() < 0.8


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_a_scan_is_the_same_alone_and_in_a_batch(noise):
    image, dwell = images_of(4, 1, 40, 40), archimedean((40, 40), "1/10").dwell_map()[None, None]
    batch = acquire_pixels(image, dwell, noise, keys_of(4)).intensity
    alone = [
        acquire_pixels(image[i : i + 1], dwell, noise, keys_of(4)[i : i + 1])[0] for i in range(4)
    ]
    assert torch.equal(batch.nan_to_num(9), torch.cat(alone).nan_to_num(9))


@pytest.mark.parametrize(
    ("image", "dwell", "keys", "message"),
    [
        ((2, 3, 8, 8), (1, 1, 8, 8), 2, "images"),
        ((8, 8), (8, 8), 1, "images"),
        ((2, 1, 8, 8), (8, 8), 2, "does not fit"),
        ((2, 1, 8, 8), (1, 1, 8, 9), 2, "does not fit"),
        ((2, 1, 8, 8), (3, 1, 8, 8), 2, "does not fit"),
        ((2, 1, 8, 8), (1, 1, 8, 8), 1, "keys"),
    ],
)
def test_acquire_pixels_checks_its_shapes(image, dwell, keys, message):
    with pytest.raises(ValueError, match=message):
        acquire_pixels(torch.zeros(image), torch.ones(dwell), NoNoise(), keys_of(keys))


def along(path, images, detector=NOISELESS, **hardware):
    """Scans of `images` along `path`."""
    num = len(images)
    positions = path.positions.float().expand(num, -1, -1)
    dwell = path.dwell.expand(num, -1)
    return acquire(images, positions, dwell, detector, keys_of(num), ScanHardware(**hardware))


def test_samples_are_put_on_the_grid_as_a_path_scan_is():
    image = images_of(1, 1, 40, 40)
    scan = along(PATH, image)
    x, y = PATH.positions.T
    inside = (x > 0) & (x < 39) & (y > 0) & (y < 39)
    left, top = x.floor().long().clamp(0, 38), y.floor().long().clamp(0, 38)
    right, down = x - left, y - top
    pixels = image[0, 0].double()
    samples = (
        pixels[top, left] * (1 - right) * (1 - down)
        + pixels[top, left + 1] * right * (1 - down)
        + pixels[top + 1, left] * (1 - right) * down
        + pixels[top + 1, left + 1] * right * down
    )
    assert inside.float().mean() > 0.9
    path = ScanPath(PATH.positions[inside], PATH.dwell[inside], PATH.shape)
    raster = PathScan(path.positions, path.dwell, samples[inside], path.shape).raster()
    ours = along(path, image)
    assert np.allclose(raster.dwell, ours.dwell[0, 0], atol=1e-6)
    assert np.allclose(raster.intensity, ours.intensity[0, 0], atol=1e-4, equal_nan=True)
    assert torch.equal(scan.intensity.isnan(), scan.dwell == 0)


def test_a_scan_along_a_path_is_the_same_alone_in_a_batch_and_filled_up():
    images, detector = images_of(3, 1, 40, 40), Detector((3, 300), 1.0, 2.0, afterglow_dwells=0.5)
    hardware = {"coil_lag_dwells": 1.0, "drift_px": 5.0, "line_jitter_px": 0.5}
    batch = along(PATH, images, detector, dead_fraction=0.1, **hardware)
    num = len(PATH.dwell)
    filled_up = torch.nn.functional.pad(PATH.positions.float(), (0, 0, 0, 50), value=7.0)
    for i, key in enumerate(keys_of(3)):
        alone = acquire(
            images[i : i + 1],
            filled_up[None],
            torch.nn.functional.pad(PATH.dwell, (0, 50))[None],
            detector,
            key[None],
            ScanHardware(dead_fraction=0.1, **hardware),
        )
        assert torch.allclose(alone.dwell[0], batch.dwell[i])
        assert torch.allclose(
            alone.intensity[0].nan_to_num(9), batch.intensity[i].nan_to_num(9), atol=1e-5
        )
    assert num > 500


@pytest.mark.parametrize("intensity", [-1, 0.3, 1])
@pytest.mark.parametrize(
    ("dose", "dwell", "readout", "background"), [(20, 0.5, 0, 0), (1000, 0.25, 3, 5), (3, 1, 1, 2)]
)
def test_a_detector_has_the_mean_and_variance_of_its_counts(
    intensity, dose, dwell, readout, background
):
    detector = Detector(dose, background, readout)
    dwells = torch.full((1, 40_000), float(dwell))
    x = detector.measure(torch.full_like(dwells, intensity), dwells, keys_of(1)).double()
    full = dose * dwell
    electrons = full * (intensity + 1) / 2 + background * dwell
    variance = (electrons + readout**2) * (2 / full) ** 2
    assert float(x.mean()) == pytest.approx(intensity, abs=4 * math.sqrt(variance / 40_000))
    assert float(x.var()) == pytest.approx(variance, rel=0.06)


def test_a_grazed_pixel_is_no_noisier_than_the_samples_that_grazed_it():
    """Counts belong to samples, not to pixels that the probe saw for a millionth of a dwell."""
    scan = along(PATH, torch.zeros(20, 1, 40, 40), Detector(10))
    for low, high in ((1e-9, 0.02), (0.02, 0.1), (0.1, 1)):
        grazed = (scan.dwell > low) & (scan.dwell <= high)
        assert grazed.sum() > 500
        # A sample of a quarter dwell counts 1.25 electrons on average.
        assert scan.intensity[grazed].square().mean().sqrt() < 2 * math.sqrt(1.25) / 2.5


def test_doses_are_drawn_log_uniformly():
    dwell = torch.ones(2_000, 200)
    x = Detector((3, 3000)).measure(torch.ones_like(dwell), dwell, keys_of(2_000))
    dose = 4 / x.var(1)
    assert dose.log10().mean() == pytest.approx(math.log10(math.sqrt(9000)), abs=0.1)
    assert 2 < dose.min() < 4
    assert 2_000 < dose.max() < 5_000


def test_digital_units_are_whole_and_cut_off_at_zero():
    detector = Detector(10, 0.0, 3.0, gain=4.0, offset=2.0)
    dwell = torch.ones(1, 5_000)
    electrons = (detector.measure(torch.full_like(dwell, -1.0), dwell, keys_of(1)) + 1) / 2 * 10
    units = electrons * 4 + 2
    assert torch.allclose(units, units.round(), atol=1e-3)
    assert units.min() == pytest.approx(0, abs=1e-4)
    assert (units == units.min()).float().mean() > 0.3


def test_afterglow_and_coils_follow_a_step_exponentially():
    step = torch.cat([torch.zeros(50), torch.ones(50)])[None]
    dwell = torch.full_like(step, 0.5)
    seen = follow(step, dwell, 2.0)
    expected = 1 - torch.exp(-(torch.arange(50) + 1) * 0.25)
    assert torch.allclose(seen[0, 50:], expected, atol=1e-3)
    assert seen[0, :50].abs().max() == 0
    glow = replace(NOISELESS, afterglow_dwells=2.0).measure(step, dwell, keys_of(1))
    assert torch.equal(glow, seen)


def test_the_lag_ends_where_the_beam_is_blanked():
    path = serpentine_raster((40, 40), 1.0)
    dwell = path.dwell[None]
    places = path.positions.float()[None]
    hardware = ScanHardware(coil_lag_dwells=2.0)
    true = hardware.true_positions(places, dwell, (40, 40), keys_of(1))
    lag = (places - true)[0, :, 0]
    # In the middle of a line against the direction of the scan, by a geometric series.
    expected = 1 / (math.exp(1 / 2) - 1)
    assert lag[20].item() == pytest.approx(expected, abs=0.01)
    assert lag[60].item() == pytest.approx(-expected, abs=0.01)
    jump = torch.tensor([[0.0, 0.0]] * 20 + [[30.0, 0.0]] * 20)[None]
    ones = torch.ones(1, 40)
    at_rest = hardware.true_positions(jump, ones, (40, 40), keys_of(1))
    assert torch.allclose(at_rest, jump, atol=1e-4)
    recorded = replace(hardware, blanked_jumps=False)
    assert recorded.true_positions(jump, ones, (40, 40), keys_of(1))[0, 20, 0] < 15


def test_drift_is_centred_on_the_scan_and_in_proportion_to_its_time():
    positions, dwell = PATH.positions.float().expand(50, -1, -1), PATH.dwell.expand(50, -1)
    true = ScanHardware(drift_px=8.0).true_positions(positions, dwell, (40, 40), keys_of(50))
    moved = true - positions
    way = (moved[:, -1] - moved[:, 0]).norm(dim=1)
    assert torch.allclose(way, torch.tensor(8 * PATH.coverage), rtol=0.05)
    assert moved.mean((0, 1)).abs().max() < 0.1
    assert (moved[:, 0] + moved[:, -1]).norm(dim=1).max() < 0.01
    angles = torch.atan2(moved[:, -1, 1], moved[:, -1, 0])
    assert len(angles.unique()) == 50


def test_jitter_moves_lines_as_a_whole():
    path = serpentine_raster((40, 40), 1.0)
    positions, dwell = path.positions.float().expand(30, -1, -1), path.dwell.expand(30, -1)
    true = ScanHardware(line_jitter_px=0.5).true_positions(positions, dwell, (40, 40), keys_of(30))
    moved = (true - positions)[:, 1:-1].view(30, -1, 2)
    assert moved.std() == pytest.approx(0.5, rel=0.1)
    steps = moved.diff(dim=1).norm(dim=2)
    assert (steps > 1e-4).sum(1).float().mean() == pytest.approx(39, abs=2)


def test_dead_samples_leave_pixels_unmeasured():
    path = serpentine_raster((40, 40), 1.0)
    scan = along(path, images_of(4, 1, 40, 40), dead_fraction=0.25)
    assert scan.dwell.mean() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"dose_electrons_per_px": (0, 1)},
        {"dose_electrons_per_px": (3, 2)},
        {"dose_electrons_per_px": (1, math.inf)},
        {"readout_std_electrons": -1},
        {"readout_std_electrons": math.nan},
        {"gain": 0},
        {"afterglow_dwells": -1},
    ],
)
def test_impossible_detectors_are_refused(options):
    with pytest.raises(ValueError, match=r"dose|" + next(iter(options))):
        Detector(**options)


@pytest.mark.parametrize("options", [{"dead_fraction": 1}, {"drift_px": -1}])
def test_impossible_hardware_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ScanHardware(**options)


def test_acquire_checks_its_shapes():
    positions, dwell = torch.zeros(2, 5, 2), torch.ones(2, 5)
    with pytest.raises(ValueError, match="images"):
        acquire(torch.zeros(2, 2, 8, 8), positions, dwell, NOISELESS, keys_of(2))
    with pytest.raises(ValueError, match="do not fit"):
        acquire(torch.zeros(2, 1, 8, 8), positions, dwell[:, :4], NOISELESS, keys_of(2))
