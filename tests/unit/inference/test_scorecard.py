from __future__ import annotations

import json
import math

import pytest

from stem_complete.evaluation import Scores
from stem_complete.inference.scorecard import EvaluationReport, EvaluationRow, Statistic


def _row(image, method, rmse, coverage="1/20", expected=None, psnr=20.0):
    return EvaluationRow(image, coverage, method, Scores(rmse, psnr, 0.5), 2 * rmse, expected, 0.25)


REPORT = EvaluationReport(
    rows=[
        _row("a", "model", 0.04, expected=0.05),
        _row("a", "linear", 0.10),
        _row("b", "model", 0.06, expected=0.05),
        _row("b", "linear", 0.10),
        _row("a", "model", 0.08, coverage="1/40", expected=0.07),
        _row("a", "linear", 0.30, coverage="1/40", psnr=math.inf),
    ],
    setup={"seed": 0},
    left_out=["c: constant"],
)


def test_means_come_with_the_standard_error_of_the_mean():
    first, second, third, _ = REPORT.summaries()
    assert (first.method, first.coverage, first.num_images) == ("model", "1/20", 2)
    assert first.rmse.mean == pytest.approx(0.05)
    # Deviations of +-0.01: variance 2e-4, over two images.
    assert first.rmse.standard_error == pytest.approx(0.01)
    assert first.unblurred_rmse.mean == pytest.approx(0.10)
    assert first.expected_rmse == Statistic(0.05, 0.0)
    assert second.expected_rmse is None
    assert third.rmse == Statistic(0.08, None)


def test_the_table_has_a_part_for_each_coverage():
    first, second = REPORT.markdown().split("\n\ncoverage 1/40")
    assert first.startswith("coverage 1/20, mean of 2 images ± standard error\n\n| method |")
    assert "| model  |  5.00 ± 1.00 |" in first
    assert second.startswith(", 1 image\n")
    assert len({len(line) for line in first.splitlines()[2:]}) == 1


def test_json_holds_everything_and_no_infinity():
    values = json.loads(REPORT.to_json())
    assert set(values) == {"setup", "summaries", "rows", "left_out"}
    assert values["rows"][0]["scores"] == {"rmse": 0.04, "psnr": 20.0, "ssim": 0.5}
    assert values["rows"][5]["scores"]["psnr"] is None
    assert values["summaries"][0]["rmse"]["standard_error"] == pytest.approx(0.01)
    assert values["summaries"][1]["expected_rmse"] is None
