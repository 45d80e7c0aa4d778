"""The adaptive encoding: honest about its error, calm where nothing was measured."""

from __future__ import annotations

import math

import pytest
import torch

from stem_complete.models import to_completion
from stem_complete.scan import (
    GEOMETRIES,
    Detector,
    PartialScan,
    ReferenceNoise,
    ScanSimulator,
    acquire_pixels,
    archimedean,
    encode,
    example_keys,
    serpentine_raster,
    uniform,
)
from stem_complete.scan.filters import gaussian
from stem_complete.scan.parts import gaps, reach_of, without_outliers
from stem_complete.scan.random import Stream

SHAPE = (128, 128)


def smooth_images(count=4):
    keys = example_keys(0, 0, torch.arange(count), Stream.NOISE)
    noise = gaussian(uniform(keys, (1, *SHAPE)) - 0.5, 6.0)
    return noise / noise.abs().amax((1, 2, 3), keepdim=True)


def scanned(images, path, dose=None):
    detector = Detector(dose)
    batch = ScanSimulator(path, detector, 0, sample="original")(
        images, 0, torch.arange(len(images))
    )
    return batch.scan, batch.truth


@pytest.mark.parametrize("dose", [None, 30])
@pytest.mark.parametrize("coverage", [1 / 4, 1 / 20])
@pytest.mark.parametrize("name", ["archimedean", "random", "line_hop", "hilbert"])
def test_its_unit_is_the_error_of_its_first_completion(name, coverage, dose):
    scan, truth = scanned(smooth_images(), GEOMETRIES[name](SHAPE, coverage), dose)
    encoded = encode(scan, "adaptive")
    error = (encoded.offset - truth).square().mean((1, 2, 3)).sqrt()
    ratio = error / encoded.scale.flatten()
    # Of dense scans without noise the blur of the truth is all the error.
    lowest = 0.05 if dose is None and coverage > 0.1 else 0.3
    assert (ratio > lowest).all()
    assert (ratio < 2).all()


def test_noise_makes_it_smoother():
    images = smooth_images()
    dense = serpentine_raster(SHAPE, 1.0)
    noisy, truth = scanned(images, dense, dose=5)
    encoded = encode(noisy, "adaptive")
    raw = (noisy.intensity - truth).square().mean((1, 2, 3)).sqrt()
    error = (encoded.offset - truth).square().mean((1, 2, 3)).sqrt()
    assert (error < 0.4 * raw).all()
    levels = [
        encode(scanned(images, dense, dose)[0], "adaptive").x[:, 4].mean()
        for dose in (None, 300, 5)
    ]
    assert levels == sorted(levels)


def test_pixels_that_are_measured_each_on_its_own_without_noise_are_followed():
    images = smooth_images()
    rough = images + 0.2 * (uniform(example_keys(1, 0, torch.arange(4), Stream.NOISE), (1, *SHAPE)))
    dwell = archimedean(SHAPE, coverage=1 / 10).dwell_map().expand_as(rough)
    exact = PartialScan(torch.where(dwell > 0, rough, torch.nan), dwell)
    along, _ = scanned(rough, archimedean(SHAPE, coverage=1 / 10), dose=100)
    published = acquire_pixels(
        rough, dwell, ReferenceNoise(), example_keys(0, 0, torch.arange(4), Stream.NOISE)
    )

    def followed(scan):
        encoded = encode(scan, "adaptive")
        measured = scan.dwell > 0
        return (encoded.x[:, 2:3][measured] > 0.9).float().mean()

    assert followed(exact) > 0.9
    assert followed(along) == followed(published) == 0


def test_gaps_are_those_of_the_visited_part():
    dwell = archimedean(SHAPE, 1 / 16).dwell_map()[None, None]
    gap, typical = gaps(dwell)
    assert gap[dwell > 0].mean() < 0.3 * gap[dwell == 0].mean()
    half = dwell.clone()
    half[..., 64:] = 0
    gap_of_half, typical_of_half = gaps(half)
    assert typical_of_half.item() == pytest.approx(typical.item(), rel=0.3)
    assert gap_of_half[..., -1].min() > 3 * gap.max()
    # But for the border, the part that was visited has the gaps that it has in a whole scan.
    torch.testing.assert_close(gap_of_half[..., :48], gap[..., :48], rtol=0, atol=0.2)


