"""Normalised convolution as a first completion, and the encoding that builds on it."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from stem_complete.evaluation.baselines import spline
from stem_complete.scan import (
    PartialScan,
    archimedean,
    encode,
    fill_sigma_px,
    normalised_convolution,
    spline_fill,
)
from stem_complete.scan.splines import MAX_STIFFNESS

DWELL = archimedean((96, 128), 1 / 10).dwell_map()[None, None].expand(2, -1, -1, -1)


def scan_of(image):
    return PartialScan(torch.where(DWELL > 0, image, torch.nan), DWELL)


def smooth_images():
    noise = np.random.default_rng(0).normal(size=(2, 1, 96, 128))
    return torch.from_numpy(gaussian_filter(noise, (0, 0, 12, 12)) * 30).float()


def test_equals_scipy_with_nothing_beyond_the_border():
    image = smooth_images()
    expected = []
    for values, dwell in zip(image[:, 0].numpy(), DWELL[:, 0].numpy(), strict=True):
        sums = gaussian_filter(values * dwell, 4.0, mode="constant")
        expected.append(sums / gaussian_filter(dwell, 4.0, mode="constant"))
    filled = normalised_convolution(scan_of(image), 4.0)
    np.testing.assert_allclose(filled[:, 0], np.stack(expected), atol=1e-4)


def test_a_constant_stays_constant_without_gaps():
    filled = normalised_convolution(scan_of(torch.full((2, 1, 96, 128), 1234.5)), 4.0)
    torch.testing.assert_close(filled, torch.full_like(filled, 1234.5))


def test_out_of_reach_is_the_mean_of_the_scan():
    dwell = torch.zeros(1, 1, 64, 64)
    dwell[..., 2:4, 2:4] = 1
    intensity = torch.where(dwell > 0, 7.0, torch.nan)
    filled = normalised_convolution(PartialScan(intensity, dwell), 1.0)
    assert filled.isfinite().all()
    assert filled[0, 0, -1, -1].item() == pytest.approx(7.0)


def test_nothing_measured_gives_zero_not_nan():
    empty = PartialScan(torch.full((1, 1, 32, 32), torch.nan), torch.zeros(1, 1, 32, 32))
    assert torch.equal(normalised_convolution(empty, 2.0), torch.zeros(1, 1, 32, 32))


TRUSTING = {"fidelity": 10.0, "dwell_exponent": 0.0, "stiffness": 8.0}
WARY = {"fidelity": 0.5, "dwell_exponent": 8.0, "stiffness": 4.0}


@pytest.mark.parametrize("shape", [(96, 128), (64, 64), (33, 70), (2, 2)])
def test_the_spline_fills_any_shape_and_keeps_a_constant(shape):
    dwell = DWELL[..., : shape[0], : shape[1]]
    dwell = torch.where(dwell.sum() > 0, dwell, 1.0)
    scan = PartialScan(torch.where(dwell > 0, 1234.5, torch.nan), dwell)
    torch.testing.assert_close(spline_fill(scan, **TRUSTING), torch.full_like(dwell, 1234.5))


@pytest.mark.parametrize("coverage", [1 / 5, 1 / 10, 1 / 20])
@pytest.mark.parametrize("springs", [TRUSTING, WARY], ids=["trusting", "wary"])
def test_the_spline_is_nearly_the_solution_of_its_equations(coverage, springs):
    image = smooth_images()
    dwell = archimedean((96, 128), coverage).dwell_map()[None, None].expand(2, -1, -1, -1)
    scan = PartialScan(torch.where(dwell > 0, image, torch.nan), dwell)
    filled = spline_fill(scan, **springs)
    for example in range(2):
        solved = torch.from_numpy(
            spline(scan.intensity[example, 0].numpy(), dwell[example, 0].numpy(), **springs)
        )
        difference = (filled[example, 0] - solved).square().mean().sqrt()
        assert difference < 0.05 * image[example].std()


def test_each_scan_may_have_a_plate_of_its_own():
    one = scan_of(smooth_images())
    scan = PartialScan(torch.cat([one.intensity] * 2), torch.cat([one.dwell] * 2))
    springs = {"fidelity": 10.0, "dwell_exponent": 0.0}
    stiffness = torch.tensor([2.0, 2.0, MAX_STIFFNESS, MAX_STIFFNESS])[:, None, None, None]
    alone = [spline_fill(one, **springs, stiffness=value) for value in (2.0, MAX_STIFFNESS)]
    together = spline_fill(scan, **springs, stiffness=stiffness)
    torch.testing.assert_close(together, torch.cat(alone))
    assert (alone[0] - alone[1]).abs().max() > 0.01


def test_the_spline_heeds_a_long_dwell_more_if_asked():
    dwell = torch.tensor([[1.0, 0.1], [0.0, 0.0]])[None, None]
    intensity = torch.tensor([[0.0, 1.0], [torch.nan, torch.nan]])[None, None]
    scan = PartialScan(intensity, dwell)
    even, wary = spline_fill(scan, **TRUSTING), spline_fill(scan, **WARY)
    assert even[0, 0, 1].mean().item() == pytest.approx(0.5, abs=0.05)
    assert abs(wary).max() < 0.1


def test_a_spline_through_nothing_is_zero():
    empty = PartialScan(torch.full((1, 1, 32, 32), torch.nan), torch.zeros(1, 1, 32, 32))
    assert torch.equal(spline_fill(empty, **TRUSTING), torch.zeros(1, 1, 32, 32))


def test_width_follows_the_distance_of_the_turns():
    assert fill_sigma_px(1 / 20) == pytest.approx(8.0)
    assert fill_sigma_px(1 / 100) == pytest.approx(40.0)


@pytest.mark.parametrize(("gain", "shift"), [(1e-2, 3.0), (50.0, -7.0)])
def test_filled_encoding_is_equivariant_and_starts_from_the_fill(gain, shift):
    image = smooth_images()
    one = encode(scan_of(image), "filled", sigma_px=4.0)
    other = encode(scan_of(image * gain + shift), "filled", sigma_px=4.0)
    torch.testing.assert_close(one.x, other.x, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(other.scale, one.scale * gain, rtol=1e-3, atol=0)
    fill = normalised_convolution(scan_of(image), 4.0)
    torch.testing.assert_close(one.offset, fill, atol=1e-4, rtol=0)
    # Where the probe stayed long, the input follows the measurement; in gaps, the fill.
    mean = (DWELL * image).sum((1, 2, 3), keepdim=True) / DWELL.sum((1, 2, 3), keepdim=True)
    x = one.x[:, :1] * one.scale + mean
    torch.testing.assert_close(x, fill + DWELL * (image - fill), atol=1e-3, rtol=1e-3)
