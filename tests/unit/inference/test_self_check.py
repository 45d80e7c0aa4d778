"""Held-out parts of a scan judge its completion."""

from __future__ import annotations

import math
from weakref import ref

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stem_complete import load_completer
from stem_complete.data.scans import RasterScan
from stem_complete.inference.held_out import hold_out, hold_out_pixels
from stem_complete.inference.predictor import Predictor
from stem_complete.inference.self_check import NOT_CHECKED, judge
from stem_complete.scan import GEOMETRIES, archimedean
from stem_complete.scan.parts import take_apart

SHAPE = (128, 160)


def scan_of(image, dwell, noise=0.0):
    values = image + noise * np.random.default_rng(0).normal(size=image.shape)
    return RasterScan(np.where(dwell > 0, values, np.nan), dwell)


def judged(scan, completed, first):
    """The self-check by completions [h, w]."""
    _, places = hold_out(scan)
    at = (each if each is None else each[places] for each in (completed, first))
    return judge(scan.intensity[places], scan.dwell[places], *at)


@pytest.fixture(scope="module")
def image():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.sin(x / 9) * np.cos(y / 11)


@pytest.mark.parametrize("name", ["archimedean", "random", "serpentine_raster"])
def test_blocks_are_held_out_with_a_margin_to_what_is_left(image, name):
    scan = scan_of(image, GEOMETRIES[name](SHAPE, 1 / 10).dwell_map().numpy())
    rest, places = hold_out(scan)
    assert rest is not None
    held = scan.measured & ~rest.measured
    assert 0.1 < held.sum() / scan.measured.sum() < 0.35
    assert held[places].all()
    assert 0 < places.sum() < held.sum()
    for shift in (-2, 2):
        for axis in (0, 1):
            near_rest = np.roll(rest.measured, shift, axis)
            assert not near_rest[2:-2, 2:-2][places[2:-2, 2:-2]].any()
    np.testing.assert_array_equal(rest.intensity[rest.measured], image[rest.measured])


def test_a_scan_with_next_to_nothing_says_so(image):
    dwell = np.zeros(SHAPE)
    dwell[60:64, 60:64] = 1
    scan = scan_of(image, dwell)
    check = judged(scan, image, None)
    assert math.isnan(check.error)
    assert check.trust == 1
    assert "too few" in check.note


def test_errors_are_those_of_the_held_out_measurements(image):
    scan = scan_of(image, archimedean(SHAPE, 1 / 5).dwell_map().numpy())
    check = judged(scan, image + 0.1, image + 0.2)
    assert check.error == pytest.approx(0.1)
    assert check.classical_error == pytest.approx(0.2)
    assert check.ratio == pytest.approx(0.5)
    assert check.trust == 1
    assert check.deviation == pytest.approx(image[hold_out(scan)[1]].std(), rel=0.1)
    assert "0.50 of the classical completion's error" in check.note


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_the_part_of_a_correction_that_helps_is_trusted(image, share):
    """With a correction c of the first completion whose best multiple is `share`."""
    scan = scan_of(image, archimedean(SHAPE, 1 / 5).dwell_map().numpy(), noise=0.05)
    correction = np.cos(np.arange(SHAPE[1]) / 5) + np.zeros(SHAPE)
    first = image - share * correction
    check = judged(scan, first + correction, first)
    if share == 0.5:  # as good as the first: all of it, or half
        assert check.trust == 1 or check.trust == pytest.approx(0.5, abs=0.05)
    else:
        assert check.trust == pytest.approx(share, abs=0.05)
        assert f"{check.trust:.0%} of the model's correction is used" in check.note


def test_without_a_first_completion_there_is_nothing_to_compare_with(image):
    scan = scan_of(image, archimedean(SHAPE, 1 / 5).dwell_map().numpy())
    check = judged(scan, image + 0.1, None)
    assert (check.classical_error, check.ratio, check.trust) == (None, None, 1)


def test_a_completion_leaves_out_what_its_scan_contradicts(spiral, texture):
    released = load_completer(device="cpu")
    scan = RasterScan(*spiral(texture(0)))
    check = released.self_check(scan)
    plain, first = released.complete_scan(scan).image, released.first_completion(scan)
    gaps = plain == released.network_completion(scan)  # elsewhere are means of what was measured
    assert gaps.mean() > 0.7
    none = released.complete_scan(scan, check=check._replace(trust=0.0)).image
    np.testing.assert_allclose(none[gaps], first[gaps], atol=1e-5)
    half = released.complete_scan(scan, check=check._replace(trust=0.5)).image
    np.testing.assert_allclose(half[gaps], (plain + first)[gaps] / 2, atol=1e-5)
    whole = released.complete_scan(scan, check=check._replace(trust=1.0)).image
    np.testing.assert_array_equal(whole, plain)


def test_the_scans_that_it_makes_are_let_go_before_the_network_runs(image, monkeypatch):
    """Of a large scan each is gigabytes."""
    completer, rests, alive = load_completer(device="cpu"), [], []

    def spied(hold):
        def held(scan):
            rest, places = hold(scan)
            rests.append(ref(rest))
            return rest, places

        return held

    for hold in (hold_out, hold_out_pixels):
        monkeypatch.setattr(f"stem_complete.inference.held_out.{hold.__name__}", spied(hold))
    analyse = Predictor._analyse
    monkeypatch.setattr(
        Predictor,
        "_analyse",
        lambda *args: (alive.extend(rest() for rest in rests), analyse(*args))[1],
    )
    completer.self_check(masked(image))
    assert len(rests) == 2
    assert alive == [None] * 3


