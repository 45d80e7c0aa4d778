"""Partial scans along paths and on the grid: what holds for all, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gains, offsets, partial_scans, paths, seeds, shapes

from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import DataError
from stem_complete.scan import ScanPath, archimedean

few = settings(max_examples=50, deadline=None)
visiting = paths(shapes(2, 24)).filter(lambda path: 0 < path.coverage <= 1)


def along(path: ScanPath, intensity: np.ndarray) -> PathScan:
    return PathScan(path.positions, path.dwell, intensity, path.shape)


@few
@given(path=visiting, value=st.floats(-1e9, 1e9))
def test_a_constant_stays_that_constant(path: ScanPath, value: float) -> None:
    scan = along(path, np.full(len(path.dwell), value)).raster()
    assert (scan.intensity[scan.measured] == value).all()
    np.testing.assert_array_equal(scan.measured, scan.dwell > 0)


@few
@given(path=visiting, seed=seeds)
def test_the_dwell_map_is_that_of_the_path(path: ScanPath, seed: int) -> None:
    intensity = np.random.default_rng(seed).normal(size=len(path.dwell))
    scan = along(path, intensity).raster()
    np.testing.assert_array_equal(scan.dwell, path.dwell_map().numpy())
    # Means are within what was measured.
    low, high = scan.measured_range
    assert intensity.min() - 1e-12 <= low <= high <= intensity.max() + 1e-12


@few
@given(path=visiting, place=st.floats(0, 1, exclude_max=True))
def test_a_sample_counts_by_what_its_dwell_adds_to_the_map(path: ScanPath, place: float) -> None:
    number = int(place * len(path.dwell))
    alone = torch.zeros_like(path.dwell)
    alone[number] = path.dwell[number]
    added = ScanPath(path.positions, alone, path.shape).dwell_map().numpy()
    intensity = np.zeros(len(path.dwell))
    intensity[number] = 1.0
    scan = along(path, intensity).raster()
    np.testing.assert_allclose(np.nan_to_num(scan.intensity) * scan.dwell, added, atol=1e-6)


@few
@given(path=visiting, seed=seeds, gain=gains, offset=offsets)
def test_rasters_follow_gain_and_offset(
    path: ScanPath, seed: int, gain: float, offset: float
) -> None:
    intensity = np.random.default_rng(seed).normal(size=len(path.dwell))
    plain = along(path, intensity).raster()
    changed = along(path, gain * (intensity + offset)).raster()
    np.testing.assert_allclose(changed.intensity / gain - offset, plain.intensity, atol=1e-9)


def test_samples_in_one_place_are_averaged_by_their_dwell() -> None:
    scan = PathScan([[3, 2], [3, 2]], [0.75, 0.25], [1.0, 5.0], (5, 6)).raster()
    np.testing.assert_allclose(scan.intensity[scan.measured], 2.0)
    assert scan.dwell[2, 3] == pytest.approx(0.25)  # of a probe of weights [1 2 1]/4 each way


def test_samples_outside_or_of_no_dwell_do_not_count() -> None:
    positions = [[1, 1], [-0.6, 1], [2, 9], [2, 2]]
    scan = PathScan(positions, [0.5, 0.5, 0.5, 0], [1.0, 99, 99, 99], (5, 5)).raster()
    assert (scan.intensity[scan.measured] == 1).all()


def test_a_path_scan_keeps_what_is_known_of_it() -> None:
    path = archimedean((16, 16), "1/4")
    scan = PathScan(
        *(path.positions, path.dwell, np.zeros(len(path.dwell)), path.shape),
        times_s=np.arange(len(path.dwell)),
        pixel_size_nm=0.02,
        unit="counts",
        metadata={"detector": "HAADF"},
    )
    assert scan.raster().pixel_size_nm == 0.02
    assert (scan.unit, scan.metadata) == ("counts", {"detector": "HAADF"})
    assert scan.raster().raster().coverage == pytest.approx(path.coverage)


SQUARE = (4, 4)
BAD_PATHS = {
    "no-samples": (([], [], [], SQUARE), r"\(x, y\)"),
    "one-coordinate": (([[1], [2]], [1, 1], [1, 1], SQUARE), r"pairs \[n, 2\]"),
    "dwell-of-another-length": (([[1, 1]], [1, 1], [1], SQUARE), "one value per position"),
    "intensity-of-another-length": (([[1, 1]], [1], [1, 2], SQUARE), "each of 1 position,"),
    "nan-position": (([[1, np.nan]], [1], [1], SQUARE), "positions must be finite"),
    "nan-dwell": (([[1, 1]], [np.nan], [1], SQUARE), "dwell must be finite"),
    "negative-dwell": (([[1, 1]], [-1], [1], SQUARE), "not negative"),
    "nan-intensity": (([[1, 1]] * 2, [1, 1], [1, np.nan], SQUARE), "1 NaN or infinite"),
    "all-outside": (([[9, 9]], [1], [1], SQUARE), "none among 1"),
    "no-dwell": (([[1, 1]], [0], [1], SQUARE), "none among 1"),
    "dwell-in-microseconds": (([[1, 1]], [50.0], [1], SQUARE), "divide them"),
    "shape": (([[1, 1]], [1], [1], (4, 4, 4)), "two whole numbers"),
    "text": (([["a", "b"]], [1], [1], SQUARE), "real numbers"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_bad_path_scans_are_refused_in_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        PathScan(*arguments, where="scan.csv")
    assert str(caught.value).startswith("scan.csv: expected")
    assert "\n" not in str(caught.value)


def test_times_must_not_fall() -> None:
    with pytest.raises(DataError, match="time order"):
        PathScan([[1, 1], [2, 2]], [1, 1], [1, 2], SQUARE, times_s=[1, 0])


@few
@given(scan=partial_scans(shapes(2, 24)))
def test_what_is_measured_on_the_grid_has_dwell_and_intensity(scan: tuple) -> None:
    intensity, dwell = scan
    checked = RasterScan(intensity, dwell)
    measured = (dwell > 0) & ~np.isnan(intensity)
    np.testing.assert_array_equal(checked.measured, measured)
    np.testing.assert_array_equal(checked.dwell, np.where(measured, dwell, 0))
    np.testing.assert_array_equal(checked.intensity[measured], intensity[measured])
    unit = checked.unit()[measured]
    assert unit.min() == 0
    assert unit.max() in (0, 1)


BAD_RASTERS = {
    "shapes": ((np.eye(6), np.eye(5)), r"dwell map: expected .*\(6, 6\).*\(5, 5\)"),
    "stack": ((np.eye(6)[None], np.eye(6)[None]), r"one scan \[h, w\]"),
    "nothing-measured": ((np.full((6, 6), np.nan), np.eye(6)), "at least one"),
    "no-dwell": ((np.eye(6), np.zeros((6, 6))), "at least one"),
    "inf": ((np.where(np.eye(6) > 0, np.inf, 0), np.eye(6)), "6 infinite"),
    "beyond-float32": ((1e38 * np.eye(6), np.eye(6)), "6 infinite ones, or beyond"),
    "negative-dwell": ((np.eye(6), -np.eye(6)), "negative"),
    "nan-dwell": ((np.eye(6), np.full((6, 6), np.nan)), "dwell map.*NaN"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD_RASTERS.values(), ids=BAD_RASTERS)
def test_bad_raster_scans_are_refused(arrays: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RasterScan(*arrays)
