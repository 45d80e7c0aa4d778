"""Large images in bands of rows: every pixel as in the whole image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stem_complete.scan import PartialScan, archimedean, bands, encode, raster, spline_fill
from stem_complete.scan.bands import in_bands, sums_in_bands


@pytest.fixture
def small_bands(monkeypatch):
    """Makes images of the tests large ones."""

    def begin(px: int = 1000) -> None:
        monkeypatch.setattr(bands, "_CPU_BAND_PX", px)
        monkeypatch.setattr(raster, "_BAND_PX", px)

    return begin


@pytest.mark.parametrize("shape", [(64, 48), (101, 30), (90, 1001)])
def test_a_function_sees_its_surroundings_across_bands(shape, small_bands):
    images = torch.randn(2, 1, *shape)

    def roughness(images, others):
        return F.avg_pool2d(images, 5, 1, 2, count_include_pad=False) * others

    whole = in_bands(roughness, images, images)
    small_bands()
    assert sum(1 for _ in bands.bands(images)) > 5
    assert torch.equal(in_bands(roughness, images, images, halo=2), whole)
    assert not torch.equal(in_bands(roughness, images, images, halo=1), whole)
    total = sums_in_bands(torch.mul, images, images)
    torch.testing.assert_close(total, images.square().sum((1, 2, 3), keepdim=True))


def test_bands_may_halve_and_enlarge(small_bands):
    images = torch.randn(1, 3, 96, 64)
    small_bands()
    halved = in_bands(lambda images: F.avg_pool2d(images, 2), images, multiple=2)
    assert torch.equal(halved, F.avg_pool2d(images, 2))

    def enlarged(images):
        return F.interpolate(images, scale_factor=2, mode="bilinear")

    assert torch.equal(in_bands(enlarged, halved, halo=1), enlarged(halved))


@pytest.mark.parametrize("shape", [(128, 96), (75, 130)])
def test_a_spline_in_bands_is_the_same(shape, small_bands):
    dwell = archimedean(shape, "1/10").dwell_map()[None, None]
    scan = PartialScan(torch.where(dwell > 0, torch.randn(1, 1, *shape), torch.nan), dwell)
    springs = {"fidelity": 5.0, "dwell_exponent": 0.0, "stiffness": 15.0}
    whole = spline_fill(scan, **springs)
    small_bands()
    # But for the sums over the scan, which give the springs their scale.
    torch.testing.assert_close(spline_fill(scan, **springs), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoding", ["filled", "waves", "adaptive"])
def test_a_scan_in_bands_is_encoded_as_in_one(encoding, small_bands):
    shape = (128, 160)
    dwell = archimedean(shape, "1/10").dwell_map()[None, None]
    y, x = torch.arange(128.0)[:, None], torch.arange(160.0)
    image = torch.cos(0.8 * x + 0.3 * y) + torch.sin(y / 20) + 0.1 * torch.randn(1, 1, *shape)
    scan = PartialScan(torch.where(dwell > 0, image, torch.nan), dwell)
    whole = encode(scan, encoding)
    small_bands(2000)
    banded = encode(scan, encoding)
    for one, other in zip(
        (*whole[:3], *(whole.bound or ())), (*banded[:3], *(banded.bound or ())), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 50), (37, 200), (300, 7)])
def test_a_path_is_spread_in_bands_to_the_bit(shape, small_bands):
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([shape[1], shape[0]])
    positions = torch.rand(2000, 2, generator=generator, dtype=torch.float64) * (size + 2) - 1.5
    positions[:50] = positions[:50].round()
    values = torch.rand(2000, generator=generator)
    whole = raster.spread(positions, values, shape)
    small_bands(200)
    assert torch.equal(raster.spread(positions, values, shape), whole)
