"""Scans on the grid as people store them: read like the reference, or refused with the fix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import micrograph, seeds

from stem_complete.data.conventions import raster_scan
from stem_complete.data.fills import find_fill
from stem_complete.data.scan_options import ScanOptions
from stem_complete.errors import ConfigError, DataError
from stem_complete.scan import archimedean

SHAPE = (96, 96)
DWELL = np.round(archimedean(SHAPE, "1/10").dwell_map().numpy() * 16) / 16
VISITED = DWELL > 0
TRUTH = 500 + 100 * micrograph("texture", 0, SHAPE)
GAPS = np.where(VISITED, TRUTH, np.nan)
OTHER = archimedean(SHAPE, "1/20").dwell_map().numpy()


def filled(value: float, dtype: Any = np.float64) -> np.ndarray:
    return np.where(VISITED, TRUTH, value).astype(dtype)


def like_the_reference(scan: Any, dwell: np.ndarray = DWELL, rounding: float = 1.0) -> None:
    np.testing.assert_array_equal(scan.measured, VISITED)
    np.testing.assert_allclose(scan.dwell, dwell, rtol=1e-6)
    np.testing.assert_allclose(scan.intensity[VISITED], TRUTH[VISITED], atol=rounding)


FILLS = {
    "zero": filled(0),
    "zero of uint16": filled(0, np.uint16),
    "minus one": filled(-1),
    "minus one of int16": filled(-1, np.int16),
    "65535": filled(65535, np.uint16),
    "4095": filled(4095, np.uint16),
    "1e20": filled(1e20, np.float32),
    "-9999": filled(-9999, np.float32),
    "infinity": filled(np.inf),
    "the mean": filled(TRUTH.mean()),
    "a constant among the intensities": filled(533.125, np.float32),
    "below the least": filled(np.floor(TRUTH[VISITED].min()) - 30),
    "the default of masked arrays": filled(999999),
}


@pytest.mark.parametrize("image", FILLS.values(), ids=FILLS)
def test_a_constant_between_the_turns_is_told_to_be_not_measured(image: np.ndarray) -> None:
    scan = raster_scan(image)
    like_the_reference(scan, VISITED.astype(float))
    (note,) = scan.notes
    assert note.endswith("taken for not measured")
    # With its dwell map it is the same scan, and nothing is to be told.
    like_the_reference(raster_scan(image, DWELL))
    assert raster_scan(image, DWELL).notes == ()


@pytest.mark.parametrize("value", [0.0, -1.0, 4095.0])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.8])
def test_so_is_one_between_scattered_pixels(value: float, share: float) -> None:
    measured = np.random.default_rng(0).uniform(size=SHAPE) < share
    scan = raster_scan(np.where(measured, TRUTH, value))
    np.testing.assert_array_equal(scan.measured, measured)


@pytest.mark.parametrize("unmeasured", [0, 7.5, 1e20, -1])
def test_the_value_of_what_was_not_measured_may_be_given(unmeasured: float) -> None:
    image = filled(unmeasured, np.float32)
    scan = raster_scan(image, options=ScanOptions(unmeasured=unmeasured))
    like_the_reference(scan, VISITED.astype(float))
    assert scan.notes == ()
    everything = raster_scan(image, options=ScanOptions(unmeasured=float("nan")))
    assert everything.measured.all()


def test_a_value_that_is_nowhere_is_said_to_be() -> None:
    scan = raster_scan(TRUTH, options=ScanOptions(unmeasured=-1))
    assert scan.measured.all()
    assert scan.notes == ("no pixel holds -1, so none is left out for that",)


def test_a_value_that_a_dtype_cannot_hold_is_nowhere() -> None:
    image = filled(0, np.uint16)
    scan = raster_scan(image, options=ScanOptions(unmeasured=-1))
    assert scan.measured.all()


def test_masked_arrays_keep_their_mask() -> None:
    scan = raster_scan(np.ma.array(TRUTH, mask=~VISITED))
    like_the_reference(scan, VISITED.astype(float))


@pytest.mark.parametrize("dtype", ["float16", ">f4", ">f8", "int32"])
def test_dtypes_and_offsets_keep_the_contrast(dtype: str) -> None:
    offset = 0 if dtype == "float16" else 1e8 if dtype == "int32" else 0
    scan = raster_scan((filled(0) + offset * VISITED).astype(dtype), np.asfortranarray(DWELL))
    np.testing.assert_allclose(scan.intensity[VISITED] - offset, TRUTH[VISITED], atol=1)
    far = raster_scan(np.where(VISITED, TRUTH + 2e9, np.nan), DWELL)
    np.testing.assert_allclose(far.intensity[VISITED] - 2e9, TRUTH[VISITED], atol=1e-6)


class TestFullImages:
    """Measured all over, they have no fill, whatever their darkest or brightest value is."""

    @given(seed=seeds, share=st.sampled_from([0.1, 0.3, 0.5]), dark=st.booleans())
    def test_a_clipped_background_is_measured(self, seed: int, share: float, dark: bool) -> None:
        image = micrograph("texture", seed, (96, 96))
        limit = np.quantile(image, share if dark else 1 - share)
        clipped = np.maximum(image, limit) if dark else np.minimum(image, limit)
        assert find_fill(clipped) is None

    @given(seed=seeds, dose=st.sampled_from([0.05, 0.3, 1.0, 3.0, 10.0]))
    def test_zeros_among_counts_of_few_electrons_are_measured(self, seed: int, dose: float) -> None:
        expected = dose * (1 + 0.3 * micrograph("lattice", seed, (64, 64))).clip(0)
        counts = np.random.default_rng(seed).poisson(expected)
        assert find_fill(counts.astype(float)) is None

    def test_their_zeros_are_told(self) -> None:
        image = np.maximum(TRUTH - np.quantile(TRUTH, 0.2), 0)
        scan = raster_scan(image)
        assert scan.measured.all()
        assert "20% of the pixels are 0, taken for measured" in scan.notes[0]


def test_a_raster_that_was_stopped_is_a_rectangle_on_the_fill() -> None:
    image = np.where(np.arange(96)[:, None] < 70, TRUTH - TRUTH.min(), 0)
    assert find_fill(image) == 0


class TestDark:
    """Zeros may be intensities."""

    dark = np.where(np.arange(96) < 48, 0.0, TRUTH)

    def test_with_a_dwell_map_they_are(self) -> None:
        scan = raster_scan(np.where(VISITED, self.dark, 0), DWELL)
        np.testing.assert_array_equal(scan.measured, VISITED)
        assert scan.notes == (
            f"0 is taken for measured in {int(VISITED[:, :48].sum()):,} pixels with dwell",
        )

    def test_without_one_that_is_asked(self) -> None:
        image = np.where(VISITED, self.dark, 0)
        with pytest.raises(DataError, match=r"zeros may be dark.*--unmeasured 0"):
            raster_scan(image)
        scan = raster_scan(image, options=ScanOptions(unmeasured=0))
        np.testing.assert_array_equal(scan.measured, VISITED & (self.dark > 0))


UNITS: dict[str, tuple[np.ndarray, ScanOptions]] = {
    "us": (DWELL * 10.5, ScanOptions(dwell_unit="us", full_dwell=10.5)),
    "ms": (DWELL * 0.01, ScanOptions(dwell_unit="ms", full_dwell=0.01)),
    "s": (DWELL * 1e-5, ScanOptions(dwell_unit="s", full_dwell=1e-5)),
    "visits": ((DWELL * 16).astype(np.uint16), ScanOptions(dwell_unit="counts", full_dwell=16)),
    "one number": (DWELL * 8, ScanOptions(full_dwell=8)),
    "full": (DWELL, ScanOptions(dwell_unit="full")),
}


@pytest.mark.parametrize(("dwell", "options"), UNITS.values(), ids=UNITS)
def test_dwell_times_of_any_unit(dwell: np.ndarray, options: ScanOptions) -> None:
    like_the_reference(raster_scan(GAPS, dwell, options=options))


@pytest.mark.parametrize("unit", ["us", "ms", "s"])
def test_a_unit_of_time_that_is_not_stated_is_asked_for(unit: str) -> None:
    with pytest.raises(DataError, match=r"--dwell-unit us --full-dwell 10"):
        raster_scan(GAPS, UNITS[unit][0])
    with pytest.raises(DataError, match=f"give --full-dwell in {unit}"):
        raster_scan(GAPS, UNITS[unit][0], options=ScanOptions(dwell_unit=unit))  # type: ignore[arg-type]


def test_a_fast_raster_is_believed() -> None:
    scan = raster_scan(TRUTH, np.full(SHAPE, 1 / 50))
    assert scan.coverage == pytest.approx(1 / 50)
    sparse = ScanOptions(dwell_unit="full")
    assert raster_scan(GAPS, DWELL / 50, options=sparse).coverage == pytest.approx(
        DWELL.mean() / 50
    )


def test_a_full_dwell_is_above_zero() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        raster_scan(GAPS, DWELL, options=ScanOptions(full_dwell=0))


COUNTS = np.round(DWELL * 16)
PARKED = np.where(np.cumsum(VISITED).reshape(SHAPE) == 100, 4000 * VISITED, COUNTS)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int64])
@pytest.mark.parametrize("counts", [COUNTS, PARKED], ids=["all alike", "one parked"])
def test_whole_numbers_are_counted_to_the_most_that_is_usual(
    counts: np.ndarray, dtype: Any
) -> None:
    scan = raster_scan(GAPS, counts.astype(dtype))
    np.testing.assert_allclose(scan.dwell, np.minimum(counts, COUNTS.max()) / COUNTS.max())
    assert ("parked probe" in " ".join(scan.notes)) == (counts is PARKED)


@pytest.mark.parametrize("mask", [VISITED, VISITED.astype(np.uint8), 255 * VISITED.astype(int)])
def test_masks_are_dwells_of_one(mask: np.ndarray) -> None:
    like_the_reference(raster_scan(filled(0), mask), VISITED.astype(float))


@pytest.mark.parametrize("empty", [np.nan, -1.0, 65535.0, 1e20])
def test_maps_may_mark_where_the_probe_never_was(empty: float) -> None:
    like_the_reference(raster_scan(GAPS, np.where(VISITED, DWELL, empty)))


def test_dead_samples_are_left_out_and_counted() -> None:
    dead = VISITED & (np.cumsum(VISITED).reshape(SHAPE) % 100 == 0)
    scan = raster_scan(np.where(dead, np.nan, GAPS), DWELL)
    np.testing.assert_array_equal(scan.measured, VISITED & ~dead)
    assert scan.notes == (f"left out: {dead.sum():,} pixels with dwell but without intensity",)


WRONG: dict[str, tuple[np.ndarray, str]] = {
    "inverted": ((~VISITED).astype(float), "fits if it is inverted"),
    "inverted 255": (255 * (~VISITED).astype(np.uint8), "fits if it is inverted"),
    "transposed": (DWELL.T, "fits if it is transposed"),
    "upside down": (DWELL[::-1], "fits if it is flipped upside down"),
    "of another scan": (OTHER, "give the dwell map that belongs to this scan"),
    "shifted": (np.roll(DWELL, 3, 1), "give the dwell map that belongs to this scan"),
}


@pytest.mark.parametrize("fill", [np.nan, 0.0, -1.0, 65535.0])
@pytest.mark.parametrize(("dwell", "message"), WRONG.values(), ids=WRONG)
def test_maps_that_do_not_belong_are_refused(dwell: np.ndarray, message: str, fill: float) -> None:
    with pytest.raises(DataError, match=message) as caught:
        raster_scan(filled(fill), dwell, dwell_where="map.npy")
    assert str(caught.value).startswith("map.npy: expected")
    assert "\n" not in str(caught.value)


def test_a_map_may_choose_from_a_full_image() -> None:
    image = TRUTH.copy()
    image[np.unravel_index(np.flatnonzero(~VISITED)[:3], SHAPE)] = np.nan
    like_the_reference(raster_scan(image, DWELL))


BAD: dict[str, tuple[np.ndarray, np.ndarray | None, str]] = {
    "blank": (np.zeros(SHAPE), None, "at least one measured pixel, found 0 in all"),
    "stack": (TRUTH[None], None, r"one scan \[h, w\]"),
    "one nan in the map": (GAPS, np.where(DWELL.max() == DWELL, np.nan, DWELL), "NaN or infinite"),
    "several negative": (GAPS, DWELL - 0.5, "negative"),
    "infinite": (GAPS, np.where(VISITED, np.inf, 0), "NaN or infinite"),
    "another shape": (GAPS, DWELL[1:], "that belongs to this scan"),
    "text": (np.full(SHAPE, "a"), None, "real numbers"),
}


@pytest.mark.parametrize(("image", "dwell", "message"), BAD.values(), ids=BAD)
def test_what_is_no_scan_is_refused(
    image: np.ndarray, dwell: np.ndarray | None, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        raster_scan(image, dwell)
    assert "\n" not in str(caught.value)


values = st.sampled_from(
    [0.0, 1.0, -1.0, 0.5, 255.0, 65535.0, 1e20, 1e-20, np.nan, np.inf, -np.inf]
)


@st.composite
def stored(draw: st.DrawFn) -> np.ndarray:
    """Images of a few values, of noise, and of both."""
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    few = rng.choice(draw(st.lists(values, min_size=1, max_size=4)), shape)
    noise = rng.normal(size=shape) * draw(st.sampled_from([0.0, 1.0, 1e-12, 1e9, 1e30]))
    return np.where(rng.uniform(size=shape) < draw(st.floats(0, 1)), few, few + noise)


@given(
    image=stored(),
    dwell=st.none() | stored(),
    unmeasured=st.none() | values,
    full=st.none() | st.just(10.0),
)
def test_anything_is_a_checked_scan_or_refused(
    image: np.ndarray, dwell: np.ndarray | None, unmeasured: float | None, full: float | None
) -> None:
    if dwell is not None and dwell.shape != image.shape:
        dwell = np.resize(dwell, image.shape)
    try:
        scan = raster_scan(
            image, dwell, options=ScanOptions(unmeasured=unmeasured, full_dwell=full)
        )
    except DataError:
        return
    assert np.isfinite(scan.intensity[scan.measured]).all()
    assert np.isfinite(scan.dwell).all()
    assert 0 < scan.coverage <= 1 + 1e-6
    np.testing.assert_array_equal(scan.measured, scan.dwell > 0)
