"""Details of completions: as they are found, as tables, files and a picture."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from pyarrow import parquet

from stem_complete.data.scans import RasterScan
from stem_complete.evaluation import Report, Row, details_figure, evaluation_page, write_rows
from stem_complete.evaluation.details import Examiner
from stem_complete.evaluation.gaps import BINS
from stem_complete.evaluation.known_scans import KnownScan
from stem_complete.evaluation.report import Details

SETUP = {"model": None, "versions": {"numpy": "2"}}


def details(resolution=4.0, off=0.5):
    by_distance = (0.01, 0.02, None, *(None,) * (len(BINS) - 3))
    return Details((1.0, 0.5, 0.1, 0.0), resolution, 8.0, by_distance, 9, 1.0, off)


def row(image, method, found, noise="none", pixel_size_nm=0.02):
    return Row(
        *(image, image, "random", "1/10", noise, method, 0.1, 20.0, 0.5, 0.2, None, 0.25),
        pixel_size_nm=pixel_size_nm,
        details=found,
    )


ROWS = [
    row("a", "nearest", details(4.0)),
    row("b", "nearest", details(6.0, off=None)),
    row("c", "nearest", details(None)),
    row("a", "linear", details(None)),
    row("b", "linear", details(None)),
    row("c", "linear", details(4.0)),
    row("a", "nearest", details(), noise="dose 9"),
    row("a", "linear", details(), noise="dose 9"),
]
REPORT = Report(ROWS, SETUP, ["d: constant"], ("nearest", "linear"), ("e: damaged",))


@pytest.fixture(scope="module")
def scan():
    truth = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    intensity = np.where(np.arange(64) % 4 == 0, truth, np.nan).astype(np.float32)
    labels = ("rows", "1/4", "none")
    return KnownScan("a", "a", *labels, RasterScan(intensity), truth, truth, 0.02)


def test_a_perfect_completion_resolves_two_pixels_and_errs_nowhere(scan):
    found = Examiner(scan).details(scan.truth)
    assert found.resolution_px == found.half_bit_resolution_px == 2
    assert found.rmse_by_distance == (0, 0, 0, 0, *(None,) * (len(BINS) - 4))
    assert found.num_columns is None


def test_errors_are_percent_of_the_range_where_they_are(scan):
    """On [-1, 1] an error of 0.2 is a tenth of the range."""
    image = scan.truth + np.where(np.isnan(scan.partial.intensity), np.float32(0.2), 0)
    found = Examiner(scan).details(image)
    assert found.rmse_by_distance[:3] == pytest.approx((0, 0.1, 0.1), abs=1e-6)


def test_columns_are_looked_for_where_there_is_a_lattice(scan):
    y, x = np.mgrid[:160, :160]
    lattice = np.float32(np.cos(2 * np.pi * y / 12) + np.cos(2 * np.pi * x / 12)) / 2
    of_lattice = scan._replace(partial=RasterScan(lattice), truth=lattice, unblurred=lattice)
    found = Examiner(of_lattice, atom_columns=True).details(lattice)
    assert found.columns_found == 1
    assert found.column_error_px == 0
    assert found.num_columns == pytest.approx((160 / 12) ** 2, rel=0.25)
    assert Examiner(scan, atom_columns=True).details(scan.truth).num_columns is None
    assert Examiner(of_lattice).details(lattice).num_columns is None


def test_the_page_tells_every_condition_without_times():
    page = evaluation_page(REPORT)
    assert "random, coverage 1/10, noise dose 9" in page
    assert "Left out:\n* d: constant" in page
    assert "Failed:\n* e: damaged" in page
    assert "time [ms]" not in page
    table = page[page.index("random, coverage 1/10, noise none") :].splitlines()
    header, _, nearest, linear = ([cell.strip() for cell in line.split("|")[1:-1]]
                                  for line in table[2:6])  # fmt: skip
    assert header == [
        *("method", "1/7 [px]", "half bit [px]", "1/7 [nm]", "columns found", "off by [px]"),
        *("0 px", "1 px"),
    ]
    # The median of 4, 6 and what is not resolved.
    assert nearest == ["nearest", "6.0", "8.0", "0.120", "100 %", "0.50", "1.00", "2.00"]
    assert linear[1] == "none"


def test_errors_of_many_conditions_are_told_by_coverage():
    rows = [row("a", "nearest", details())._replace(coverage=c, rmse=r)
            for c, r in (("1/20", 0.2), ("1/5", 0.1))]  # fmt: skip
    page = evaluation_page(Report([*rows, row("a", "nearest", details(), "dose 9")], SETUP, [], ()))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    header = ["geometry", "noise", "method", "1/5", "1/10", "1/20"]
    assert lines[(first := lines.index(header))] == header
    assert lines[first + 2] == ["random", "none", "nearest", "10.00", "", "20.00"]
    assert lines[first + 3] == ["random", "dose 9", "nearest", "", "10.00", ""]
    assert "by coverage" not in evaluation_page(Report(rows[:1], SETUP, [], ()))


def test_nanometres_are_told_if_all_pixel_sizes_are_known():
    rows = [*ROWS, row("d", "nearest", details(), pixel_size_nm=None)]
    page = evaluation_page(Report(rows, SETUP, [], ("nearest", "linear")))
    of_none, of_dose = page.split("random, coverage 1/10, noise")[1:]
    assert "[nm]" not in of_none
    assert "[nm]" in of_dose


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_every_row_is_in_the_file(tmp_path, file_format):
    path = write_rows(REPORT, tmp_path, file_format)
    if file_format == "csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        unknown = ""
    else:
        rows = parquet.read_table(path).to_pylist()
        unknown = None
    assert len(rows) == len(ROWS)
    assert "seconds" not in rows[0]
    assert [each["method"] for each in rows] == [each.method for each in ROWS]
    assert float(rows[0]["rmse"]) == 0.1
    assert float(rows[0]["rmse_at_1_px"]) == 0.02
    assert rows[0]["rmse_at_1_to_2_px"] == unknown
    assert [float(rows[0][f"frc_at_{f:.4f}"]) for f in (0.0625, 0.1875)] == [1.0, 0.5]
    assert rows[2]["resolution_px"] == unknown


def test_the_picture_has_two_panels_for_each_condition_and_reads_in_grey():
    figure = details_figure(REPORT)
    assert len(figure.axes) == 2 * 2
    gaps, rings = figure.axes[:2]
    assert len(gaps.get_lines()) == 2
    for of in ("get_linestyle", "get_marker"):
        assert len({getattr(line, of)() for line in gaps.get_lines()}) == 2
    np.testing.assert_allclose(gaps.get_lines()[0].get_ydata()[:2], [1, 2])
    np.testing.assert_allclose(rings.get_lines()[0].get_ydata(), [1, 0.5, 0.1, 0])
    with pytest.raises(ValueError, match="details"):
        details_figure(Report([], {}, [], ()))
