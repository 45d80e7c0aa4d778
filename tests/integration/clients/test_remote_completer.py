"""Scans of any type, completed by a real service at an address: the same as here."""

import numpy as np
import pytest
import xarray as xr

from stem_complete.data.scans import PathScan, RasterScan
from stem_complete.errors import DataError, RemoteError
from stem_complete.inference import RemoteCompleter
from stem_complete.scan import archimedean


@pytest.fixture(scope="module")
def remote(service, token_and_hash) -> RemoteCompleter:
    return RemoteCompleter(service, token_and_hash[0])


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def test_arrays_are_completed_as_here(remote, completer, example):
    expected = completer.complete(*example, check=completer.self_check(*example))
    image, error, about = remote.complete(*example)
    same(image, expected.image)
    same(error, expected.error)
    assert "self-check" in about["self_check"]["note"]
    assert remote.complete(*example, error_map=False, self_check=False).error is None


def test_dwell_times_of_whole_numbers_are_no_counts_there(remote, completer, texture):
    dwell = np.where(np.random.default_rng(0).random((64, 64)) < 0.2, 2.0, 0.0)
    scan = RasterScan(np.where(dwell > 0, texture(0, (64, 64)), np.nan), dwell)  # full pixel dwells
    found = remote.complete(scan, self_check=False)
    same(found.image, completer.complete_scan(scan).image)
    assert found.about["coverage"] == pytest.approx(scan.coverage)


def test_a_scan_along_a_path_is_completed(remote, completer):
    path = archimedean((64, 64), "1/8")
    samples = np.random.default_rng(0).normal(10, 1, len(path.positions))
    scan = PathScan(path.positions, path.dwell, samples, path.shape)
    same(remote.complete(scan, self_check=False).image, completer.complete_scan(scan).image)


def test_an_array_of_xarray_comes_back_with_its_coordinates(remote, example):
    intensity, dwell = example
    rows, columns = (np.arange(n) * 0.1 for n in intensity.shape)
    scan = xr.DataArray(intensity, {"y": rows, "x": columns}, ("y", "x"), name="gold")
    image, error, _ = remote.complete(scan, dwell, self_check=False)
    assert image.name == "gold"
    assert error.name == "gold error"
    np.testing.assert_array_equal(image.x, columns)


def test_what_goes_wrong_is_told_in_one_line(remote, service, example):
    with pytest.raises(RemoteError, match=r"Bearer TOKEN.*found another"):
        RemoteCompleter(service, "wrong").complete(*example)
    with pytest.raises(RemoteError, match=r"check the address.*stem-complete serve"):
        RemoteCompleter("http://127.0.0.1:9").complete(*example)
    with pytest.raises(RemoteError, match="MissingSchema"):
        RemoteCompleter("nowhere").complete(*example)
    with pytest.raises(DataError, match="sides of at least 32"):  # without asking
        remote.complete(np.arange(400.0).reshape(20, 20))
