"""Markdown tables, which read well in a terminal too; those of reports, and theirs as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from stem_complete.console import counted
from stem_complete.evaluation.report import (
    FIRST,
    MODEL,
    OWN_BASELINE,
    Cell,
    Report,
    Statistic,
    Summary,
    Worst,
    grouped,
)
from stem_complete.vocabulary import parse_coverage

NUM_WORST = 10


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table whose columns line up; the first one to the left, numbers to the right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_method(report: Report, *, timed: bool = True) -> str:
    """A table for each condition: mean and standard error of every score of every method."""
    cells = report.cells()
    varied = [
        place for place, values in enumerate(zip(*(c[:3] for c in cells), strict=True))
        if place != 1 and len(set(values)) > 1
    ]  # fmt: skip
    parts = []
    for cell in cells:
        others = "".join(f"{cell[place]}, " for place in varied)
        number = cell.num_images
        images = "1 image" if number == 1 else f"mean of {number} images ± standard error"
        parts.append(
            f"{others}coverage {cell.coverage}, {images}\n\n{_scores(cell.methods, timed=timed)}"
        )
    return "\n\n".join(parts)


def summary(report: Report) -> str:
    """What was evaluated: model, data, seed and versions, as a list."""
    setup, cells = report.setup, report.cells()
    versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    model = "none, baselines alone"
    if setup["model"]:
        model = f"{setup['model']}, weights SHA-256 {setup['model_sha256']}"
    lines = [f"* model: {model}"]
    if "data_sha256" in setup:
        at_most = setup["max_images_per_field"]
        lines.append(
            f"* data: {counted(cells[0].num_images, 'crop')} of "
            f"{counted(cells[0].num_fields, 'field')} of view"
            + (f" (at most {at_most} of each)" if at_most else "")
            + f", SHA-256 {setup['data_sha256']}"
        )
    seed = f"seed {setup['seed']}; " if "seed" in setup else ""
    return "\n".join([*lines, f"* {seed}{versions}"])


def by_condition(report: Report, num_worst: int = NUM_WORST, *, every_cell: bool = True) -> str:
    """What was evaluated, errors and ratios under every condition, and the worst scans.

    Args:
        report: What was found.
        num_worst: Number of the worst scans.
        every_cell: Whether each condition has a row; else only ratios are told.
    """
    cells = report.cells()
    blurs = {f"{condition['blur_sigma_px']:g}" for condition in report.setup["conditions"]}
    explained = (
        "RMSE in % of the truth's range, against the truth blurred by 5x5 px, sigma "
        f"{' or '.join(sorted(blurs))} px; geometric means over the crops."
    )
    parts = [summary(report)]
    if any(cell.ratio is not None for cell in cells):
        explained += (
            " Ratio: geometric mean over the crops of the model's RMSE to that of the best "
            "baseline of the cell, with its 95% bootstrap interval over fields of view. "
            "Better: crops on which the model beats it. Worst: the largest ratio of a crop. "
            "Error map: RMSE that it predicts to what it is, geometric mean and range."
        )
        parts += ["The ratio by coverage, below 1 where the model is better:", ratios_table(cells)]
        if any(cell.classical_ratio != cell.ratio for cell in cells):
            beside = f"`{OWN_BASELINE}`, which models of this project correct"
            parts += [
                f"The same to the best baseline but {beside}:",
                ratios_table([c._replace(ratio=c.classical_ratio) for c in cells]),
            ]
    if any(FIRST in cell.methods for cell in cells):
        explained += " First completion: what the model's network corrects."
    parts += [explained, *([_cells(report.baselines, cells)] if every_cell else [])]
    if worst := report.worst(num_worst):
        parts += [f"The worst {len(worst)}, each image in its worst scan:", _worst(worst)]
    return "\n\n".join(parts)


def ratios_table(cells: Sequence[Cell]) -> str:
    """The model's ratios: a row for each geometry and noise, a column for each coverage."""
    coverages = sorted({cell.coverage for cell in cells}, key=parse_coverage, reverse=True)
    rows = []
    for (geometry, noise), of_row in grouped(cells, lambda c: (c.geometry, c.noise)).items():
        ratios = {cell.coverage: cell.ratio for cell in of_row}
        found = [ratios.get(coverage) for coverage in coverages]
        numbers = ["" if ratio is None else f"{ratio:.2f}" for ratio in found]
        rows.append([geometry.replace("_", " "), noise, *numbers])
    return markdown_table(["geometry", "noise", *coverages], rows)


