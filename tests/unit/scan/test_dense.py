"""Local means of dense scans: taken where there are no gaps, and as far as they are not noise."""

from __future__ import annotations

import pytest
import torch

from stem_complete.scan import (
    GEOMETRIES,
    Detector,
    PartialScan,
    ScanSimulator,
    bands,
    example_keys,
    uniform,
)
from stem_complete.scan.adaptive import analyse_adaptive
from stem_complete.scan.dense import averaged_where_dense
from stem_complete.scan.filters import gaussian
from stem_complete.scan.parts import take_apart
from stem_complete.scan.random import Stream

SHAPE = (128, 128)
BLUR_PX = 2.5


def scanned(name, coverage, dose=None, *, shape=SHAPE, sigma_px=5.0):
    keys = example_keys(0, 0, torch.arange(2), Stream.NOISE)
    smooth = gaussian(uniform(keys, (1, *shape)) - 0.5, sigma_px)
    images = smooth / smooth.abs().amax((1, 2, 3), keepdim=True)
    simulator = ScanSimulator(
        GEOMETRIES[name](shape, coverage), Detector(dose), 0, sample="original"
    )
    batch = simulator(images, 0, torch.arange(2))
    return batch.scan, batch.truth


def off_by(image, truth):
    return (image - truth).square().mean((1, 2, 3)).sqrt()


@pytest.mark.parametrize("name", ["archimedean", "archimedean_angular", "serpentine_raster"])
def test_a_scan_without_gaps_and_noise_is_its_own_completion(name):
    scan, truth = scanned(name, 1.0)
    wrong = truth + 0.05
    image, means = averaged_where_dense(wrong, take_apart(scan), BLUR_PX)
    assert (off_by(image, truth) < 0.1 * 0.05).all()
    assert (means.expected_error(torch.full_like(truth, 0.05)) < 0.01).all()


@pytest.mark.parametrize("name", ["archimedean", "hilbert"])
def test_means_that_are_but_noisier_leave_a_completion(name):
    scan, truth = scanned(name, 1 / 2, dose=20)
    first = analyse_adaptive(scan).window().offset
    image, means = averaged_where_dense(first, take_apart(scan), BLUR_PX)
    assert means.share.mean() < 0.1
    assert (off_by(image, truth) < 1.02 * off_by(first, truth)).all()
    before = torch.full_like(truth, 0.1)
    assert (means.expected_error(before) > 0.08).all()


def test_gaps_leave_completions_as_they_are():
    scan, truth = scanned("sparse_rows", 1 / 16)
    image, means = averaged_where_dense(truth, take_apart(scan), BLUR_PX)
    assert image is truth
    assert means is None


def test_the_part_without_gaps_alone_is_averaged():
    scan, truth = scanned("serpentine_raster", 1.0)
    stopped = PartialScan(
        scan.intensity, torch.cat([scan.dwell[:, :, :64], 0 * scan.dwell[:, :, 64:]], 2)
    )
    wrong = truth + 0.05
    image, means = averaged_where_dense(wrong, take_apart(stopped), BLUR_PX)
    torch.testing.assert_close(image[:, :, 68:], wrong[:, :, 68:])
    assert (off_by(image[:, :, :60], truth[:, :, :60]) < 0.01).all()
    assert not means.share[:, :, 68:].any()


def test_an_offset_changes_nothing_but_itself():
    scan, truth = scanned("archimedean_angular", 1 / 2)
    moved = PartialScan(scan.intensity + 100, scan.dwell)
    image, _ = averaged_where_dense(truth.double() + 0.05, take_apart(scan), BLUR_PX)
    other, _ = averaged_where_dense(truth.double() + 100.05, take_apart(moved), BLUR_PX)
    torch.testing.assert_close(other - 100, image, atol=1e-4, rtol=0)


def test_a_constant_scan_stays_constant_beside_another_one():
    scan, truth = scanned("serpentine_raster", 1.0)
    intensity = torch.cat([scan.intensity[:1], torch.full_like(scan.intensity[1:], 0.5)])
    both = torch.cat([truth[:1] + 0.05, torch.full_like(truth[1:], 0.5)])
    image, means = averaged_where_dense(
        both, take_apart(PartialScan(intensity, scan.dwell)), BLUR_PX
    )
    torch.testing.assert_close(image[1:], both[1:])
    assert off_by(image, truth)[0] < 0.01
    assert means.expected_error(torch.zeros_like(truth)).isfinite().all()


def test_one_scan_of_a_batch_is_averaged_as_alone():
    scan, truth = scanned("archimedean", 1 / 2)
    together, means = averaged_where_dense(truth + 0.05, take_apart(scan), BLUR_PX)
    second = PartialScan(scan.intensity[1:], scan.dwell[1:])
    alone, own = averaged_where_dense(truth[1:] + 0.05, take_apart(second), BLUR_PX)
    torch.testing.assert_close(together[1:], alone)
    torch.testing.assert_close(means.of(1).share, own.share)


def test_dead_lines_and_hot_pixels_are_left_to_the_completion():
    scan, truth = scanned("serpentine_raster", 1.0, shape=(384, 384), sigma_px=10.0)
    intensity = scan.intensity.clone()
    intensity[:, :, 60] = -2
    intensity[:, :, 20::80, 10::80] = 20
    off = truth + 0.05
    image, means = averaged_where_dense(
        off, take_apart(PartialScan(intensity, scan.dwell)), BLUR_PX
    )
    torch.testing.assert_close(image[:, :, 59:62], off[:, :, 59:62])
    torch.testing.assert_close(image[:, :, 20::80, 10::80], off[:, :, 20::80, 10::80])
    assert (off_by(image, truth) < off_by(off, truth)).all()
    assert means.share.mean() > 0.7


def test_a_path_some_pixels_wide_leaves_gaps_beside_it():
    scan, truth = scanned("serpentine_raster", 1.0)
    on_path = (torch.arange(SHAPE[0]) % 20 < 6).view(1, 1, -1, 1)
    image, means = averaged_where_dense(
        truth + 0.05, take_apart(PartialScan(scan.intensity, scan.dwell * on_path)), BLUR_PX
    )
    torch.testing.assert_close(image, truth + 0.05)
    assert means is None or not means.share.any()


def test_what_a_row_beside_left_in_a_pixel_is_not_its_own_measurement():
    scan, truth = scanned("sparse_rows", 1 / 2)
    first = analyse_adaptive(scan).window().offset
    image, means = averaged_where_dense(first, take_apart(scan), BLUR_PX)
    assert (off_by(image, truth) < off_by(first, truth)).all()
    said = means.expected_error((first - truth).abs()).square().mean((1, 2, 3)).sqrt()
    assert (said > 0.7 * off_by(image, truth)).all()


def test_bands_of_a_large_image_change_nothing(monkeypatch):
    shape = (150, 134)
    scan, truth = scanned("serpentine_raster", 1.0, shape=shape)
    visited = (torch.arange(shape[0]) % 10 < 6).view(1, 1, -1, 1)  # between gaps and none
    parts = take_apart(PartialScan(scan.intensity, scan.dwell * visited))
    whole, _ = averaged_where_dense(truth + 0.05, parts, BLUR_PX)
    monkeypatch.setattr(bands, "_CPU_BAND_PX", 2 * 134 * 30)
    image, _ = averaged_where_dense(truth + 0.05, parts, BLUR_PX)
    torch.testing.assert_close(image, whole)
