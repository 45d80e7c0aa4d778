from __future__ import annotations

import csv
import io
import json
import math

import pytest

from stem_complete.evaluation import (
    Report,
    Row,
    as_csv,
    by_condition,
    by_method,
    markdown_table,
    ratios_table,
)
from stem_complete.evaluation.report import OWN_BASELINE, Calibration, Statistic

SETUP = {
    "model": "tiny",
    "model_sha256": "1f",
    "data_sha256": "2e",
    "max_images_per_field": 4,
    "conditions": [{"blur_sigma_px": 2.5}],
    "seed": 0,
    "versions": {"numpy": "2"},
}


def _row(image, method, rmse, coverage="1/20", expected=None, psnr=20.0, field="/data/one"):
    return Row(
        *(image, field, "archimedean", coverage, "none", method),
        *(rmse, psnr, 0.5, 2 * rmse, expected, 0.25),
    )


def _rows(image, field, model, coverage="1/20"):
    errors = {"nearest": 0.2, "harmonic": 0.1, "model": model}
    return [_row(image, name, rmse, coverage, field=field) for name, rmse in errors.items()]


SCORES = Report(
    rows=[
        _row("a", "model", 0.04, expected=0.05),
        _row("a", "linear", 0.10),
        _row("b", "model", 0.06, expected=0.05),
        _row("b", "linear", 0.10),
        _row("a", "model", 0.08, coverage="1/40", expected=0.07),
        _row("a", "linear", 0.30, coverage="1/40", psnr=math.inf),
    ],
    setup=SETUP,
    left_out=["c: constant"],
    baselines=("linear",),
)

REPORT = Report(
    rows=[
        *_rows("a", "/data/one", 0.05),
        *_rows("b", "/data/one", 0.07),
        *_rows("c", "/data/two", 0.12),
        *_rows("a", "/data/one", 0.09, coverage="1/50"),
    ],
    setup=SETUP,
    left_out=["d: constant"],
    baselines=("nearest", "harmonic"),
)


def test_means_come_with_the_standard_error_of_the_mean():
    first, second = SCORES.cells()
    assert (first.coverage, first.num_images) == ("1/20", 2)
    model, linear = first.methods["model"], first.methods["linear"]
    assert model.rmse.mean == pytest.approx(0.05)
    # Deviations of +-0.01: variance 2e-4, over two images.
    assert model.rmse.standard_error == pytest.approx(0.01)
    assert model.unblurred_rmse.mean == pytest.approx(0.10)
    assert model.expected_rmse == Statistic(0.05, 0.0)
    assert linear.expected_rmse is None
    assert second.methods["model"].rmse == Statistic(0.08, None)


def test_scores_have_a_table_for_each_coverage():
    first, second = by_method(SCORES).split("\n\ncoverage 1/40")
    assert first.startswith("coverage 1/20, mean of 2 images ± standard error\n\n| method |")
    assert "| model  |  5.00 ± 1.00 |" in first
    assert second.startswith(", 1 image\n")
    assert len({len(line) for line in first.splitlines()[2:]}) == 1


def test_tables_name_geometry_and_noise_where_they_differ():
    noisy = [row._replace(noise="reference") for row in SCORES.rows[:4]]
    report = Report(SCORES.rows[:4] + noisy, SETUP, [], ("linear",))
    assert by_method(report).startswith("none, coverage 1/20, mean of 2 images")
    assert "\n\nreference, coverage 1/20, mean of 2 images" in by_method(report)


def test_ratios_are_geometric_means_over_the_images():
    first, second = REPORT.cells()
    assert (first.num_images, first.num_fields, first.best_baseline) == (3, 2, "harmonic")
    assert first.ratio == pytest.approx((0.5 * 0.7 * 1.2) ** (1 / 3))
    # Only field one, or only field two.
    assert first.interval == pytest.approx((math.sqrt(0.35), 1.2))
    assert first.share_better == pytest.approx(2 / 3)
    assert (first.worst_ratio, first.worst_image) == (pytest.approx(1.2), "c")
    assert first.methods["model"].typical_rmse == pytest.approx(0.1 * first.ratio)
    assert second.interval is None


def test_the_best_baseline_has_the_lowest_geometric_mean():
    """The mean of `nearest` is lower, as one image errs much, but mostly it errs more."""
    errors = {"nearest": (0.1, 0.1, 0.3), "harmonic": (0.01, 0.01, 0.9), "model": (0.2,) * 3}
    rows = [
        _row(image, name, error)
        for name, of_name in errors.items()
        for image, error in zip("abc", of_name, strict=True)
    ]
    (cell,) = Report(rows, SETUP, [], ("nearest", "harmonic")).cells()
    assert cell.best_baseline == "harmonic"
    assert cell.ratio == pytest.approx((20 * 20 * 0.2 / 0.9) ** (1 / 3))


def test_the_projects_own_baseline_is_left_out_of_a_second_ratio():
    rows = [
        row._replace(method=row.method.replace("harmonic", OWN_BASELINE)) for row in REPORT.rows
    ]
    report = Report(rows, SETUP, [], ("nearest", OWN_BASELINE))
    first, _ = report.cells()
    assert (first.best_baseline, first.ratio) == (OWN_BASELINE, REPORT.cells()[0].ratio)
    (alone, _) = Report(rows, SETUP, [], ("nearest",)).cells()
    assert first.classical_ratio == alone.ratio == alone.classical_ratio
    assert first.classical_worst_ratio == alone.worst_ratio
    assert f"but `{OWN_BASELINE}`" in by_condition(report)
    assert "but `" not in by_condition(REPORT)