_COLUMNS = (
    *("geometry", "coverage", "noise", "num_images", "num_fields", "best_baseline"),
    *("ratio", "share_better", "worst_ratio", "worst_image", "ratio_low", "ratio_high"),
    *("error_map_ratio", "error_map_lowest", "error_map_highest"),
    *("classical_ratio", "classical_worst_ratio"),
)


def as_csv(report: Report) -> str:
    """A line for each condition; RMSEs are geometric means over images, fractions of the range."""
    cells = report.cells()
    methods = list(dict.fromkeys(name for cell in cells for name in cell.methods))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(f"{name}_rmse" for name in methods)])
    for cell in cells:
        numbers = [getattr(cell, name) for name in _COLUMNS[:-7]]
        numbers += [*(cell.interval or (None,) * 2), *(cell.calibration or (None,) * 3)]
        numbers += [cell.classical_ratio, cell.classical_worst_ratio]
        found = (cell.methods.get(name) for name in methods)
        writer.writerow([*numbers, *(summary and summary.typical_rmse for summary in found)])
    return text.getvalue()


def _scores(methods: Mapping[str, Summary], *, timed: bool) -> str:
    """Every score of the methods under one condition."""
    mapped = any(summary.expected_rmse for summary in methods.values())
    header = ["method", "RMSE [%]", "PSNR [dB]", "SSIM", "RMSE to unblurred [%]"]
    header += ["time [ms]"] * timed
    rows = [
        [
            name,
            _number(s.rmse, 2, 100),
            _number(s.psnr, 2),
            _number(s.ssim, 3),
            _number(s.unblurred_rmse, 2, 100),
            *[f"{1e3 * s.seconds.mean:.0f}"] * timed,
            *[_number(s.expected_rmse, 2, 100)] * mapped,
        ]
        for name, s in methods.items()
    ]
    return markdown_table(header + ["RMSE by error map [%]"] * mapped, rows)


def _number(statistic: Statistic | None, digits: int, factor: float = 1) -> str:
    if statistic is None:
        return ""
    number = f"{factor * statistic.mean:.{digits}f}"
    if statistic.standard_error is None:
        return number
    return f"{number} ± {factor * statistic.standard_error:.{digits}f}"


def _cells(baselines: Sequence[str], cells: Sequence[Cell]) -> str:
    """A row for each cell: the best baseline, the model, and how they compare."""
    compared = any(cell.ratio is not None for cell in cells)
    first = any(FIRST in cell.methods for cell in cells)
    shown = [FIRST] * first + [MODEL] * compared
    rows = []
    for cell in cells:
        best = cell.best_baseline
        errors = {name: f"{100 * m.typical_rmse:.2f}" for name, m in cell.methods.items()}
        row = [cell.geometry, cell.coverage, cell.noise]
        if baselines:
            row += [best.replace("_", " ") if best else "", errors.get(best or "", "")]
        row += [errors.get(name, "") for name in shown]
        if compared:
            interval = " [{:.2f}, {:.2f}]".format(*cell.interval) if cell.interval else ""
            row += [
                "" if cell.ratio is None else f"{cell.ratio:.3f}{interval}",
                "" if cell.share_better is None else f"{100 * cell.share_better:.0f} %",
                "" if cell.worst_ratio is None else f"{cell.worst_ratio:.2f}",
                "{:.2f} [{:.2f}, {:.2f}]".format(*cell.calibration) if cell.calibration else "",
            ]
        rows.append(row)
    header = ["geometry", "coverage", "noise"]
    header += ["best baseline", "its RMSE"] * bool(baselines)
    header += [name.replace("_", " ") for name in shown]
    return markdown_table(header + ["ratio", "better", "worst", "error map"] * compared, rows)


def _worst(worst: Sequence[Worst]) -> str:
    rows = []
    for row, model_rmse in worst:
        cells = [row.image, row.geometry, row.coverage, row.noise, row.method.replace("_", " ")]
        cells.append(f"{100 * row.rmse:.2f}")
        if model_rmse is not None:
            cells += [f"{100 * model_rmse:.2f}", f"{model_rmse / row.rmse:.2f}"]
        rows.append(cells)
    header = ["image", "geometry", "coverage", "noise", "best baseline", "its RMSE"]
    return markdown_table(header + ["the model's", "ratio"] * (len(rows[0]) > len(header)), rows)
