from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from stem_complete import load_completer
from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import ArtifactError, ConfigError, DataError
from stem_complete.inference import Completer, build_artifact, error_map
from stem_complete.inference.card import CARD_FILE
from stem_complete.scan import archimedean, bands


@pytest.fixture(scope="module")
def scan(texture, spiral):
    return spiral(texture(0))


@pytest.mark.parametrize("shape", [(32, 32), (33, 65), (96, 96), (100, 70), (47, 130)])
def test_a_scan_of_any_size_gives_a_float32_image_of_its_size(completer, texture, spiral, shape):
    image, error = completer.complete(*spiral(texture(1, shape)))
    for result in (image, error):
        assert result.shape == shape
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
    assert (error > 0).all()
    assert image.std() > 0


def test_integers_on_a_large_offset_keep_their_contrast(completer, scan):
    intensity, dwell = scan
    counts = np.where(dwell > 0, np.round(10 * np.nan_to_num(intensity)) + 60_000, 0)
    low = completer.complete(counts.astype(np.uint16), dwell).image
    high = completer.complete(counts - 60_000, dwell).image
    np.testing.assert_allclose(low - 60_000, high, atol=0.01)


def test_a_constant_scan_is_completed_by_its_constant(completer, scan):
    _, dwell = scan
    image, error = completer.complete(np.where(dwell > 0, 7.25, np.nan), dwell)
    np.testing.assert_array_equal(image, np.float32(7.25))
    np.testing.assert_allclose(error, 0, atol=1e-6)


class TestWhatWasNotMeasured:
    def test_pixels_without_dwell_are_not_looked_at(self, completer, scan):
        intensity, dwell = scan
        expected = completer.complete(intensity, dwell)
        spoilt = completer.complete(np.where(dwell > 0, intensity, 1e6), dwell)
        np.testing.assert_array_equal(spoilt.image, expected.image)

    def test_pixels_of_nan_are_not_either(self, completer, scan):
        intensity, dwell = scan
        some = np.zeros_like(dwell)
        some[::3] = dwell[::3]
        expected = completer.complete(intensity, some)
        spoilt = completer.complete(np.where(some > 0, intensity, np.nan), dwell)
        np.testing.assert_array_equal(spoilt.image, expected.image)

    @pytest.mark.parametrize("missing", [np.nan, 0.0], ids=["nan", "zero"])
    def test_without_dwell_the_scan_tells(self, completer, scan, missing):
        intensity, dwell = scan
        binary = (dwell > 0).astype(float)
        expected = completer.complete(intensity, binary)
        alone = completer.complete(np.where(dwell > 0, intensity, missing))
        np.testing.assert_array_equal(alone.image, expected.image)

    def test_zero_is_an_intensity_where_nan_is_the_gap(self, completer, scan):
        intensity, dwell = scan
        with_zeros = np.where(dwell > 0.3, 0.0, intensity)
        expected = completer.complete(with_zeros, (dwell > 0).astype(float))
        np.testing.assert_array_equal(completer.complete(with_zeros).image, expected.image)

    def test_masks_may_be_of_booleans(self, completer, scan):
        intensity, dwell = scan
        mask = completer.complete(intensity, 255 * (dwell > 0))
        np.testing.assert_array_equal(mask.image, completer.complete(intensity).image)


def _with(array, value):
    array = np.array(array, dtype=float)
    array[np.unravel_index(np.argmax(np.nan_to_num(array)), array.shape)] = value
    return array


