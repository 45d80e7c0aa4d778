from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from stem_complete.errors import DataError
from stem_complete.evaluation import all_metrics, rmse


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A truth in detector units and a noisy copy of it."""
    rng = np.random.default_rng(1)
    truth = 400 + 30 * gaussian_filter(rng.standard_normal((40, 48)), 2)
    return truth, truth + rng.normal(0, 2, truth.shape)


def test_constant_error_of_a_tenth_of_the_range() -> None:
    truth = np.linspace(200, 300, 20 * 20).reshape(20, 20)
    scores = all_metrics(truth, truth + 10)
    assert scores.rmse == rmse(truth, truth + 10) == pytest.approx(0.1)
    assert scores.psnr == pytest.approx(20.0)


def test_perfect_completion(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert all_metrics(pair[0], pair[0]) == pytest.approx((0.0, math.inf, 1.0))


def test_scores_do_not_depend_on_detector_units(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, image = pair
    other_units = all_metrics(3e4 * truth - 7e5, 3e4 * image - 7e5)
    assert other_units == pytest.approx(all_metrics(truth, image))


def test_scale_is_the_truths_not_the_images(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, image = pair
    assert rmse(truth, image) == pytest.approx(
        np.sqrt(np.mean((image - truth) ** 2)) / np.ptp(truth)
    )
    assert rmse(truth, image) != pytest.approx(rmse(image, truth))


def test_given_range_replaces_the_truths_own(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, image = pair
    low, high = truth.min(), truth.max()
    twice = (low - (high - low), high)
    assert rmse(truth, image, intensity_range=twice) == pytest.approx(rmse(truth, image) / 2)
    flat = np.full_like(truth, 0.5 * (low + high))
    assert rmse(flat, flat + 0.1 * (high - low), intensity_range=(low, high)) == pytest.approx(0.1)


def test_ssim_is_the_mean_of_wang_et_al_equation_13(pair: tuple[np.ndarray, np.ndarray]) -> None:
    low, span = pair[0].min(), np.ptp(pair[0])
    x, y = ((image - low) / span for image in pair)

    def local_mean(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, truncate=3.5)

    mx, my = local_mean(x), local_mean(y)
    vx, vy = local_mean(x * x) - mx**2, local_mean(y * y) - my**2
    covariance = local_mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mx * my + c1) * (2 * covariance + c2)) / (
        (mx**2 + my**2 + c1) * (vx + vy + c2)
    )
    # The mean is over the pixels whose 11 px window lies within the image.
    assert all_metrics(*pair).ssim == pytest.approx(similarity[5:-5, 5:-5].mean())


RAMP = np.linspace(0, 1, 400).reshape(20, 20)
WITH_NAN = np.where(RAMP == 0, np.nan, RAMP)


@pytest.mark.parametrize(
    ("truth", "image", "message"),
    [
        pytest.param(np.full((20, 20), 3.0), RAMP, r"truth with contrast.*found 3 to 3", id="flat"),
        pytest.param(RAMP, RAMP[:10], "20 x 20 px, found 10 x 20 px", id="shapes"),
        pytest.param(WITH_NAN, RAMP, "truth image.*1 NaN", id="nan-truth"),
        pytest.param(RAMP, WITH_NAN, "completed image.*1 NaN", id="nan-image"),
        pytest.param(RAMP, np.where(RAMP == 1, np.inf, RAMP), "completed image", id="inf"),
        pytest.param(RAMP[None], RAMP[None], r"one image \[h, w\]", id="stack"),
        pytest.param(RAMP[:0], RAMP[:0], "one image", id="empty"),
        pytest.param(RAMP[:10], RAMP[:10], "at least 11 x 11", id="smaller-than-the-window"),
    ],
)
def test_images_that_cannot_be_compared(truth: np.ndarray, image: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        all_metrics(truth, image)


def test_scores_are_those_of_scikit_image():
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.normal(size=(48, 64)), 2)
    image = truth + 0.02 * rng.normal(size=truth.shape)
    span = float(np.ptp(truth))
    found = all_metrics(truth, image)
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=span))
    scaled = ((each - truth.min()) / span for each in (truth, image))
    expected = structural_similarity(
        *scaled, gaussian_weights=True, use_sample_covariance=False, data_range=1.0
    )
    assert found.ssim == pytest.approx(expected)
