"""The expected error: right on images it was not fitted to, in the units of the scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from error_maps import expected_error, on_scale
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from stem_complete.data.scans import RasterScan
from stem_complete.evaluation.baselines import normalised_convolution
from stem_complete.inference import error_fit
from stem_complete.inference.error_features import (
    FEATURES,
    ErrorFeatures,
    _Neighbourhood,
    error_features,
)
from stem_complete.inference.error_fit import calibrated
from stem_complete.inference.error_map import ErrorCalibration
from stem_complete.inference.scaled_scans import scaled
from stem_complete.scan.parts import take_apart

NOISES = (0.0, 0.3)


def completed(texture, spiral, seed, coverage="1/20", noise=0.0):
    """A scan, its completion by a baseline, and the truth.

    The contrast of the texture differs from place to place, as in real micrographs.
    """
    contrast = 10 ** texture(1000 + seed, (128, 128)).clip(-1, 1)
    truth = contrast * texture(seed, (128, 128))
    measured = truth + noise * truth.std() * np.random.default_rng(seed).normal(size=truth.shape)
    intensity, dwell = spiral(measured, coverage)
    scan = RasterScan(intensity, dwell)
    image = normalised_convolution(scan, sigma_pitches=3 * scan.coverage, dwell_exponent=1)
    return scan, image.astype(np.float64), truth


def features_of(scan, image):
    """Features of the pixels of a completion."""
    return error_features(*on_scale(scan, image))


SHAPE = (8, 20)
NUM_OF_SCAN = 6


def from_values(values):
    """Features with these values [10, h, w], the first six alike in all pixels."""
    maps = torch.as_tensor(values[NUM_OF_SCAN:]).float().exp()
    maps[0] -= 1 / 3  # of a distance
    return ErrorFeatures(
        of_scan=torch.as_tensor(values[:NUM_OF_SCAN, 0, 0]).float(),
        unit=1.0,
        std=1.0,
        typical_gap=torch.ones(1, 1, 1, 1),
        maps=tuple(each[None, None] for each in maps),
    )


def values_of(features):
    of_scan = features.of_scan[:, None, None].expand(-1, *features.shape)
    return torch.cat([of_scan, features.of_pixels()]).double().numpy()


def law(features):
    """Logarithms of the mean squared errors [h, w]: of noise, distance and activity."""
    x = values_of(features)
    return 0.4 * x[0] + 0.5 * x[6] + 0.4 * x[7] - 0.2 * x[0] * x[7]


def scans(num, seed=0, spread=0.5):
    """Features of scans, and squared errors whose mean follows the law.

    A factor that the pixels of a scan share has the logarithmic deviation `spread`.
    """
    for number in range(seed, seed + num):
        generator = np.random.default_rng(number)
        values = generator.normal(size=(len(FEATURES), *SHAPE))
        values[:NUM_OF_SCAN] = values[:NUM_OF_SCAN, :1, :1]
        values[NUM_OF_SCAN] = np.maximum(values[NUM_OF_SCAN], -1)
        features = from_values(values)
        shared = generator.normal(-(spread**2) / 2, spread)
        yield features, np.exp(law(features) + shared) * generator.normal(size=SHAPE) ** 2


def others():
    return scans(8, seed=5000)


def log_ratio(fitted, features, _):
    """Logarithms of the expected errors in units of the law's."""
    return np.log(fitted.expected(features)) - law(features) / 2


def moved(some, feature, by):
    """Features of the first scan, some of them moved."""
    values = values_of(next(iter(some))[0])
    values[feature] += np.reshape(by, (-1, 1, 1))
    return from_values(values)


