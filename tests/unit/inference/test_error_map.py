"""The expected error: right on images it was not fitted to, in the units of the scan."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from stem_complete.data.scans import RasterScan
from stem_complete.evaluation.baselines import normalised_convolution
from stem_complete.inference.error_map import (
    FEATURES,
    ErrorCalibration,
    calibrated,
    error_features,
)

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


@pytest.fixture(scope="module")
def fitted(texture, spiral):
    """A calibration on scans of two coverages, with noise and without."""

    def completions():
        for seed in range(24):
            scan, image, truth = completed(
                texture, spiral, seed, ("1/20", "1/5")[seed % 2], NOISES[seed // 2 % 2]
            )
            features = error_features(image, scan)
            yield features, ((image - truth) / features.unit) ** 2

    return calibrated(completions())


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("coverage", ["1/20", "1/5"])
def test_predicted_and_actual_errors_agree_on_other_images(
    fitted, texture, spiral, coverage, noise
):
    expected, actual = [], []
    for seed in range(100, 108):
        scan, image, truth = completed(texture, spiral, seed, coverage, noise)
        expected.append(fitted.expected_error(image, scan) ** 2)
        actual.append((image - truth) ** 2)
    expected, actual = np.stack(expected), np.stack(actual)
    assert 1 / 1.8 < expected.mean() / actual.mean() < 1.8  # of squares: 1.33 of errors
    # Also among the pixels that it calls bad, and those that it calls good.
    bad = expected > np.median(expected)
    assert actual[bad].mean() > 3 * actual[~bad].mean()


def test_the_error_rises_away_from_the_path(fitted, texture, spiral):
    scan, image, _ = completed(texture, spiral, 100)
    error = fitted.expected_error(image, scan)
    gap = error_features(image, scan).of_pixels()[0].numpy()
    near, far = error[gap < np.quantile(gap, 0.2)], error[gap > np.quantile(gap, 0.8)]
    assert far.mean() > 1.2 * near.mean()


def test_nothing_is_known_where_nothing_was_measured_near(fitted, texture, spiral):
    scan, image, _ = completed(texture, spiral, 100)
    half = np.arange(128) < 64
    half_scan = RasterScan(np.where(half, scan.intensity, np.nan), np.where(half, scan.dwell, 0))
    error = fitted.expected_error(image, half_scan)
    assert error[:, 110:].min() >= half_scan.mean_and_std()[1] * (1 - 1e-6)
    assert np.median(error[:, :50]) < np.median(error[:, 110:])


@pytest.mark.parametrize(("gain", "offset"), [(1e-3, 50.0), (3e4, 0.0), (-2.0, 1.0)])
def test_it_follows_gain_and_offset(fitted, texture, spiral, gain, offset):
    scan, image, _ = completed(texture, spiral, 100)
    error = fitted.expected_error(image, scan)
    other = RasterScan(gain * scan.intensity + offset, scan.dwell)
    shifted = fitted.expected_error(gain * image + offset, other)
    np.testing.assert_allclose(shifted, abs(gain) * error, rtol=0.02)


def test_a_constant_scan_has_a_finite_error(fitted):
    dwell = np.zeros((64, 64))
    dwell[::4] = 1
    scan = RasterScan(np.where(dwell > 0, 7.0, np.nan), dwell)
    assert np.isfinite(fitted.expected_error(np.full((64, 64), 7.0), scan)).all()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"means": (0.0,)}, id="features"),
        pytest.param({"weights": ((0.1,),)}, id="weights"),
        pytest.param({"outputs": (1.0, 2.0)}, id="units"),
        pytest.param({"constant": float("nan")}, id="nan"),
        pytest.param({"deviations": (0.0,) * len(FEATURES)}, id="no-deviation"),
    ],
)
def test_what_is_no_network_is_refused(calibration, changes):
    with pytest.raises(ValidationError):
        ErrorCalibration(**calibration.model_dump() | changes)


def test_no_images_give_no_calibration():
    assert calibrated([]) is None
