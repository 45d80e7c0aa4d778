from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import laplace
from strategies import offsets, partial_scans, raster_scan, shapes

from stem_complete.data.scans import RasterScan
from stem_complete.evaluation import Baseline, KnownScan, baselines, parameters, rmse
from stem_complete.evaluation.tuned import DENOISERS
from stem_complete.scan import archimedean, blur


def on_arrays(complete: baselines.Baseline) -> baselines.Baseline:
    """A baseline as a function of intensities and dwell."""
    return lambda intensity, dwell, **options: complete(RasterScan(intensity, dwell), **options)


# Denoisers know the dose and the range, and have tests of their own.
BASELINES = {
    name: on_arrays(complete)
    for name, complete in baselines.BASELINES.items()
    if name not in DENOISERS
}
(
    nearest,
    linear,
    normalised_convolution,
    harmonic,
    spline,
    adaptive_spline,
    total_variation,
    biharmonic,
) = BASELINES.values()

each_baseline = pytest.mark.parametrize("name", BASELINES)
# `nearest` and `linear` break ties between equally near pixels, and between equally good triangles,
# by position, and `total_variation` has forward differences: only these commute with flips whatever
# the scan. Multigrid of the splines begins at one corner, and they commute nearly.
without_ties = pytest.mark.parametrize("name", ["normalised_convolution", "harmonic", "biharmonic"])
interpolating = pytest.mark.parametrize("name", ["nearest", "linear", "biharmonic"])


scans = partial_scans(shapes(largest=12), kinds=("noise",))
few = settings(max_examples=15, deadline=None)


@each_baseline
@few
@given(scan=scans)
def test_finite_and_within_the_measured_range(
    name: str, scan: tuple[np.ndarray, np.ndarray]
) -> None:
    intensity, _ = scan
    image = BASELINES[name](*scan)
    assert image.shape == intensity.shape
    assert image.dtype == np.float32
    # NaN fails both comparisons.
    assert image.min() >= np.nanmin(intensity)
    assert image.max() <= np.nanmax(intensity)


@each_baseline
def test_range_is_kept_over_thirty_orders_of_magnitude(name: str) -> None:
    # Rounding makes an interpolation weight slightly negative now and then: a tenth of the seeds.
    for seed in range(30 if name == "linear" else 5):
        _, dwell = raster_scan(seed, (20, 20), 0.1)
        exponents = np.random.default_rng(seed).uniform(-22, 8, dwell.shape)
        intensity = np.where(dwell > 0, 10.0**exponents, np.nan).astype(np.float32)
        image = BASELINES[name](intensity, dwell)
        assert np.nanmin(intensity) <= image.min() <= image.max() <= np.nanmax(intensity)


@each_baseline
@few
@given(scan=scans, gain=st.sampled_from([-3.0, -0.01, 0.5, 1000.0]), offset=offsets)
def test_commutes_with_detector_gain_and_offset(
    name: str, scan: tuple[np.ndarray, np.ndarray], gain: float, offset: float
) -> None:
    intensity, dwell = scan
    complete = BASELINES[name]
    units = abs(gain) * 100 + abs(offset)
    np.testing.assert_allclose(
        complete(gain * intensity.astype(np.float64) + offset, dwell),
        gain * complete(intensity, dwell) + offset,
        atol=1e-4 * units,
    )


@each_baseline
@few
@given(scan=scans, value=st.sampled_from([-3.25, 0.0, 4e6]))
def test_constant_images_stay_constant(
    name: str, scan: tuple[np.ndarray, np.ndarray], value: float
) -> None:
    intensity, dwell = scan
    image = BASELINES[name](np.where(np.isnan(intensity), np.nan, value), dwell)
    assert (image == value).all()


@interpolating
@few
@given(scan=scans)
def test_measured_pixels_are_kept(name: str, scan: tuple[np.ndarray, np.ndarray]) -> None:
    intensity, dwell = scan
    measured = ~np.isnan(intensity)
    image = BASELINES[name](intensity, dwell)
    np.testing.assert_allclose(image[measured], intensity[measured], rtol=1e-6)


