"""Splines through partial scans, compared with the direct solution of their equations."""

import pytest
import torch
from scans import DWELL, scan_of, smooth_images

from stem_complete.data.scans import RasterScan
from stem_complete.evaluation.thin_plate import plate
from stem_complete.scan import (
    PartialScan,
    archimedean,
    spline_fill,
)
from stem_complete.scan.splines import MAX_STIFFNESS

UNIFORM = {"fidelity": 10.0, "dwell_exponent": 0.0, "stiffness": 8.0}
DWELL_WEIGHTED = {"fidelity": 0.5, "dwell_exponent": 8.0, "stiffness": 4.0}


@pytest.mark.parametrize("shape", [(96, 128), (64, 64), (33, 70), (2, 2)])
def test_the_spline_fills_any_shape_and_keeps_a_constant(shape):
    dwell = DWELL[..., : shape[0], : shape[1]]
    dwell = torch.where(dwell.sum() > 0, dwell, 1.0)
    scan = scan_of(torch.tensor(1234.5), dwell)
    torch.testing.assert_close(spline_fill(scan, **UNIFORM), torch.full_like(dwell, 1234.5))


@pytest.mark.parametrize("coverage", [1 / 5, 1 / 10, 1 / 20])
@pytest.mark.parametrize("springs", [UNIFORM, DWELL_WEIGHTED], ids=["uniform", "dwell_weighted"])
def test_the_spline_is_nearly_the_solution_of_its_equations(coverage, springs):
    image = smooth_images()
    dwell = archimedean((96, 128), coverage).dwell_map()[None, None].expand(2, -1, -1, -1)
    scan = scan_of(image, dwell)
    filled = spline_fill(scan, **springs)
    for example in range(2):
        raster = RasterScan(scan.intensity[example, 0].numpy(), dwell[example, 0].numpy())
        low, high = raster.measured_range
        solved = torch.from_numpy(low + (high - low) * plate(raster, **springs))
        difference = (filled[example, 0] - solved).square().mean().sqrt()
        assert difference < 0.05 * image[example].std()


def test_each_scan_may_have_its_own_stiffness():
    one = scan_of(smooth_images())
    scan = PartialScan(torch.cat([one.intensity] * 2), torch.cat([one.dwell] * 2))
    springs = {"fidelity": 10.0, "dwell_exponent": 0.0}
    stiffness = torch.tensor([2.0, 2.0, MAX_STIFFNESS, MAX_STIFFNESS])[:, None, None, None]
    alone = [spline_fill(one, **springs, stiffness=value) for value in (2.0, MAX_STIFFNESS)]
    together = spline_fill(scan, **springs, stiffness=stiffness)
    torch.testing.assert_close(together, torch.cat(alone))
    assert (alone[0] - alone[1]).abs().max() > 0.01


def test_dwell_weights_make_the_spline_follow_long_dwells():
    dwell = torch.tensor([[1.0, 0.1], [0.0, 0.0]])[None, None]
    intensity = torch.tensor([[0.0, 1.0], [torch.nan, torch.nan]])[None, None]
    scan = PartialScan(intensity, dwell)
    uniform, weighted = spline_fill(scan, **UNIFORM), spline_fill(scan, **DWELL_WEIGHTED)
    assert uniform[0, 0, 1].mean().item() == pytest.approx(0.5, abs=0.05)
    assert abs(weighted).max() < 0.1


def test_a_spline_of_no_measurement_is_zero():
    empty = PartialScan(torch.full((1, 1, 32, 32), torch.nan), torch.zeros(1, 1, 32, 32))
    assert torch.equal(spline_fill(empty, **UNIFORM), torch.zeros(1, 1, 32, 32))
