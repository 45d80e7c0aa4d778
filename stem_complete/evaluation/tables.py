"""Markdown tables, which read well in a terminal too; those of reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stem_complete.evaluation.report import FIRST, Cell, Report, Statistic, Summary, Worst

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


def by_method(report: Report) -> str:
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
        parts.append(f"{others}coverage {cell.coverage}, {images}\n\n{_scores(cell.methods)}")
    return "\n\n".join(parts)


def by_condition(report: Report, num_worst: int = NUM_WORST) -> str:
    """What was evaluated, RMSE of every method under every condition, and the worst scans."""
    setup, cells = report.setup, report.cells()
    model = f"{setup['model']}, weights SHA-256 {setup['model_sha256']}"
    versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    at_most = setup["max_images_per_field"]
    lines = [
        f"* model: {model if setup['model'] else 'none, baselines alone'}",
        f"* data: {cells[0].num_images} crops of {cells[0].num_fields} fields of view"
        + (f" (at most {at_most} of each)" if at_most else "")
        + f", SHA-256 {setup['data_sha256']}",
        f"* seed {setup['seed']}; {versions}",
    ]
    blurs = {f"{condition['blur_sigma_px']:g}" for condition in setup["conditions"]}
    explained = (
        "RMSE in % of the truth's range, against the truth blurred by 5x5 px, sigma "
        f"{' or '.join(sorted(blurs))} px; means over the crops. **Bold**: the best baseline."
    )
    if cells[0].ratio is not None:
        explained += (
            " Ratio: the model's mean to that baseline's, with its 95% bootstrap interval over "
            "fields of view. Better: crops on which the model beats it."
        )
    if FIRST in cells[0].methods:
        explained += " First completion: what the model's network corrects."
    parts = ["\n".join(lines), explained, _errors(report, cells, "rmse")]
    parts += ["Against the truth itself, in %:", _errors(report, cells, "unblurred_rmse")]
    if worst := report.worst(num_worst):
        parts += [f"The worst {len(worst)}, each image in its worst scan:", _worst(worst)]
    return "\n\n".join(parts)


def _scores(methods: Mapping[str, Summary]) -> str:
    """Every score of the methods under one condition."""
    mapped = any(summary.expected_rmse for summary in methods.values())
    header = ["method", "RMSE [%]", "PSNR [dB]", "SSIM", "RMSE to unblurred [%]", "time [ms]"]
    rows = [
        [
            name,
            _number(s.rmse, 2, 100),
            _number(s.psnr, 2),
            _number(s.ssim, 3),
            _number(s.unblurred_rmse, 2, 100),
            f"{1e3 * s.seconds.mean:.0f}",
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


def _errors(report: Report, cells: Sequence[Cell], score: str) -> str:
    """A row for each cell; the ratio to the best baseline only beside the RMSE that it is of."""
    compared = score == "rmse" and cells[0].ratio is not None
    methods = [method.replace("_", " ") for method in cells[0].methods]
    rows = []
    for cell in cells:
        means = {name: getattr(summary, score).mean for name, summary in cell.methods.items()}
        best = min(report.baselines, key=means.__getitem__, default=None)
        row = [cell.geometry, cell.coverage, cell.noise]
        row += [f"**{100 * v:.2f}**" if m == best else f"{100 * v:.2f}" for m, v in means.items()]
        if compared:
            interval = " [{:.3f}, {:.3f}]".format(*cell.interval) if cell.interval else ""
            row += [f"{cell.ratio:.3f}{interval}", f"{100 * (cell.share_better or 0):.0f} %"]
        rows.append(row)
    header = ["geometry", "coverage", "noise", *methods]
    return markdown_table(header + ["ratio", "better"] * compared, rows)


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