@without_ties
@few
@given(scan=scans, quarter_turns=st.integers(0, 3))
def test_flips_and_rotations_commute(
    name: str, scan: tuple[np.ndarray, np.ndarray], quarter_turns: int
) -> None:
    intensity, dwell = scan

    def turn(image: np.ndarray) -> np.ndarray:
        return np.rot90(np.flip(image, axis=1), quarter_turns)

    complete = BASELINES[name]
    np.testing.assert_allclose(
        complete(turn(intensity), turn(dwell)), turn(complete(intensity, dwell)), rtol=1e-5
    )


# Total variation's differences are those to the next pixel, which a flip makes the one before.
@pytest.mark.parametrize(
    "name", ["nearest", "linear", "normalised_convolution", "harmonic", "biharmonic"]
)
def test_flips_commute_in_general_position(name: str) -> None:
    intensity = np.full((9, 11), np.nan)
    # No two are equally far from a pixel, no four lie on one circle.
    points = {(0, 1): 3.0, (1, 8): 7.0, (7, 2): 1.0, (8, 10): 9.0, (3, 5): 4.0}
    for position, value in points.items():
        intensity[position] = value
    dwell = np.isfinite(intensity)
    unique = _num_nearest(dwell) == 1
    image = BASELINES[name](intensity, dwell)
    flipped = BASELINES[name](intensity[::-1], dwell[::-1])[::-1]
    # Where two are equally near, `nearest` and what falls back on it may take either.
    where = unique if name in ("nearest", "linear") else np.ones_like(unique)
    np.testing.assert_allclose(flipped[where], image[where], rtol=1e-5)


def _num_nearest(measured: np.ndarray) -> np.ndarray:
    """How many measured pixels are equally near to each pixel, [h, w]."""
    squared = _squared_distances(measured)
    return (squared == squared.min(axis=-1, keepdims=True)).sum(axis=-1)


def _squared_distances(measured: np.ndarray) -> np.ndarray:
    """From each pixel to each measured one, [h, w, n]."""
    y, x = np.indices(measured.shape)
    at_y, at_x = np.nonzero(measured)
    return (y[..., None] - at_y) ** 2 + (x[..., None] - at_x) ** 2


@few
@given(scan=scans)
def test_nearest_takes_one_of_the_nearest(scan: tuple[np.ndarray, np.ndarray]) -> None:
    intensity, dwell = scan
    measured = ~np.isnan(intensity)
    squared = _squared_distances(measured)
    candidates = np.where(
        squared == squared.min(axis=-1, keepdims=True), intensity[measured], np.nan
    )
    assert (candidates == nearest(intensity, dwell)[..., None]).any(axis=-1).all()


@few
@given(scan=scans, slope_y=st.floats(-5, 5), slope_x=st.floats(-5, 5))
def test_linear_reproduces_planes(
    scan: tuple[np.ndarray, np.ndarray], slope_y: float, slope_x: float
) -> None:
    intensity, dwell = scan
    y, x = np.indices(intensity.shape)
    plane = slope_y * y + slope_x * x
    measured = ~np.isnan(intensity)
    measured[np.ix_([0, -1], [0, -1])] = True  # the hull is then the whole image
    if 1 in measured.shape:  # all on one line
        measured[:] = True
    image = linear(np.where(measured, plane, np.nan), np.where(measured, 1.0, dwell))
    np.testing.assert_allclose(image, plane, atol=1e-4)


def test_linear_without_a_triangle_takes_the_nearest() -> None:
    intensity, dwell = np.full((2, 5, 5), np.nan)
    intensity[[0, 2, 4], [0, 2, 4]] = 1, 2, 3
    dwell = np.isfinite(intensity)
    np.testing.assert_array_equal(linear(intensity, dwell), nearest(intensity, dwell))


