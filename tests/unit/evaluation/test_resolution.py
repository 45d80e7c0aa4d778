from __future__ import annotations

import numpy as np
import pytest

from stem_complete.evaluation.resolution import (
    NUM_RINGS,
    ONE_SEVENTH,
    RingCorrelation,
    half_bit,
    resolution_px,
    ring_correlation,
)

SHAPE = (256, 256)


def _noise(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def _agreeing_to(frequency, shape=SHAPE):
    """Two images that have all below a frequency [cycles / px] in common, and nothing above."""
    common, other = (np.fft.fft2(_noise(seed, shape)) for seed in (0, 1))
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    image = np.fft.ifft2(np.where(radius < frequency, common, other)).real
    return np.fft.ifft2(common).real, image


@pytest.mark.parametrize("shape", [SHAPE, (96, 200), (101, 64)])
def test_an_image_agrees_with_itself_in_any_units(shape):
    image = _noise(0, shape)
    found = ring_correlation(image, 100 + 7 * image)
    np.testing.assert_allclose(found.correlation, 1)
    assert resolution_px(found, ONE_SEVENTH) == resolution_px(found, half_bit(1e9)) == 2
    np.testing.assert_allclose(ring_correlation(image, -image).correlation, -1)


def test_independent_noise_agrees_nowhere():
    found = ring_correlation(_noise(0), _noise(1))
    # The first rings have few frequencies, which agree by chance.
    allowed = 4 / np.sqrt(found.num_independent)
    assert (np.abs(found.correlation) < allowed).all()
    assert np.abs(found.correlation[8:]).max() < 0.1
    assert resolution_px(found, ONE_SEVENTH) is None or resolution_px(found, ONE_SEVENTH) > 16


@pytest.mark.parametrize("period", [3.0, 5.0, 10.0])
def test_the_resolution_is_where_agreement_ends(period):
    found = ring_correlation(*_agreeing_to(1 / period))
    ring = 0.5 / NUM_RINGS
    for threshold in (ONE_SEVENTH, half_bit(found.num_independent)):
        frequency = 1 / resolution_px(found, threshold)
        assert frequency == pytest.approx(1 / period, abs=1.5 * ring)


def test_a_blur_changes_no_resolution(texture):
    from scipy.ndimage import gaussian_filter

    image = _noise(0)
    found = ring_correlation(image, gaussian_filter(image, 1, mode="wrap"))
    assert found.correlation.min() > 0.9


def test_rings_hold_each_frequency_up_to_that_of_nyquist_once():
    found = ring_correlation(_noise(0), _noise(1))
    radius = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.fftfreq(SHAPE[1]))
    assert 2 * found.num_independent.sum() == (radius <= 0.5).sum()
    np.testing.assert_allclose(np.diff(found.frequency), 0.5 / NUM_RINGS)


def test_half_a_bit_is_that_of_van_heel_and_schatz():
    """Their limit for many voxels, and a signal-to-noise ratio of 0.2071 in each half."""
    assert half_bit(1e12) == pytest.approx(0.2071 / 1.2071, rel=1e-4)
    assert half_bit(1) == pytest.approx(1, abs=1e-4)


def test_the_crossing_lies_between_rings():
    found = RingCorrelation(np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.4, 0.0]), np.ones(3))
    assert resolution_px(found, 0.2) == pytest.approx(1 / 0.25)
    assert resolution_px(found, -0.1) == 2
    assert resolution_px(found, 1.1) is None


def test_a_flat_image_agrees_with_nothing():
    found = ring_correlation(_noise(0), np.ones(SHAPE))
    assert not found.correlation.any()