BAD = {
    "nothing-measured": (lambda i, d: (np.full_like(i, np.nan), d), "at least one measured"),
    "all-zero": (lambda i, d: (np.zeros_like(i), None), "at least one measured"),
    "no-dwell": (lambda i, d: (i, np.zeros_like(d)), "at least one measured"),
    "inf": (lambda i, d: (_with(i, np.inf), d), "1 infinite"),
    "stack": (lambda i, d: (i[None], d[None]), r"one scan \[h, w\].*\(1, 96, 96\)"),
    "row": (lambda i, d: (i[0], d[0]), r"shape \(96,\)"),
    "small": (lambda i, d: (i[:31], d[:31]), "at least 32 px.*31, 96"),
    "empty": (lambda i, d: (i[:0], d[:0]), r"shape \(0, 96\)"),
    "dwell-of-another-shape": (lambda i, d: (i, d[:-1]), r"shape \(96, 96\).*\(95, 96\)"),
    "negative-dwell": (lambda i, d: (i, _with(d, -1)), "1 negative"),
    "nan-dwell": (lambda i, d: (i, _with(d, np.nan)), "1 NaN"),
    "dwell-in-microseconds": (lambda i, d: (i, 10.5 * d), "--dwell-unit us"),
    "dwell-of-another-scan": (lambda i, d: (i, np.roll(d, 3, 0)), "belongs to this scan"),
    "complex": (lambda i, d: (i + 1j, d), "real numbers.*complex128"),
    "text": (lambda i, d: (np.full(i.shape, "a"), d), "real numbers"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_bad_scans_are_refused_in_one_line(completer, scan, spoil, message):
    with pytest.raises(DataError, match=message) as caught:
        completer.complete(*spoil(*scan))
    assert "\n" not in str(caught.value)


def test_scans_of_one_shape_are_completed_together_as_alone(completer, texture, spiral):
    scans = [RasterScan(*spiral(10.0**seed * texture(seed))) for seed in range(3)]
    for number, (scan, found) in enumerate(
        zip(scans, completer.complete_scans(scans), strict=True)
    ):
        image, error = completer.complete_scan(scan)
        np.testing.assert_allclose(found.image, image, atol=1e-4 * 10**number)
        np.testing.assert_allclose(found.error, error, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_image(completer, artifact, scan):
    image, error = Completer(artifact, "cuda").complete(*scan)
    expected = completer.complete(*scan)
    # Its convolutions round to 10 bits (TF32).
    np.testing.assert_allclose(image, expected.image, atol=0.02 * expected.image.std())
    np.testing.assert_allclose(error, expected.error, rtol=0.02)


def test_bf16_differs_by_some_percent_of_the_contrast(completer, artifact, scan):
    image, error = Completer(artifact, "cpu", precision="bf16").complete(*scan)
    expected = completer.complete(*scan)
    assert image.dtype == error.dtype == np.float32
    difference = np.sqrt(np.mean((image - expected.image) ** 2))
    assert 0 < difference < 0.1 * expected.image.std()  # of random weights
    np.testing.assert_allclose(error, expected.error, rtol=0.1)


def test_threads_may_share_a_completer(completer, texture, spiral):
    scans = [spiral(texture(seed)) for seed in range(6)]
    expected = [completer.complete(*scan).image for scan in scans]
    with ThreadPoolExecutor(3) as pool:
        images = list(pool.map(lambda scan: completer.complete(*scan).image, scans))
    for image, same in zip(images, expected, strict=True):
        np.testing.assert_array_equal(image, same)


def test_large_images_are_tiled(artifact, texture, spiral):
    scan = spiral(texture(2, (64, 800)))
    whole = Completer(artifact, "cpu").complete(*scan).image
    tiled = Completer(artifact, "cpu", tile_px=576, overlap_px=288).complete(*scan).image
    difference = np.abs(tiled - whole)
    # The tiles are 0 .. 576 and 288 .. 800, and this network reaches 263 px.
    assert difference[:, :288].max() < 1e-4
    assert difference[:, 576:].max() < 1e-4
    # In between each tile sees a border that is none, yet has little weight near it.
    assert difference[:, 288:576].max() > 0
    assert difference[:, 288:576].mean() < 0.2 * whole.std()


@pytest.mark.parametrize("keep_measured", [False, True])
def test_large_scans_are_completed_as_in_one_band(
    completer, texture, spiral, monkeypatch, keep_measured
):
    scan = RasterScan(*spiral(texture(3, (96, 130))))
    whole = completer.complete_scan(scan, keep_measured=keep_measured)
    monkeypatch.setattr(bands, "_CPU_BAND_PX", 1500)
    monkeypatch.setattr(error_map, "_ROWS", 11)
    image, error = completer.complete_scan(scan, keep_measured=keep_measured)
    np.testing.assert_allclose(image, whole.image, atol=1e-3 * whole.image.std())
    np.testing.assert_allclose(error, whole.error, rtol=1e-2)


@pytest.fixture(scope="module")
def reference(make_config, make_network):
    config = make_config("model.encoding=reference")
    return Completer(build_artifact(make_network(config), config=config), "cpu")


class TestReferenceEncoding:
    def test_the_range_of_the_specimen_may_be_given(self, reference, scan):
        intensity, dwell = scan
        unit = intensity / 4
        expected = reference.complete(unit, dwell, intensity_range=(-1, 1)).image
        same = reference.complete(100 + 10 * unit, dwell, intensity_range=(90, 110)).image
        np.testing.assert_allclose((same - 100) / 10, expected, atol=1e-4)

    def test_by_default_it_is_the_measured_one(self, reference, scan):
        intensity, dwell = scan
        measured = (np.nanmin(intensity), np.nanmax(intensity))
        expected = reference.complete(intensity, dwell, intensity_range=measured).image
        np.testing.assert_array_equal(reference.complete(intensity, dwell).image, expected)
        wider = reference.complete(intensity, dwell, intensity_range=(-10, 10)).image
        assert np.abs(wider - expected).max() > 0.01

    @pytest.mark.parametrize("bad", [(1, 1), (1, 0), (0, np.nan), (0, np.inf)])
    def test_an_empty_range_is_refused(self, reference, scan, bad):
        with pytest.raises(DataError, match="low < high"):
            reference.complete(*scan, intensity_range=bad)


def test_a_range_means_nothing_to_the_standard_encoding(completer, scan):
    plain = completer.complete(*scan).image
    ranged = completer.complete(*scan, intensity_range=(-20, 30)).image
    np.testing.assert_allclose(ranged, plain, atol=1e-3)


def test_a_first_completion_is_that_without_the_network(completer, texture, spiral):
    assert completer.first_completion(RasterScan(*spiral(texture(0)))) is None
    truth = texture(0, (128, 128))
    intensity, dwell = spiral(truth)
    first = load_completer().first_completion(RasterScan(500 * intensity + 4e3, dwell))
    assert first.dtype == np.float32
    # Between the turns too it is much nearer to the truth than the mean of the scan is.
    assert np.std((first - 4e3) / 500 - truth) < 0.5 * np.std(truth)


def test_without_calibration_there_is_no_error_map(reference, scan):
    assert np.isnan(reference.complete(*scan).error).all()


def test_errors_are_estimated_only_if_asked_for(completer, scan, monkeypatch):
    expected = completer.complete(*scan)
    monkeypatch.setattr("stem_complete.inference.error_map.error_features", None)
    image, error = completer.complete(*scan, error_map=False)
    assert error is None
    np.testing.assert_array_equal(image, expected.image)


def test_scans_along_paths_are_completed_as_on_the_grid(completer, texture):
    path = archimedean((96, 96), "1/10")
    x, y = path.positions.round().long().clamp(0, 95).T.numpy()
    scan = PathScan(path.positions, path.dwell, texture(0)[y, x], path.shape)
    expected = completer.complete_scan(scan.raster())
    np.testing.assert_array_equal(completer.complete_scan(scan).image, expected.image)


class TestLoading:
    def test_from_a_model_folder_or_the_run_it_lies_in(self, model_folder, completer, scan):
        expected = completer.complete(*scan)
        for source in (model_folder, str(model_folder.parent)):
            image, error = load_completer(source, "cpu").complete(*scan)
            np.testing.assert_array_equal(image, expected.image)
            np.testing.assert_array_equal(error, expected.error)

    def test_a_run_without_model_says_how_to_make_one(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        with pytest.raises(ArtifactError, match="export_checkpoint"):
            load_completer(tmp_path)

    def test_nothing_is_no_model(self, tmp_path):
        with pytest.raises(ArtifactError, match=CARD_FILE):
            load_completer(tmp_path / "none")

    @pytest.mark.parametrize("device", ["gpu", "cuda:99"])
    def test_a_device_must_be_there(self, artifact, device):
        with pytest.raises(ConfigError, match=f"found {device}"):
            Completer(artifact, device)

    def test_a_precision_must_be_known(self, artifact):
        with pytest.raises(ConfigError, match="expected float32 or bf16, found int8"):
            Completer(artifact, "cpu", precision="int8")

    def test_tiles_must_fit_the_network(self, artifact):
        with pytest.raises(ValueError, match="multiples of 32"):
            Completer(artifact, "cpu", tile_px=100)
