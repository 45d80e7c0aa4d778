from __future__ import annotations

import numpy as np
import pytest

from stem_complete.evaluation.gaps import BINS, bins_of, rmse_by_bin


def test_pixels_are_binned_by_their_distance_from_what_was_measured():
    measured = np.zeros((3, 41), bool)
    measured[:, 0] = True
    bins = bins_of(measured)[1]
    assert bins.tolist()[:6] == [0, 1, 2, 3, 3, 4]
    assert [BINS[bins[x]] for x in (8, 9, 16, 17, 32, 33)] == [
        *("4 to 8", "8 to 16", "8 to 16", "16 to 32", "16 to 32", "over 32")
    ]


def test_errors_of_a_bin_are_of_its_pixels_alone():
    measured = np.zeros((2, 4), bool)
    measured[:, 0] = True
    error = np.array([[1, 2, 3, 4], [-1, 4, 3, 4]], np.float32)
    found = rmse_by_bin(error, bins_of(measured))
    assert found[:4] == pytest.approx((1, np.sqrt(10), 3, 4))
    assert found[4:] == (None,) * 4


def test_bins_together_are_the_whole_error():
    rng = np.random.default_rng(0)
    error, bins = rng.normal(size=(64, 64)), bins_of(rng.random((64, 64)) < 0.05)
    found = rmse_by_bin(error, bins)
    counts = np.bincount(bins.ravel(), minlength=len(BINS))
    total = sum(n * rmse**2 for n, rmse in zip(counts, found, strict=True) if rmse is not None)
    assert total == pytest.approx(np.square(error).sum())