@pytest.fixture(scope="module")
def fitted(texture, spiral):
    """A calibration on scans of two coverages, with noise and without."""

    def completions():
        for seed in range(24):
            scan, image, truth = completed(
                texture, spiral, seed, ("1/20", "1/5")[seed % 2], NOISES[seed // 2 % 2]
            )
            features = features_of(scan, image)
            unit = scaled([scan]).half.item() * features.unit
            yield features, ((image - truth) / unit) ** 2

    return calibrated(completions())


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("coverage", ["1/20", "1/5"])
def test_predicted_and_actual_errors_agree_on_other_images(
    fitted, texture, spiral, coverage, noise
):
    expected, actual = [], []
    for seed in range(100, 108):
        scan, image, truth = completed(texture, spiral, seed, coverage, noise)
        expected.append(expected_error(fitted, scan, image) ** 2)
        actual.append((image - truth) ** 2)
    expected, actual = np.stack(expected), np.stack(actual)
    assert 1 / 1.8 < expected.mean() / actual.mean() < 1.8  # of squares: 1.33 of errors
    # Also among the pixels that it calls bad, and those that it calls good.
    bad = expected > np.median(expected)
    assert actual[bad].mean() > 3 * actual[~bad].mean()


def test_the_error_rises_away_from_the_path(fitted, texture, spiral):
    scan, image, _ = completed(texture, spiral, 100)
    error = expected_error(fitted, scan, image)
    gap = features_of(scan, image).of_pixels()[0].numpy()
    near, far = error[gap < np.quantile(gap, 0.2)], error[gap > np.quantile(gap, 0.8)]
    assert far.mean() > 1.2 * near.mean()


def test_nothing_is_known_where_nothing_was_measured_near(fitted, texture, spiral):
    scan, image, _ = completed(texture, spiral, 100)
    half = np.arange(128) < 64
    half_scan = RasterScan(np.where(half, scan.intensity, np.nan), np.where(half, scan.dwell, 0))
    error = expected_error(fitted, half_scan, image)
    assert error[:, 110:].min() >= half_scan.mean_and_std()[1] * (1 - 1e-6)
    assert np.median(error[:, :50]) < np.median(error[:, 110:])


def test_it_is_raised_to_the_deviation_of_the_scan_at_most(fitted, texture, spiral):
    scan, image, _ = completed(texture, spiral, 100)
    plain, twice, ten_times = (expected_error(fitted, scan, image, by) for by in (1.0, 2.0, 10.0))
    _, std = scan.mean_and_std()
    small = plain < std / 2
    assert small.any()
    np.testing.assert_allclose(twice[small], 2 * plain[small], rtol=1e-5)
    np.testing.assert_allclose(ten_times, np.minimum(10 * plain, np.maximum(plain, std)), rtol=1e-5)


@pytest.mark.parametrize(("gain", "offset"), [(1e-3, 50.0), (3e4, 0.0), (-2.0, 1.0)])
def test_it_follows_gain_and_offset(fitted, texture, spiral, gain, offset):
    scan, image, _ = completed(texture, spiral, 100)
    error = expected_error(fitted, scan, image)
    other = RasterScan(gain * scan.intensity + offset, scan.dwell)
    shifted = expected_error(fitted, other, gain * image + offset)
    np.testing.assert_allclose(shifted, abs(gain) * error, rtol=0.02)


@pytest.mark.parametrize("shape", [(128, 128), (131, 90)])
def test_a_large_completion_has_the_features_of_its_bands(texture, monkeypatch, shape):
    image = texture(0, shape)
    scan = RasterScan(np.where(np.random.default_rng(0).random(shape) < 0.3, image, np.nan))
    whole = features_of(scan, image)
    parts = take_apart(on_scale(scan, image)[1])
    monkeypatch.setattr("stem_complete.scan.bands._CPU_BAND_PX", 24 * shape[1])
    in_bands = error_features(*on_scale(scan, image), parts)
    for one, other in zip(whole.maps, in_bands.maps, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_neighbourhoods_are_gaussian(texture):
    image = texture(0, (128, 150))
    for sigma in (4.0, 6.0, 12.0):
        around = _Neighbourhood(sigma)
        means = around.means(torch.from_numpy(image).float()[None, None])[0, 0].numpy()
        expected = gaussian_filter(image, sigma, mode="constant")
        assert np.abs(means - expected).max() < 0.02 * np.abs(expected).max()


def test_a_constant_scan_has_a_finite_error(fitted):
    dwell = np.zeros((64, 64))
    dwell[::4] = 1
    scan = RasterScan(np.where(dwell > 0, 7.0, np.nan), dwell)
    assert np.isfinite(expected_error(fitted, scan, np.full((64, 64), 7.0))).all()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"means": (0.0,)}, id="features"),
        pytest.param({"curvatures": ((0.1,) * len(FEATURES),)}, id="products"),
        pytest.param({"constant": float("nan")}, id="nan"),
        pytest.param({"deviations": (0.0,) * len(FEATURES)}, id="no-deviation"),
        pytest.param({"lowest": (5.0,) * len(FEATURES)}, id="range"),
        pytest.param({"least": 1.0}, id="values"),
    ],
)
def test_what_is_no_function_is_refused(calibration, changes):
    with pytest.raises(ValidationError):
        ErrorCalibration(**calibration.model_dump() | changes)