def test_normalised_convolution_is_the_gaussian_mean_weighted_by_dwell() -> None:
    intensity, dwell = raster_scan(3, (20, 24), 0.3)
    measured = dwell > 0
    sigma_px = 8.0
    for exponent in (0, 1, 3):
        weight = dwell[measured] ** exponent
        weight = weight * np.exp(-_squared_distances(measured) / (2 * sigma_px**2))
        expected = (weight * intensity[measured]).sum(-1) / weight.sum(-1)
        image = normalised_convolution(
            intensity, dwell, sigma_pitches=sigma_px * dwell.mean(), dwell_exponent=exponent
        )
        np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_normalised_convolution_far_from_all_measurements_takes_the_nearest() -> None:
    intensity = np.full((1, 200), np.nan)
    intensity[0, [10, 180]] = 2.0, 5.0
    image = normalised_convolution(intensity, np.isfinite(intensity), sigma_pitches=0.08)  # 8 px
    np.testing.assert_array_equal(image[0, :95], 2.0)
    np.testing.assert_array_equal(image[0, 96:], 5.0)


def test_only_the_ratio_of_dwell_times_matters() -> None:
    """But for the width of the Gaussian, which the pitch sets."""
    intensity, dwell = raster_scan(4, (20, 20), 0.3)
    for complete, width in (
        (normalised_convolution, "sigma_pitches"),
        (harmonic, None),
        (total_variation, None),
    ):
        once, thrice = (
            complete(
                intensity,
                factor * dwell,
                dwell_exponent=2,
                **({width: 0.3 * factor} if width else {}),
            )
            for factor in (1, 3)
        )
        np.testing.assert_allclose(once, thrice, rtol=1e-4)


@pytest.mark.parametrize("complete", [normalised_convolution, harmonic, spline, total_variation])
def test_a_high_dwell_exponent_believes_long_dwell_alone(complete) -> None:
    """Of a constant image, pixels of short dwell are far off."""
    rng = np.random.default_rng(10)
    dwell = np.where(rng.random((40, 40)) < 0.3, rng.choice([0.1, 0.5], (40, 40)), 0)
    intensity = np.select([dwell == 0.5, dwell == 0.1], [1.0, 5.0], np.nan)
    errors = [
        abs(complete(intensity, dwell, dwell_exponent=exponent) - 1).mean()
        for exponent in (0, 2, 8)
    ]
    assert errors[0] > 1
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_harmonic_through_the_measured_pixels_is_the_mean_of_their_neighbours() -> None:
    intensity, dwell = raster_scan(5, (30, 20), 0.2)
    image = harmonic(intensity, dwell, fidelity=math.inf).astype(np.float64)
    measured = dwell > 0
    np.testing.assert_allclose(image[measured], intensity[measured], rtol=1e-6)
    stiff = harmonic(intensity, dwell, fidelity=1e6)
    np.testing.assert_allclose(stiff, image, atol=0.01)
    padded = np.pad(image, 1, constant_values=np.nan)
    neighbours = [padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2]]
    gaps = dwell == 0
    np.testing.assert_allclose(image[gaps], np.nanmean(neighbours, axis=0)[gaps], rtol=1e-6)


def test_harmonic_with_springs_balances_their_pull() -> None:
    intensity, dwell = raster_scan(11, (12, 15), 0.3)
    dwell[dwell > 0] = 0.5  # all weights 1
    image = harmonic(intensity, dwell, fidelity=0.7).astype(np.float64)
    pull = 0.7 * np.where(dwell > 0, intensity - image, 0)
    np.testing.assert_allclose(laplace(image, mode="nearest"), -pull, atol=1e-3)


def test_spline_follows_slopes_where_the_membrane_has_cusps() -> None:
    y, x = np.indices((40, 40))
    wave = np.sin(x / 5) + np.cos(y / 4)
    measured = np.random.default_rng(15).random(wave.shape) < 0.1
    scan = np.where(measured, wave, np.nan), measured
    assert rmse(wave, spline(*scan, fidelity=100.0, stiffness=30.0)) < 0.6 * rmse(
        wave, harmonic(*scan)
    )