def test_each_scan_is_taken_apart_once(image, monkeypatch):
    """By the encoding; error map and self-check know its parts from there."""
    completer, times = load_completer(device="cpu"), []

    def counted(scan):
        times.append(scan)
        return take_apart(scan)

    for module in ("scan.adaptive", "inference.error_features", "inference.measured_pixels"):
        monkeypatch.setattr(f"stem_complete.{module}.take_apart", counted)
    scan = scan_of(image, archimedean(SHAPE, 1 / 5).dwell_map().numpy())
    completer.complete_scan(scan, keep_measured=True)
    assert len(times) == 1
    completer.self_check(scan)
    assert len(times) == 2


def masked(image, noise=0.0):
    mask = np.random.default_rng(1).random(image.shape) < 0.3
    return scan_of(image, mask.astype(np.float32), noise)


def test_single_pixels_are_held_out_only_where_each_was_measured_on_its_own(image):
    assert hold_out_pixels(scan_of(image, archimedean(SHAPE, 1 / 5).dwell_map().numpy()))[0] is None
    scan = masked(image)
    rest, held = hold_out_pixels(scan)
    assert 0.07 < held.sum() / scan.measured.sum() < 0.13
    np.testing.assert_array_equal(rest.measured, scan.measured & ~held)


def test_an_exact_mask_of_fine_details_is_interpolated_a_noisy_one_is_not():
    completer = load_completer(device="cpu")
    fine = gaussian_filter(np.random.default_rng(2).normal(size=SHAPE), 1.2)
    exact = completer.self_check(masked(fine))
    assert exact.following > 0.8
    assert "of an interpolation" in exact.note
    noisy = completer.self_check(
        masked(np.sin(np.arange(SHAPE[1]) / 20) + np.zeros(SHAPE), noise=2.0)
    )
    assert noisy.following < 0.2
    scan = masked(fine)
    plain, checked = (completer.complete_scan(scan, check=c).image for c in (None, exact))
    wrong = [np.abs(each - fine).mean() for each in (plain, checked)]
    assert wrong[1] < wrong[0]


def test_measured_pixels_are_blended_back_by_their_precision(completer, texture):
    dwell = GEOMETRIES["random"]((96, 96), 1 / 5).dwell_map().numpy()
    clean = RasterScan(np.where(dwell > 0, texture(0), np.nan), dwell)
    noisy = scan_of(texture(0), dwell, noise=2 * texture(0).std())
    moved = []
    for scan in (clean, noisy):
        plain, kept = (completer.complete_scan(scan, keep_measured=keep) for keep in (False, True))
        np.testing.assert_array_equal(plain.image[dwell == 0], kept.image[dwell == 0])
        before, after = (
            np.abs(c.image - scan.intensity)[dwell > 0.2].mean() for c in (plain, kept)
        )
        assert after < before
        assert (kept.error <= plain.error).all()
        moved.append(1 - after / before)
    assert moved[0] > moved[1]


def test_the_error_map_is_raised_to_what_is_left_of_differences_without_noise():
    rng, n = np.random.default_rng(0), 100_000
    dwell = rng.uniform(0.5, 2, n)
    noise, told = 0.3, np.full(n, 0.2)
    off_by = rng.normal(size=n)
    of_noise = noise * rng.normal(size=n) / np.sqrt(dwell)
    raised = NOT_CHECKED.expecting(0.6 * off_by + of_noise, dwell, told, noise)
    assert raised.map_factor == pytest.approx(3, rel=0.02)
    assert raised.expected == pytest.approx(math.hypot(0.2, noise / dwell.mean() ** 0.5))
    for size in (0.0, 0.1, 0.2):  # it is not lowered
        left = NOT_CHECKED.expecting(size * off_by + of_noise, dwell, told, noise)
        assert left.map_factor == pytest.approx(1, abs=0.05)


def test_the_error_map_says_at_least_the_error_of_pixels_that_are_followed():
    rng, n = np.random.default_rng(0), 1000
    change, rest = rng.normal(size=(2, n))
    followed = NOT_CHECKED.followed(change + 0.5 * rest, change, np.full(n, 0.1))
    assert followed.following == pytest.approx(1, abs=0.05)
    assert followed.map_factor == pytest.approx(5, rel=0.1)
    for off, expected in ((change + 0.5 * rest, np.full(n, 2.0)), (rest, np.full(n, 0.1))):
        assert NOT_CHECKED.followed(off, change, expected).map_factor == pytest.approx(1, rel=0.2)
    assert NOT_CHECKED.followed(change, change, None).map_factor == 1


def test_the_error_map_of_what_the_model_gets_wrong_is_raised_and_that_is_told():
    released = load_completer(device="cpu")
    # Finer than the network's blurred truth, and coarser than the noise: each pixel exact.
    fine = gaussian_filter(np.random.default_rng(2).normal(size=SHAPE), 1.0)
    scan = masked(fine)
    check = released.self_check(scan)
    plain, checked = (released.complete_scan(scan, check=each) for each in (None, check))
    assert check.map_factor > 1
    np.testing.assert_allclose(checked.error.min(), check.map_factor * plain.error.min(), rtol=0.01)
