"""Details of reports: resolution, gaps and atom columns as tables, and every row as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from statistics import fmean, geometric_mean, median
from typing import Any, Literal

from stem_complete.evaluation.gaps import BINS
from stem_complete.evaluation.report import Details, Report, Row, grouped
from stem_complete.evaluation.tables import by_method, markdown_table, summary
from stem_complete.extras import require
from stem_complete.files import write_atomically
from stem_complete.vocabulary import parse_coverage

RowsFormat = Literal["csv", "parquet"]

_SMALLEST = 1e-12  # taken for an error of 0, which has no logarithm
_OF_ROW = tuple(name for name in Row._fields if name not in ("seconds", "details"))
_OF_DETAILS = tuple(
    name for name in Details._fields if name not in ("frc", "rmse_by_distance")
)  # fmt: skip


def evaluation_page(report: Report) -> str:
    """What was evaluated, and every table. It has no times, and so is the same on any machine."""
    parts = [summary(report), all_tables(report, timed=False)]
    for title, lines in (("Left out:", report.left_out), ("Failed:", report.failed)):
        parts += ["\n".join((title, *(f"* {line}" for line in lines)))] if lines else []
    return "\n\n".join(filter(None, parts))


def all_tables(report: Report, *, timed: bool = True) -> str:
    """Errors by coverage, and for each condition scores and details.

    Args:
        report: What was found.
        timed: Whether scores have the time that methods took.
    """
    parts = (by_coverage(report), by_method(report, timed=timed), details_tables(report))
    return "\n\n".join(filter(None, parts))


def by_coverage(report: Report) -> str:
    """RMSE of every method: a line for each geometry and noise, a column for each coverage.

    "" of a single condition.
    """
    cells = report.cells()
    if len(cells) < 2:
        return ""
    coverages = sorted({cell.coverage for cell in cells}, key=parse_coverage, reverse=True)
    lines = []
    for (geometry, noise), of_line in grouped(cells, attrgetter("geometry", "noise")).items():
        methods = dict.fromkeys(name for cell in of_line for name in cell.methods)
        for method in methods:
            errors = {
                cell.coverage: f"{100 * cell.methods[method].typical_rmse:.2f}"
                for cell in of_line
                if method in cell.methods
            }
            found = [errors.get(coverage, "") for coverage in coverages]
            lines.append([geometry, noise, method, *found])
    table = markdown_table(["geometry", "noise", "method", *coverages], lines)
    explained = "RMSE in % of the truth's range, geometric means over the crops, by coverage:"
    return f"{explained}\n\n{table}"


def details_tables(report: Report) -> str:
    """A table for each condition: resolution, atom columns and errors in gaps, by method."""
    parts = []
    for labels, rows in grouped(report.rows, attrgetter("geometry", "coverage", "noise")).items():
        of_methods = grouped(rows, attrgetter("method"))
        if any(row.details is None for row in rows):
            continue
        geometry, coverage, noise = labels
        parts.append(f"{geometry}, coverage {coverage}, noise {noise}\n\n{_table(of_methods)}")
    if not parts:
        return ""
    explained = (
        "Resolution: period at which the Fourier ring correlation with the truth falls below 1/7, "
        "or below half a bit; medians over the crops. Columns: share of the truth's atom columns "
        "that are found, and root mean square distance of these from their places; means over the "
        "crops that show a lattice. RMSE in % of the truth's range by distance from the nearest "
        "measured pixel; geometric means over the crops."
    )
    return "\n\n".join((explained, *parts))


def write_rows(report: Report, folder: Path, file_format: RowsFormat) -> Path:
    """Writes a row for each crop, condition and method; times are not of it.

    Args:
        report: What was found.
        folder: Where `scores.csv` or `scores.parquet` is written.
        file_format: Of the file.

    Raises:
        MissingPackageError: Parquet's package is not installed.
    """
    columns = _columns(report.rows)
    path = folder / f"scores.{file_format}"
    if file_format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_atomically(path, text.getvalue())
        return path
    require("pyarrow", purpose="writing Parquet")
    import pyarrow as pa
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(pa.table(columns), content)
    write_atomically(path, content.getvalue())
    return path


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """What is told of each row, by name."""
    columns = {name: [getattr(row, name) for row in rows] for name in _OF_ROW}
    details = [row.details for row in rows]
    if any(each is None for each in details):
        return columns
    columns |= {name: [getattr(each, name) for each in details] for name in _OF_DETAILS}
    for place, distance in enumerate(BINS):
        values = [each.rmse_by_distance[place] for each in details if each]
        columns[f"rmse_at_{distance.replace(' ', '_')}_px"] = values
    num_rings = max(len(each.frc) for each in details if each)
    for ring in range(num_rings):
        frequency = (ring + 0.5) / (2 * num_rings)
        columns[f"frc_at_{frequency:.4f}"] = [each.frc[ring] for each in details if each]
    return columns


def _table(of_methods: dict[str, list[Row]]) -> str:
    every = [row for rows in of_methods.values() for row in rows]
    details = [row.details for row in every if row.details]
    in_nm = all(row.pixel_size_nm is not None for row in every)
    lattices = any(each.num_columns is not None for each in details)
    bins = [
        place
        for place in range(len(BINS))
        if any(each.rmse_by_distance[place] is not None for each in details)
    ]
    header = ["method", "1/7 [px]", "half bit [px]"] + ["1/7 [nm]"] * in_nm
    header += ["columns found", "off by [px]"] * lattices
    header += [f"{BINS[place]} px" for place in bins]
    lines = []
    for method, rows in of_methods.items():
        of_method = [row.details for row in rows if row.details]
        line = [
            method,
            _median([each.resolution_px for each in of_method]),
            _median([each.half_bit_resolution_px for each in of_method]),
        ]
        if in_nm:
            line.append(
                _median(
                    [
                        row.details.resolution_px * row.pixel_size_nm
                        if row.details and row.details.resolution_px and row.pixel_size_nm
                        else None
                        for row in rows
                    ],
                    digits=3,
                )
            )
        if lattices:
            found = [each.columns_found for each in of_method if each.columns_found is not None]
            off = [each.column_error_px for each in of_method if each.column_error_px is not None]
            line.append(f"{100 * fmean(found):.0f} %" if found else "")
            line.append(f"{fmean(off):.2f}" if off else "")
        for place in bins:
            errors = [each.rmse_by_distance[place] for each in of_method]
            known = [max(error, _SMALLEST) for error in errors if error is not None]
            line.append(f"{100 * geometric_mean(known):.2f}" if known else "")
        lines.append(line)
    return markdown_table(header, lines)


def _median(values: Sequence[float | None], digits: int = 1) -> str:
    """The median, for which what is not resolved counts as infinite."""
    middle = median(float("inf") if value is None else value for value in values)
    return "none" if middle == float("inf") else f"{middle:.{digits}f}"