def test_a_blurred_spline_is_the_spline_blurred() -> None:
    scan = raster_scan(14, (30, 30), 0.3)
    plain, blurred = (spline(*scan, blurred=option) for option in (False, True))
    expected = blur(torch.from_numpy(plain)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(blurred, expected, atol=1e-3 * np.ptp(plain))
    assert np.ptp(blurred - plain) > 0.05 * np.ptp(plain)


def test_the_adaptive_spline_follows_the_noise_of_a_scan() -> None:
    y, x = np.indices((64, 64))
    smooth = np.sin(x / 9) + np.cos(y / 7)
    dwell = archimedean(smooth.shape, "1/2").dwell_map().numpy()
    rng = np.random.default_rng(16)
    errors = []
    for noise in (0.0, 0.5):
        scan = np.where(dwell > 0, smooth + rng.normal(0, noise, smooth.shape), np.nan), dwell
        errors.append(rmse(smooth, adaptive_spline(*scan)))
    assert errors[0] < 0.01
    assert errors[1] < 0.04  # an eighth of the noise in units of the range


def test_total_variation_finds_even_regions_that_nearest_does_not() -> None:
    """Of three grey levels, a tenth of the pixels measured, with noise."""
    truth = np.zeros((64, 64))
    truth[10:40, 10:50] = 1.0
    truth[30:60, 20:40] = 2.0
    rng = np.random.default_rng(12)
    measured = rng.random(truth.shape) < 0.1
    scan = np.where(measured, truth + rng.normal(0, 0.2, truth.shape), np.nan), measured
    found = rmse(truth, total_variation(*scan, huber=0.0, fidelity=20.0))
    assert found < 0.8 * rmse(truth, nearest(*scan))
    assert found < 0.95 * rmse(truth, normalised_convolution(*scan, sigma_pitches=0.2))


def test_total_variation_without_regions_is_the_smooth_membrane() -> None:
    """Huber's squares are half the membrane's over `huber`, and so is the weight of the data."""
    intensity, dwell = raster_scan(13, (20, 20), 0.5)
    smooth = total_variation(intensity, dwell, huber=10.0, fidelity=0.2, num_steps=2000)
    membrane = harmonic(intensity, dwell, fidelity=2.0)
    assert np.ptp(membrane) > 100
    np.testing.assert_allclose(smooth, membrane, atol=1)


def test_biharmonic_solves_the_biharmonic_equation() -> None:
    y, x = np.indices((30, 30))
    smooth = np.sin(x / 6) + np.cos(y / 5)
    dwell = np.random.default_rng(6).random(smooth.shape) < 0.4
    # The extremes are measured, so that nothing is cut off to the measured range.
    dwell |= (abs(smooth) > 1.6) | (np.hypot(x - 15, y - 15) > 12)
    image = biharmonic(np.where(dwell, smooth, np.nan), dwell).astype(np.float64)
    assert abs(laplace(laplace(image))[~dwell]).max() < 1e-5
    assert abs(image - smooth).max() < 0.03


def test_nan_or_no_dwell_means_not_measured() -> None:
    intensity, dwell = raster_scan(7, (12, 12), 0.5)
    at = np.argwhere(dwell > 0)
    no_dwell, no_intensity = dwell.copy(), intensity.copy()
    no_dwell[tuple(at[0])] = 0
    no_intensity[tuple(at[0])] = np.nan
    neither = (no_intensity, no_dwell)
    for complete in BASELINES.values():
        expected = complete(*neither)
        np.testing.assert_array_equal(complete(intensity, no_dwell), expected)
        np.testing.assert_array_equal(complete(no_intensity, dwell), expected)


@pytest.mark.parametrize("name", ["normalised_convolution", "spline"])
def test_baselines_take_what_is_tuned_to_the_scan(name: str) -> None:
    scan = raster_scan(8, (10, 10), 0.5)
    known = KnownScan("a", "a", "random", "1/2", "", RasterScan(*scan), *[np.eye(10)] * 2)
    method = Baseline(name)
    for noise in ("none", "dose 20"):
        tuned = parameters(name, "random", "1/2", noise)
        assert tuned
        image = method(known._replace(noise=noise)).image
        np.testing.assert_array_equal(image, BASELINES[name](*scan, **tuned))
    by_pixels = method(known._replace(noise="none by pixels")).image
    np.testing.assert_array_equal(by_pixels, BASELINES[name](*scan))
    assert (by_pixels != image).any()
