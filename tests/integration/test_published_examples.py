"""Classical methods on the published examples, 512 px wide: seconds each."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

import stem_complete
from stem_complete.data.scans import RasterScan
from stem_complete.evaluation import (
    BASELINES,
    Report,
    baseline_methods,
    evaluate_published,
    rmse,
)


# RMSE [% of range] of the noiseless published scans by their number; our own measurement, with
# scipy 1.17 and scikit-image 0.26.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nearest", {1: 2.25, 2: 10.42, 3: 9.49}),
        ("linear", {1: 0.84, 2: 9.02, 3: 8.20}),
        ("normalised_convolution", {1: 1.95, 2: 8.37, 3: 7.59}),
        ("harmonic", {2: 8.08}),
        ("total_variation", {1: 0.97, 2: 8.08, 3: 7.25}),
        ("biharmonic", {2: 11.40}),
    ],
)
def test_errors_on_the_published_examples(name: str, expected: dict[int, float]) -> None:
    folder = Path(stem_complete.__file__).parent / "examples" / "published"
    errors = {}
    for number in expected:
        truth = tifffile.imread(folder / f"truth-{number}.tif")
        dwell = tifffile.imread(folder / f"mask-{number}.tif")
        image = BASELINES[name](RasterScan(np.where(dwell > 0, truth, np.nan), dwell))
        errors[number] = 100 * rmse(truth, image)
    assert errors == pytest.approx(expected, abs=0.02)


@pytest.fixture(scope="module")
def published() -> Report:
    return evaluate_published(baseline_methods(["nearest", "linear", "normalised_convolution"]))


class TestPublishedScans:
    def test_are_the_three_triples(self, published: Report) -> None:
        assert {row.image for row in published.rows} == {"truth-1", "truth-2", "truth-3"}
        assert {row.coverage for row in published.rows} == {"1/22.1"}  # nominally 1/20

    def test_the_baseline_that_averages_noise_away_is_best(self, published: Report) -> None:
        (cell,) = published.cells()
        assert cell.best_baseline == "normalised_convolution"
        assert cell.methods["linear"].rmse.mean < cell.methods["nearest"].rmse.mean

    def test_the_blurred_truth_is_nearer_than_the_original(self, published: Report) -> None:
        for row in published.rows:
            assert row.rmse < row.unblurred_rmse
