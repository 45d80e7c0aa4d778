"""Error maps of models that were made earlier."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from error_maps import expected_error
from hypothesis import given, settings
from pydantic import ValidationError
from scipy.ndimage import distance_transform_edt, gaussian_filter

from stem_complete.data.scans import RasterScan
from stem_complete.inference import error_table
from stem_complete.inference.error_table import ErrorTable, Features, error_features

TABLE = ErrorTable(
    distances=(0.0, 4.0),
    activities=(0.1, 1.0),
    rms_error=((0.1, 0.2), (0.3, 0.4)),
    num_images=2,
)


@given(
    distance=st.lists(st.floats(0, 200), min_size=2, max_size=2),
    activity=st.lists(st.floats(0, 5), min_size=2, max_size=2),
)
@settings(max_examples=50, deadline=None)
def test_errors_never_fall_with_distance_or_activity(distance, activity):
    near, far = sorted(distance)
    calm, busy = sorted(activity)
    error = TABLE.of_features(
        Features(np.array([[near, far, near]]), np.array([[calm, calm, busy]]))
    )
    assert error[0, 1] >= error[0, 0] - 1e-12
    assert error[0, 2] >= error[0, 0] - 1e-12


def test_nothing_is_known_far_from_the_path():
    assert TABLE.of_features(Features(np.array([[1e4]]), np.array([[0.0]])))[0, 0] >= 1


def test_errors_follow_gain_and_no_offset(texture):
    image = texture(0)
    measured = np.random.default_rng(0).random(image.shape) < 0.05
    plain, shifted = (
        expected_error(TABLE, RasterScan(np.where(measured, image, np.nan)), image)
        for image in (image, 1e-3 * image + 50)
    )
    np.testing.assert_allclose(shifted, 1e-3 * plain, rtol=1e-5)
    assert plain.std() > 0


@pytest.mark.parametrize("num", [1, 500])
def test_a_large_map_is_that_of_its_bands(texture, monkeypatch, num):
    image = texture(0)
    measured = np.zeros(image.shape, bool)
    measured.flat[np.random.default_rng(0).choice(image.size, num, replace=False)] = True
    scan = RasterScan(np.where(measured, image, np.nan), intensity_range=(0, 1))
    whole = expected_error(TABLE, scan, image)
    monkeypatch.setattr(error_table, "_ROWS", 7)
    np.testing.assert_allclose(expected_error(TABLE, scan, image), whole, rtol=1e-6)


def test_features_are_the_distance_and_the_local_deviation():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(200, 200)) * np.where(np.arange(200) < 100, 1.0, 3.0)
    measured = rng.random(image.shape) < 0.05
    features = error_features(image / image.std(), measured)
    np.testing.assert_array_equal(features.distance, distance_transform_edt(~measured))
    std = image.std()
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
def test_what_is_no_table_is_refused(changes):
    with pytest.raises(ValidationError):
        ErrorTable(**TABLE.model_dump() | changes)