@pytest.mark.parametrize("coverage", [1 / 5, 1 / 10])
@pytest.mark.parametrize("geometry", ["lissajous", "line_hop", "sparse_rows", "random"])
def test_the_gaps_of_a_scan_that_is_dense_in_part_are_within_reach(geometry, coverage):
    dwell = GEOMETRIES[geometry]((512, 512), coverage, seed=0).dwell_map()[None, None]
    gap, typical = gaps(dwell)
    assert (reach_of(gap, typical) < 1).float().mean() < 0.01
    dwell[..., 256:] = 0
    assert reach_of(*gaps(dwell))[..., -128:].max() == 0


def test_nothing_is_added_where_nothing_was_measured_near():
    images = smooth_images(2)
    path = archimedean(SHAPE, 1 / 16)
    scan, _ = scanned(images, path)
    dwell = scan.dwell.clone()
    dwell[..., 64:] = 0
    encoded = encode(PartialScan(scan.intensity.where(dwell > 0, torch.nan), dwell), "adaptive")
    wild = to_completion(1e6 * torch.randn(encoded.offset.shape), encoded)
    beyond = encoded.offset.clamp(encoded.bound.lowest, encoded.bound.highest)[..., -16:]
    assert torch.allclose(wild[..., -16:], beyond, atol=1e-6)
    # And the first completion itself is calm there.
    measured = encoded.offset[..., :64].std()
    assert encoded.offset[..., -16:].diff(dim=-1).abs().max() < 0.1 * measured


@pytest.mark.parametrize("value", [1e3, -1e3, 1e9])
def test_a_hot_pixel_changes_little_beyond_itself(value):
    scan, _ = scanned(smooth_images(1), archimedean(SHAPE, 1 / 8))
    hot = scan.intensity.clone()
    hot[..., 64, 64] = value
    assert scan.dwell[..., 64, 64] > 0
    one, other = (encode(PartialScan(i, scan.dwell), "adaptive") for i in (scan.intensity, hot))
    change = (one.offset - other.offset).abs()
    change[..., 52:77, 52:77] = 0
    assert change.max() < 0.1 * scan.intensity.nan_to_num(0).std()
    assert other.scale / one.scale < 1.5


def test_few_electrons_are_no_outliers():
    scan, _ = scanned(-0.9 * torch.ones(1, 1, *SHAPE), serpentine_raster(SHAPE, 1.0), dose=1)
    assert torch.equal(without_outliers(scan), scan.intensity)


def test_waves_are_given_up_where_lines_cannot_tell_them_apart():
    x = torch.arange(128.0)
    fringes = torch.cos(2 * math.pi * x / 7)[:, None].expand(1, 1, *SHAPE)
    rows = serpentine_raster(SHAPE, 1 / 8)
    scan, _ = scanned(fringes, rows)
    assert encode(scan, "adaptive").x[:, 3].abs().max() == 0
    spiral = archimedean(SHAPE, 1 / 8)
    scan, truth = scanned(fringes, spiral)
    waves = encode(scan, "adaptive")
    assert waves.x[:, 3].abs().max() > 0.5
    both = torch.stack([waves.offset.flatten(), truth.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8


def test_limits_of_outliers_are_seen_in_any_columns():
    """Every so many pixels of a large scan are looked at, which must not all lie in gaps."""
    dwell = torch.zeros(1, 1, 256, 512)
    dwell[..., 1::2] = 1
    intensity = torch.where(dwell > 0, torch.randn(dwell.shape), torch.nan)
    kept = without_outliers(PartialScan(intensity, dwell))
    assert torch.equal(kept, intensity.nan_to_num(0.0))
