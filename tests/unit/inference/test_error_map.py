from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from pydantic import ValidationError
from scipy.ndimage import distance_transform_edt, gaussian_filter

from stem_complete.data.scans import RasterScan
from stem_complete.evaluation.baselines import normalised_convolution
from stem_complete.inference.error_map import (
    ErrorCalibration,
    Features,
    calibrated,
    error_features,
)


def _calibrate(texture, spiral, seeds, coverage="1/20"):
    return calibrated(_completed(texture, spiral, seed, coverage)[:2] for seed in seeds)


def _completed(texture, spiral, seed, coverage):
    """Features, squared error and dwell of a scan that a baseline completed.

    The contrast of the texture differs from place to place, as in real micrographs.
    """
    contrast = 10 ** texture(1000 + seed, (128, 128)).clip(-1, 1)
    truth = contrast * texture(seed, (128, 128))
    intensity, dwell = spiral(truth, coverage)
    scan = RasterScan(intensity, dwell)
    image = normalised_convolution(scan, sigma_pitches=3 * scan.coverage, dwell_exponent=1)
    image = image.astype(np.float64)
    features, std = error_features(image, scan)
    return features, ((image - truth) / std) ** 2, dwell


def test_predicted_and_actual_errors_agree_on_other_images(texture, spiral):
    calibration = _calibrate(texture, spiral, range(12))
    held_out = [_completed(texture, spiral, seed, "1/20") for seed in range(100, 112)]
    expected = np.stack([calibration.expected_error(features) for features, _, _ in held_out])
    actual = np.stack([square for _, square, _ in held_out])
    assert np.mean(expected**2) == pytest.approx(actual.mean(), rel=0.5)
    # Also among the pixels that it calls bad, and those that it calls good.
    bad = expected > np.median(expected)
    assert actual[bad].mean() > 4 * actual[~bad].mean()
    for part in (bad, ~bad):
        ratio = np.mean(expected[part] ** 2) / actual[part].mean()
        assert 1 / 1.5 < ratio < 1.5


def test_the_map_rises_away_from_the_path(texture, spiral):
    calibration = _calibrate(texture, spiral, range(12))
    features, _, _ = _completed(texture, spiral, 100, "1/20")
    error = calibration.expected_error(features)
    distance = features.distance
    rings = [error[(distance >= low) & (distance < low + 2)].mean() for low in (0, 2, 4, 6)]
    assert all(np.diff(rings) > 0)
    assert rings[-1] > 1.5 * rings[0]


@given(
    distance=st.lists(st.floats(0, 200), min_size=2, max_size=2),
    activity=st.lists(st.floats(0, 5), min_size=2, max_size=2),
)
@settings(max_examples=50, deadline=None)
def test_errors_never_fall_with_distance_or_activity(table, distance, activity):
    near, far = sorted(distance)
    calm, busy = sorted(activity)
    error = table.expected_error(
        Features(np.array([[near, far, near]]), np.array([[calm, calm, busy]]))
    )
    assert error[0, 1] >= error[0, 0] - 1e-12
    assert error[0, 2] >= error[0, 0] - 1e-12


@pytest.fixture(scope="module")
def table(texture, spiral):
    return _calibrate(texture, spiral, range(3))


def test_nothing_is_known_far_from_the_path(table):
    features = Features(np.array([[1e4]]), np.array([[0.0]]))
    assert table.expected_error(features)[0, 0] >= 1


def test_the_table_is_monotone_and_keeps_the_mean(table, texture, spiral):
    values = np.array(table.rms_error)
    assert (np.diff(values, axis=0) >= 0).all()
    assert (np.diff(values, axis=1) >= 0).all()
    maps = [_completed(texture, spiral, seed, "1/20") for seed in range(3)]
    predicted = np.mean([table.expected_error(features) ** 2 for features, _, _ in maps])
    assert predicted == pytest.approx(np.mean([square for _, square, _ in maps]), rel=0.1)


def test_features_know_nothing_of_gain_and_offset(texture):
    image = texture(0)
    measured = np.random.default_rng(0).random(image.shape) < 0.05
    (plain, std), (shifted, shifted_std) = (
        error_features(image, RasterScan(np.where(measured, image, np.nan)))
        for image in (image, 1e-3 * image + 50)
    )
    assert shifted_std == pytest.approx(1e-3 * std)
    np.testing.assert_allclose(shifted.activity, plain.activity, rtol=1e-6)
    np.testing.assert_array_equal(plain.distance, distance_transform_edt(~measured))


def test_activity_is_the_local_deviation():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(200, 200)) * np.where(np.arange(200) < 100, 1.0, 3.0)
    features, std = error_features(image, RasterScan(image))
    means = std * gaussian_filter(features.activity, 10)
    assert means[100, 40] == pytest.approx(1, rel=0.1)
    assert means[100, 160] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"rms_error": ((0.1, 0.2),)}, id="shape"),
        pytest.param({"rms_error": ((0.1, 0.2), (0.3, float("nan")))}, id="nan"),
        pytest.param({"rms_error": ((0.1, 0.2), (0.3, -1.0))}, id="negative"),
        pytest.param({"distances": (4.0, 4.0)}, id="not-rising"),
        pytest.param({"distances": (), "rms_error": ()}, id="empty"),
    ],
)
def test_what_is_no_table_is_refused(calibration, changes):
    with pytest.raises(ValidationError):
        ErrorCalibration(**calibration.model_dump() | changes)


def test_no_images_give_no_calibration():
    assert calibrated([]) is None
