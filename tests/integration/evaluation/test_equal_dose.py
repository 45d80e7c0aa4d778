"""Full rasters and sparse scans of as many electrons."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stem_complete.cli import app
from stem_complete.evaluation import (
    MODEL,
    Report,
    Row,
    compare_at_equal_dose,
    equal_dose_tables,
    load_micrographs,
    simulate,
)
from stem_complete.evaluation.equal_dose import BlurredFrame, Frame, conditions_at
from stem_complete.scan import blur

SETUP = {
    "model": "tiny",
    "model_sha256": "1f",
    "data_sha256": "2e",
    "seed": 0,
    "versions": {"numpy": "2"},
}


@pytest.mark.parametrize("budget", [1.0, 30.0])
def test_all_ways_spend_the_same_electrons(small_store, budget):
    crops = load_micrographs(small_store, max_images=1).crops
    for condition in conditions_at(budget):
        dose = condition.noise.dose_electrons_per_px
        (scan,) = simulate(crops, condition)
        assert dose * scan.partial.dwell.mean() == pytest.approx(budget, rel=1e-3)


def test_a_full_raster_is_counted_in_each_pixel(small_store):
    raster, *_ = conditions_at(4.0)
    (scan,) = simulate(load_micrographs(small_store, max_images=1).crops, raster)
    np.testing.assert_allclose(scan.partial.dwell, 1.0, rtol=1e-5)
    frame = Frame("raw")
    assert frame.suits(*raster.labels)
    assert not any(frame.suits(*condition.labels) for condition in conditions_at(4.0)[1:])
    image = frame(scan).image
    electrons = 4 * (image + 1) / 2
    np.testing.assert_allclose(electrons, electrons.round(), atol=1e-5)
    rate = 4 * (scan.unblurred + 1) / 2
    assert np.mean((electrons - rate) ** 2) == pytest.approx(rate.mean(), rel=0.1)
    blurred = BlurredFrame(frame)(scan).image
    expected = blur(torch.from_numpy(image)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_rasters_are_denoised_and_sparse_scans_completed(small_store, completer, tmp_path):
    calls = []
    report = compare_at_equal_dose(
        small_store,
        completer,
        budgets=(10.0,),
        max_images=1,
        output=tmp_path,
        progress=lambda *call: calls.append(call),
    )
    assert len(calls) == 13
    of_raster, of_spiral = (
        {row.method: row.rmse for row in report.rows if row.geometry == geometry}
        for geometry in ("serpentine_raster", "archimedean")
    )
    assert of_spiral.keys() == {"adaptive_spline", MODEL}
    assert of_raster.keys() > {"raw", "raw, blurred", "non_local_means", *of_spiral}
    assert of_raster["raw, blurred"] < 0.5 * of_raster["raw"]
    again = compare_at_equal_dose(
        small_store, budgets=(10.0,), max_images=1, output=tmp_path, progress=calls.append
    )
    assert len(calls) == 13, "what needs no model was kept"
    assert {row.method for row in again.rows} == {row.method for row in report.rows} - {MODEL}
    for name in ("equal_dose.json", "equal_dose.md", "equal_dose.csv", "equal_dose.png"):
        assert (tmp_path / name).stat().st_size > 100


def _row(image, geometry, coverage, method, budget, rmse):
    dose = budget / float(coverage.split("/")[0]) * float(coverage.split("/")[1])
    labels = geometry, coverage, f"dose {dose:g}"
    return Row(image, image, *labels, method, rmse, 20.0, 0.5, 2 * rmse, None, 0.1)


ARMS = {
    ("serpentine_raster", "1/1", "raw"): (0.4, 0.1),
    ("serpentine_raster", "1/1", "bm3d"): (0.2, 0.05),
    ("archimedean", "1/2", MODEL): (0.3, 0.06),
    ("archimedean", "1/20", MODEL): (0.1, 0.09),
    ("archimedean", "1/20", "adaptive_spline"): (0.01, 0.01),
}
REPORT = Report(
    [
        _row(image, *arm, budget, factor * rmse)
        for arm, errors in ARMS.items()
        for budget, rmse in zip((1, 30), errors, strict=True)
        for image, factor in (("a", 0.5), ("b", 2.0))
    ],
    SETUP,
    [],
    ("bm3d",),
)


def test_the_table_says_where_sparse_scanning_pays():
    first, second = equal_dose_tables(REPORT).split("Against the")[1:]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines()]
    table = {line[0]: line[1:] for line in lines if line}
    assert table["electrons per px"] == ["1", "30"]
    assert table["full raster, raw"] == ["40.00", "10.00"]
    assert table["full raster, bm3d"] == ["**20.00**", "**5.00**"]
    assert table["archimedean 1/20"] == ["**10.00**", "9.00"]
    assert table["archimedean 1/2"] == ["30.00", "**6.00**"]
    assert table["best sparse / best raster"] == ["0.50 [0.50, 0.50]", "1.20 [1.20, 1.20]"]
    assert "**80.00**" not in second
    assert "| full raster, raw" in second


def test_the_command_compares_without_a_model(small_store, tmp_path, monkeypatch):
    one_budget = compare_at_equal_dose.__kwdefaults__ | {"budgets": (10.0,)}
    monkeypatch.setattr(compare_at_equal_dose, "__kwdefaults__", one_budget)
    options = ["--equal-dose", "--data", str(small_store), "--num-images", "1"]
    done = CliRunner().invoke(app, ["evaluate", *options])
    assert done.exit_code == 0, done.output
    assert "sparse scans by the adaptive spline" in done.stdout
    assert re.search(r"\| archimedean 1/20 +\| +\d", done.stdout)
    done = CliRunner().invoke(app, ["evaluate", *options, "--json"])
    assert len(json.loads(done.stdout)["cells"]) == 13
