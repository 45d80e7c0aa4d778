"""xarray's arrays and HyperSpy's signals: in, and out again as what they were."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from stem_complete import PathScan
from stem_complete.errors import DataError
from stem_complete.inference.labelled import as_raster
from stem_complete.scan import archimedean


class Tree:
    """As HyperSpy's `DictionaryTreeBrowser`, of one level."""

    def __init__(self, **items: object) -> None:
        self.items = items

    def get_item(self, path: str, default: object = None) -> object:
        return self.items.get(path, default)

    def set_item(self, path: str, value: object) -> None:
        self.items[path] = value


class Signal:
    """What is used of HyperSpy's `Signal2D`, which is too heavy to install for this."""

    def __init__(self, data: Any, *, lazy: bool = False) -> None:
        self.data = data
        self._lazy = lazy
        axes = [SimpleNamespace(name=name, scale=0.05, units="nm") for name in "yx"]
        self.axes_manager = SimpleNamespace(signal_axes=axes)
        self.metadata = Tree(**{"General.title": "HAADF", "Signal.quantity": "electrons"})

    def deepcopy(self) -> Signal:
        return copy.deepcopy(self)

    def compute(self, *, show_progressbar: bool) -> None:
        self._lazy = False


@pytest.fixture
def intensity(texture, spiral):
    return spiral(texture(1))[0]


@pytest.fixture
def scan(intensity) -> xr.DataArray:
    height, width = intensity.shape
    return xr.DataArray(
        intensity,
        dims=("row", "column"),
        coords={
            "row": ("row", 0.05 * np.arange(height), {"units": "nm"}),
            "column": ("column", 3 + 0.05 * np.arange(width), {"units": "nm"}),
            "defocus": -12.0,
        },
        name="HAADF",
        attrs={"units": "electrons"},
    )


class TestDataArray:
    def test_a_completion_keeps_coordinates_attributes_and_units(self, completer, scan, intensity):
        image, error = completer.complete(scan)
        expected = completer.complete(intensity)
        xr.testing.assert_identical(image, scan.copy(data=expected.image))
        xr.testing.assert_identical(error, scan.copy(data=expected.error).rename("HAADF error"))
        assert image.dtype == error.dtype == np.float32
        assert np.isnan(scan).any()  # and it was not changed

    def test_every_way_to_complete_takes_it(self, completer, scan):
        expected = completer.complete(scan).image
        check = completer.self_check(scan)
        xr.testing.assert_identical(completer.complete_scan(scan).image, expected)
        (one,) = completer.complete_scans([scan], error_map=False, checks=[check])
        assert one.error is None
        assert one.image.attrs == scan.attrs

    def test_what_a_check_contradicts_is_left_out(self, completer, scan, spiral, texture):
        dwell = spiral(texture(1))[1]
        check = completer.self_check(scan, dwell)
        assert check == completer.self_check(as_raster(scan, dwell))
        given = {"check": check, "keep_measured": True}
        image, error = completer.complete(scan, dwell, **given)
        expected = completer.complete_scan(as_raster(scan, dwell), **given)
        assert np.array_equal(image, expected.image)
        assert np.array_equal(error, expected.error)

    def test_a_name_is_not_needed(self, completer, scan):
        image, error = completer.complete(scan.rename(None))
        assert (image.name, error.name) == (None, "error")

    def test_how_its_file_stored_it_is_forgotten(self, completer, scan):
        scan.encoding = {"dtype": "uint8", "scale_factor": 2.0}
        assert completer.complete(scan, error_map=False).image.encoding == {}
        assert scan.encoding

    def test_a_dwell_map_is_turned_to_its_dimensions(self, completer, scan, spiral, texture):
        dwell = xr.DataArray(spiral(texture(1))[1], dims=scan.dims)
        expected = completer.complete(scan, dwell.to_numpy()).image
        for given in (dwell, dwell.T):
            xr.testing.assert_identical(completer.complete(scan, given).image, expected)

    def test_a_dwell_map_of_other_axes_is_refused(self, completer, scan):
        dwell = xr.ones_like(scan)
        with pytest.raises(DataError, match="the scan's coordinates along row, found others"):
            completer.complete(scan, dwell.assign_coords(row=dwell.row + 1))
        with pytest.raises(DataError, match="dimensions row, column, found y, column"):
            completer.complete(scan, dwell.rename(row="y"))

    def test_a_stack_is_refused(self, completer, scan):
        stack = scan.expand_dims(time=3)
        with pytest.raises(DataError, match=r"HAADF: .* time, row, column; .*scan.isel\(time=0\)"):
            completer.complete(stack)
        xr.testing.assert_identical(
            completer.complete(stack.isel(time=0)).image, completer.complete(scan).image
        )


class TestSignal:
    @pytest.mark.parametrize("lazy", [False, True])
    def test_a_completion_keeps_class_axes_and_metadata(self, completer, intensity, lazy):
        signal = Signal(intensity, lazy=lazy)
        image, error = completer.complete(signal)
        expected = completer.complete(intensity)
        for result, values in ((image, expected.image), (error, expected.error)):
            assert type(result) is Signal
            assert not result._lazy
            assert np.array_equal(result.data, values)
            assert result.axes_manager == signal.axes_manager
            assert result.axes_manager is not signal.axes_manager
            assert result.metadata.get_item("Signal.quantity") == "electrons"
        titles = [each.metadata.get_item("General.title") for each in (image, error)]
        assert titles == ["HAADF", "HAADF error"]
        assert np.isnan(signal.data).any()

    def test_a_dwell_map_may_be_one_too(self, completer, intensity):
        dwell = np.isfinite(intensity) * 0.5
        image, _ = completer.complete(Signal(intensity), Signal(dwell))
        assert np.array_equal(image.data, completer.complete(intensity, dwell).image)

    def test_a_stack_is_refused(self, completer, intensity):
        with pytest.raises(DataError, match=r"HAADF: .* shape \(2, 96, 96\); .* signal.inav\[0\]"):
            completer.complete(Signal(np.stack([intensity] * 2)))


class TestPathScan:
    def test_it_is_completed_as_by_complete_scan(self, completer):
        path = archimedean((64, 64), "1/10")
        samples = np.random.default_rng(0).normal(size=len(path.positions))
        scan = PathScan(path.positions, path.dwell, samples, path.shape)
        image, error = completer.complete(scan)
        assert np.array_equal(image, completer.complete_scan(scan).image)
        assert isinstance(error, np.ndarray)
        with pytest.raises(DataError, match="a PathScan alone, which has its dwell times"):
            completer.complete(scan, np.ones(path.shape))