def test_no_images_give_no_calibration():
    assert calibrated([]) is None


class TestKnownLaw:
    """Errors of scans whose law is known, but for a factor that the pixels of a scan share."""

    @pytest.fixture(autouse=True)
    def few_pixels(self, monkeypatch):
        monkeypatch.setattr(error_fit, "_PIXELS_PER_SCAN", 40)

    @pytest.fixture(autouse=True)
    def measured_near(self, monkeypatch):
        """Everywhere, however large a gap is: elsewhere the law is not what counts."""
        monkeypatch.setattr(
            ErrorFeatures, "reach", lambda self, rows=...: torch.ones(self.shape)[rows]
        )

    def test_it_is_found(self):
        fitted = calibrated(scans(192))
        off = np.concatenate([log_ratio(fitted, *scan) for scan in others()])
        assert abs(off.mean()) < 0.15
        assert off.std() < 0.25

    def test_few_large_errors_do_not_raise_what_is_expected_of_the_others(self):
        fitted = calibrated(scans(96, spread=1.5))
        ratios = [
            np.mean(fitted.expected(features) ** 2) / np.mean(squares)
            for features, squares in scans(96, seed=5000, spread=1.5)
        ]
        assert abs(np.log(ratios).mean() / 2) < 0.15  # by the likelihood of pixels alone 0.25

    def test_few_scans_give_little_more_than_a_factor(self):
        factors = [law(features).mean() / 2 for features, _ in scans(2)]
        fitted = calibrated(scans(2))
        logs = np.log([fitted.expected(features) for features, _ in others()])
        assert np.ptp(logs) < 1  # of the law itself: over 3
        assert abs(logs.mean() - np.mean(factors)) < 1

    @pytest.mark.parametrize("num", [32, 64, 96])
    def test_the_number_of_scans_hardly_matters(self, num):
        few, many = (calibrated(scans(number)) for number in (num, 192))
        change = [np.log(few.expected(f) / many.expected(f)) for f, _ in others()]
        assert np.sqrt(np.mean(np.square(change))) < 0.3

    def test_nor_do_their_seeds(self):
        one, other = (calibrated(scans(64, seed=seed)) for seed in (0, 1000))
        change = [np.log(one.expected(f) / other.expected(f)) for f, _ in others()]
        assert np.sqrt(np.mean(np.square(change))) < 0.3

    @pytest.mark.parametrize("feature", range(len(FEATURES)))
    @pytest.mark.parametrize("side", [-50.0, 50.0])
    def test_nothing_is_continued_beyond_what_was_seen(self, feature, side):
        fitted = calibrated(scans(16))
        far, further = (moved(scans(1), [feature], by * side) for by in (1, 2))
        assert np.array_equal(fitted.expected(far), fitted.expected(further))

    def test_features_that_were_never_together_give_no_less_than_was_seen(self):
        fitted = calibrated(scans(8))
        seen = np.log([fitted.expected(features) for features, _ in scans(8)])
        generator = np.random.default_rng(0)
        for signs in generator.choice([-9.0, 9.0], (50, len(FEATURES))):
            corner = moved(scans(1), slice(None), signs)
            expected = np.log(fitted.expected(corner))
            assert expected.min() >= seen.min() - 1e-4
            assert expected.max() <= seen.max() + 1e-4
