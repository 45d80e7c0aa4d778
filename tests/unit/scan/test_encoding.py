"""Network input of partial scans, in all encodings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gains, inverting, offsets, shapes, tensor_scans
from torch.nn.functional import avg_pool2d

import stem_complete
from stem_complete.scan import (
    CORRECTED,
    NUM_CHANNELS,
    NoNoise,
    PartialScan,
    ReferenceNoise,
    ScanSimulator,
    Stream,
    acquire_pixels,
    archimedean,
    encode,
    example_keys,
    normalised_convolution,
    plane_waves,
    uniform,
)
from stem_complete.scan.filters import gaussian

DWELL = archimedean((48, 48), "1/10").dwell_map()[None, None]
PUBLISHED = Path(stem_complete.__file__).parent / "examples/published"


def drawn_micrographs():
    """Particles with lattice fringes on a rough, uneven film, [4, 1, 128, 128]."""
    y, x = torch.arange(128.0)[:, None], torch.arange(128.0)
    number = torch.arange(4.0)[:, None, None]
    fringes = 0.15 * torch.cos(2 * math.pi * (x + 0.4 * y) / (7 + 3 * number))
    particle = torch.sigmoid(40 - torch.hypot(x - 50 - 5 * number, y - 60))
    film = 0.3 * torch.sin(x / 40 + number) * torch.cos(y / 30)
    rough = uniform(example_keys(0, 0, torch.arange(4), Stream.NOISE), (1, 132, 132)) - 0.5
    particles = (particle * (0.3 + fringes) + film)[:, None]
    return particles + 0.5 * avg_pool2d(rough, 5, stride=1)


def scan_of(count=3, noise=None):
    keys = example_keys(0, 0, torch.arange(count), Stream.NOISE)
    image = uniform(keys, (1, 48, 48)) * 2 - 1
    return acquire_pixels(image, DWELL, noise or ReferenceNoise(), keys)


@pytest.mark.parametrize("encoding", ["standard", "reference"])
@pytest.mark.parametrize("noise", [NoNoise(), ReferenceNoise()])
def test_unmeasured_pixels_are_zero_and_nothing_is_nan(encoding, noise):
    scan = scan_of(noise=noise)
    encoded = encode(scan, encoding)
    assert encoded.x.shape == (3, 2, 48, 48)
    assert encoded.x.dtype == torch.float32
    assert encoded.offset.shape == encoded.scale.shape == (3, 1, 1, 1)
    assert encoded.x.isfinite().all()
    assert (encoded.x[:, :1][scan.dwell == 0] == 0).all()
    assert torch.equal(encoded.x[:, 1:], scan.dwell)


def test_standard_encoding_has_dwell_weighted_mean_0_and_deviation_1():
    scan = scan_of()
    x, offset, scale, _ = encode(scan, "standard")
    weighted = x[:, :1].double()
    d, total = scan.dwell.double(), scan.dwell.double().sum((1, 2, 3))
    z = (weighted / d).nan_to_num(0)
    assert (weighted.sum((1, 2, 3)) / total).abs().max() < 1e-6
    assert torch.allclose((d * z**2).sum((1, 2, 3)) / total, torch.ones(3).double(), atol=1e-5)
    # The way back, which is how completions get their units.
    measured = scan.dwell > 0
    back = (offset + scale * z.float())[measured]
    assert torch.allclose(back, scan.intensity[measured], atol=1e-5)


@given(
    tensor_scans(shapes=shapes(12), measured=st.floats(0.3, 1), kinds=("noise",)),
    gains | inverting,
    offsets,
)
def test_standard_encoding_is_equivariant_to_affine_maps(scan, gain, offset):
    # With a deviation of about 1 and a mean of about 0, so that the offset is in units of contrast.
    scan = PartialScan((scan.intensity - 500) / 100, scan.dwell)
    shift = offset * gain
    one = encode(scan, "standard")
    other = encode(PartialScan(scan.intensity * gain + shift, scan.dwell), "standard")
    # What float32 has lost of the intensities nobody can restore.
    lost = 1e-6 * (abs(gain) + abs(shift)) / abs(gain)
    expected = one.x * torch.tensor([1.0 if gain > 0 else -1.0, 1.0]).view(1, 2, 1, 1)
    assert torch.allclose(other.x, expected, atol=1e-5 + 10 * lost)
    magnitude = abs(gain) + abs(shift)
    assert torch.allclose(other.offset, one.offset * gain + shift, atol=1e-5 * magnitude)
    assert torch.allclose(other.scale, one.scale * abs(gain), atol=1e-5 * magnitude)


@pytest.mark.parametrize("value", [0.0, 0.1, -1.0, 1e6, 12345.678])
def test_a_constant_scan_is_encoded_as_zero(value):
    intensity = torch.where(DWELL > 0, value, torch.nan)
    x, offset, scale, _ = encode(PartialScan(intensity, DWELL), "standard")
    assert float(offset) == pytest.approx(value, rel=1e-6)
    assert scale == 1
    assert x[:, 0].abs().max() <= 1e-6 * abs(value)


@pytest.mark.parametrize("encoding", NUM_CHANNELS)
def test_a_scan_of_nothing_is_encoded_as_zero(encoding):
    empty = PartialScan(torch.full_like(DWELL, torch.nan), torch.zeros_like(DWELL))
    encoded = encode(empty, encoding)
    # Of the adaptive encoding, two channels say that nothing is known.
    known = [0, 1, 2, 3, 6] if encoding == "adaptive" else slice(None)
    assert (encoded.x[:, known] == 0).all()
    assert encoded.x.isfinite().all()
    assert (encoded.offset == 0).all()
    assert 0 < encoded.scale <= 1


@pytest.mark.parametrize("encoding", NUM_CHANNELS)
def test_encoding_is_the_same_alone_and_in_a_batch(encoding):
    scan = scan_of(3)
    alone = [encode(PartialScan(i[None], d[None]), encoding) for i, d in zip(*scan, strict=True)]
    tensors = [[*one[:3], *(one.bound or ())] for one in (*alone, encode(scan, encoding))]
    for *parts, together in zip(*tensors, strict=True):
        # Sums of several images may be split over threads differently than those of one.
        assert torch.allclose(torch.cat(parts), together, atol=1e-6)


@pytest.mark.parametrize("encoding", CORRECTED)
@pytest.mark.parametrize(("gain", "shift"), [(3.0, -20.0), (1e-3, 5.0), (500.0, 4e3)])
def test_first_completions_follow_gain_and_offset(encoding, gain, shift):
    scan = scan_of(2)
    one = encode(scan, encoding)
    other = encode(PartialScan(scan.intensity * gain + shift, scan.dwell), encoding)
    lost = 1e-6 * (gain + abs(shift)) / gain
    assert one.x.shape[1] == NUM_CHANNELS[encoding]
    assert torch.allclose(other.x, one.x, atol=1e-4 + 10 * lost)
    assert torch.allclose(other.offset, one.offset * gain + shift, atol=1e-4 * (gain + abs(shift)))


def test_channels_of_splines_are_two_first_completions_and_what_the_second_leaves():
    scan = scan_of(2)
    x, uniform_spline, scale, _ = encode(scan, "splines")
    assert torch.equal(x[:, 2:3], scan.dwell)
    dwell_weighted = uniform_spline + scale * x[:, 3:]
    measured = scan.intensity.nan_to_num(0.0)
    beyond = scan.dwell * (measured - dwell_weighted) / scale
    assert torch.allclose(x[:, 1:2], beyond, atol=1e-4)
    # Short dwells are noisy, and only the uniform spline follows them.
    short = (scan.dwell > 0) & (scan.dwell < 0.3)
    near, far = ((measured - fill)[short].abs().mean() for fill in (uniform_spline, dwell_weighted))
    assert near < 0.7 * far


def test_waves_come_first_and_splines_through_what_they_leave():
    x = torch.arange(256.0)
    image = torch.cos(2 * math.pi * x / 11).expand(1, 1, 256, 256)
    dwell = archimedean((256, 256), 1 / 30).dwell_map()[None, None]
    scan = acquire_pixels(
        image, dwell, NoNoise(), example_keys(0, 0, torch.arange(1), Stream.NOISE)
    )
    waves = plane_waves(scan)
    found = encode(scan, "waves")
    rest = encode(PartialScan(scan.intensity - waves, dwell), "splines")
    torch.testing.assert_close(found.offset, waves + rest.offset, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scale, rest.scale)
    measured = scan.intensity[dwell > 0]
    torch.testing.assert_close(found.x[:, 3:4] * measured.std(), waves, atol=0.05, rtol=0)
    for channel, same in ((1, 1), (2, 2), (4, 3)):
        torch.testing.assert_close(found.x[:, channel], rest.x[:, same], atol=1e-3, rtol=0)


@pytest.mark.parametrize("encoding", ["splines", "waves", "adaptive"])
@pytest.mark.parametrize("noise", [NoNoise(), ReferenceNoise()], ids=["clean", "noisy"])
def test_the_unit_of_splines_is_the_error_of_the_first_completion(noise, encoding):
    """Within a factor of three, over errors that differ a hundredfold."""
    images = drawn_micrographs()
    errors, units = [], []
    for coverage in (1 / 10, 1 / 20, 1 / 50):
        path = archimedean((128, 128), coverage)
        simulate = ScanSimulator(path, noise, 0, sample="original")
        batch = simulate(images, 0, torch.arange(4))
        _, uniform_spline, unit, _ = encode(batch.scan, encoding)
        errors.append((batch.truth - uniform_spline).square().mean((1, 2, 3)).sqrt())
        units.append(unit.flatten())
    ratio = torch.cat(errors) / torch.cat(units)
    assert (ratio.log().abs() < math.log(3)).all()


def test_large_offsets_do_not_cost_precision():
    # Counts of a 16-bit detector: a small contrast on a large background.
    scan = scan_of(1, NoNoise())
    x = encode(PartialScan((scan.intensity * 16).round() + 60_000, scan.dwell), "standard").x
    expected = encode(PartialScan((scan.intensity * 16).round(), scan.dwell), "standard").x
    assert torch.allclose(x, expected, atol=2e-6)


def test_reference_encoding_is_the_published_files_formula():
    scan = scan_of()
    detected = scan.dwell * scan.intensity
    x, offset, scale, _ = encode(scan, "reference")
    largest = detected.nan_to_num(-1).amax((1, 2, 3), keepdim=True)
    expected = torch.where(scan.dwell > 0, (detected + 1) / (1 + largest), 0)
    assert torch.allclose(x[:, :1], expected, atol=1e-6)
    assert (offset == 0).all()
    assert (scale == 1).all()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_reference_encoding_of_a_noisy_truth_looks_like_the_published_scan(number):
    # The numbers behind the published noise are unknown, as is the truth before its blur: on the
    # path, the values can only correlate with those of the published file and span their range.
    import tifffile

    files = [PUBLISHED / f"{name}-{number}.tif" for name in ("truth", "partial_scan", "mask")]
    truth, published, dwell = (torch.from_numpy(tifffile.imread(f))[None, None] for f in files)
    keys = example_keys(0, 0, torch.tensor([0]), Stream.NOISE)
    ours = encode(acquire_pixels(truth * 2 - 1, dwell, ReferenceNoise(), keys), "reference").x[
        :, :1
    ]
    path = dwell > 0
    assert torch.corrcoef(torch.stack([ours[path], published[path]]))[0, 1] > 0.7
    assert ours.max() == pytest.approx(float(published.max()), abs=1e-3)
    assert float(ours[path].mean()) == pytest.approx(float(published[path].mean()), abs=0.1)


def test_unknown_encodings_and_shapes_are_refused():
    scan = scan_of(2)
    with pytest.raises(ValueError, match="encoding must be"):
        encode(scan, "published")
    with pytest.raises(ValueError, match="intensity and dwell"):
        encode(PartialScan(scan.intensity, scan.dwell[:1]), "standard")
    with pytest.raises(ValueError, match="intensity and dwell"):
        encode(PartialScan(scan.intensity[0], scan.dwell[0]), "standard")


@pytest.mark.parametrize(("gain", "shift"), [(1e-2, 3.0), (50.0, -7.0)])
def test_filled_encoding_is_equivariant_and_starts_from_the_fill(gain, shift):
    noise = torch.randn(2, 1, 96, 128, generator=torch.Generator().manual_seed(0))
    image = 30 * gaussian(noise, 12.0)
    dwell = archimedean((96, 128), 1 / 10).dwell_map()[None, None].expand(2, -1, -1, -1)

    def scan_of(image):
        return PartialScan(torch.where(dwell > 0, image, torch.nan), dwell)

    one = encode(scan_of(image), "filled", sigma_px=4.0)
    other = encode(scan_of(image * gain + shift), "filled", sigma_px=4.0)
    torch.testing.assert_close(one.x, other.x, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(other.scale, one.scale * gain, rtol=1e-3, atol=0)
    fill = normalised_convolution(scan_of(image), 4.0)
    torch.testing.assert_close(one.offset, fill, atol=1e-4, rtol=0)
    # Where the probe stayed long, the input follows the measurement; in gaps, the fill.
    mean = (dwell * image).sum((1, 2, 3), keepdim=True) / dwell.sum((1, 2, 3), keepdim=True)
    x = one.x[:, :1] * one.scale + mean
    torch.testing.assert_close(x, fill + dwell * (image - fill), atol=1e-3, rtol=1e-3)