def test_a_baseline_may_be_missing_in_some_cells():
    some = [row for row in REPORT.rows if (row.method, row.coverage) != ("harmonic", "1/50")]
    first, second = Report(some, SETUP, [], REPORT.baselines).cells()
    assert (first.best_baseline, second.best_baseline) == ("harmonic", "nearest")
    assert second.ratio == pytest.approx(0.45)


def test_the_error_map_is_compared_with_what_it_predicts():
    first, second = SCORES.cells()
    assert first.calibration == pytest.approx(Calibration(math.sqrt(1.25 / 1.2), 1 / 1.2, 1.25))
    assert second.calibration == pytest.approx((7 / 8,) * 3)
    assert REPORT.cells()[0].calibration is None
    assert "1.02 [0.83, 1.25]" in by_condition(SCORES)


def test_a_perfect_completion_has_a_ratio_of_nearly_nothing():
    perfect = [_row("a", "model", 0.0), _row("a", "nearest", 0.1)]
    (cell,) = Report(perfect, SETUP, [], ("nearest",)).cells()
    assert 0 <= cell.ratio < 1e-9


def test_the_worst_come_first_and_each_image_once():
    found = [(w.row.image, w.row.coverage, w.row.method) for w in REPORT.worst(10)]
    assert found == [
        ("c", "1/20", "harmonic"),
        ("a", "1/50", "harmonic"),
        ("b", "1/20", "harmonic"),
    ]
    assert REPORT.worst(1)[0].model_rmse == 0.12


def test_all_conditions_have_one_table():
    text = by_condition(REPORT)
    assert "tiny, weights SHA-256 1f" in text
    assert "3 crops of 2 fields of view (at most 4 of each), SHA-256 2e" in text
    assert "harmonic |    10.00 |  7.49 | 0.749 [0.59, 1.20] |   67 % |  1.20 |" in text
    assert (
        "| archimedean |     1/20 |  none |      harmonic |    10.00 |       12.00 |  1.20" in text
    )


def test_ratios_have_a_table_by_coverage():
    reversed_cells = REPORT.cells()[::-1]
    lines = [line.split("|")[1:-1] for line in ratios_table(reversed_cells).splitlines()]
    assert [[cell.strip() for cell in line] for line in lines if "-" not in line[0]] == [
        ["geometry", "noise", "1/20", "1/50"],
        ["archimedean", "none", "0.75", "0.90"],
    ]


def test_csv_has_a_line_for_each_cell():
    first, second = csv.DictReader(io.StringIO(as_csv(REPORT)))
    assert (first["geometry"], first["coverage"], first["noise"]) == ("archimedean", "1/20", "none")
    assert float(first["ratio"]) == pytest.approx(REPORT.cells()[0].ratio)
    assert float(first["ratio_high"]) == pytest.approx(1.2)
    assert float(first["harmonic_rmse"]) == pytest.approx(0.1)
    assert (second["ratio_low"], second["error_map_ratio"]) == ("", "")
    assert second["worst_image"] == "a"


def test_a_first_completion_is_no_baseline():
    first = [row._replace(method="first_completion", rmse=0.01) for row in REPORT.rows[::3]]
    report = Report(REPORT.rows + first, SETUP, [], REPORT.baselines)
    assert [cell.best_baseline for cell in report.cells()] == ["harmonic", "harmonic"]
    assert report.cells()[0].interval == REPORT.cells()[0].interval
    assert "First completion: what the model's network corrects." in by_condition(report)
    assert "First completion" not in by_condition(REPORT)


def test_baselines_alone_have_no_ratio():
    rows = []
    for number, name in enumerate("abcd", start=1):
        rows += [_row(name, "nearest", 0.2), _row(name, "harmonic", 0.01 * number)]
    report = Report(rows, SETUP | {"model": None}, [], REPORT.baselines)
    text = by_condition(report)
    assert "baselines alone" in text
    assert "atio" not in text
    assert (report.cells()[0].ratio, report.cells()[0].share_better) == (None, None)
    # The worst is where the best baseline errs most.
    assert [w.row.image for w in report.worst(2)] == ["d", "c"]


def test_a_model_alone_has_no_worst():
    rows = [row for row in REPORT.rows if row.method == "model"]
    report = Report(rows, SETUP, [], ())
    assert report.worst(10) == []
    assert "| archimedean |     1/20 |" in by_condition(report)


def test_json_has_everything_but_infinities_and_paths_of_this_machine():
    values = json.loads(SCORES.to_json())
    assert set(values) == {"setup", "cells", "rows", "left_out", "failed"}
    assert values["rows"][0]["rmse"] == 0.04
    assert values["rows"][5]["psnr"] is None
    methods = values["cells"][0]["methods"]
    assert methods["model"]["rmse"]["standard_error"] == pytest.approx(0.01)
    assert methods["linear"]["expected_rmse"] is None
    values = json.loads(REPORT.to_json())
    assert values["cells"][0]["interval"] == pytest.approx({"low": math.sqrt(0.35), "high": 1.2})
    assert values["rows"][-4]["field"] == "two"
    assert "/data" not in REPORT.to_json()


def test_columns_line_up_and_pipes_are_escaped():
    table = markdown_table(["method", "a | b"], [["linear", "4.00"], ["network", "0.02"]])
    assert table.splitlines() == [
        "| method  | a \\| b |",
        "| ------- | -----: |",
        "| linear  |   4.00 |",
        "| network |   0.02 |",
    ]


def test_rows_must_be_of_one_length():
    with pytest.raises(ValueError, match="zip"):
        markdown_table(["a", "b"], [["1"]])


def test_perfect_completions_have_no_spread_of_psnr():
    assert Statistic.of([math.inf, math.inf]) == (math.inf, None)
    assert Statistic.of([1.0, math.inf]) == (math.inf, None)
    assert Statistic.of([1.0, 3.0]) == (2.0, 1.0)
