"""Scores of a model and of baselines on many images: means, standard errors, table, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from stem_complete.evaluation import Scores, markdown_table


class EvaluationRow(NamedTuple):
    """One method on one scan.

    Attributes:
        image: Name of the micrograph.
        coverage: As it was asked for, such as "1/20".
        method: "model", or the name of a baseline.
        scores: Against the blurred micrograph, on the scale on which the unblurred one spans
            [0, 1].
        unblurred_rmse: Against the unblurred micrograph, on the same scale.
        expected_rmse: What the error map predicts of `scores.rmse`; None without a map.
        seconds: The method took.
    """

    image: str
    coverage: str
    method: str
    scores: Scores
    unblurred_rmse: float
    expected_rmse: float | None
    seconds: float


class Statistic(NamedTuple):
    """Mean over images and its standard error, which is None for a single image."""

    mean: float
    standard_error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """Of at least one value."""
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(fmean(values), error)


class Summary(NamedTuple):
    """One method at one coverage, over all images; see `EvaluationRow`."""

    method: str
    coverage: str
    num_images: int
    rmse: Statistic
    psnr: Statistic
    ssim: Statistic
    unblurred_rmse: Statistic
    expected_rmse: Statistic | None
    seconds: Statistic


@dataclass(frozen=True)
class EvaluationReport:
    """Every score, and how it came about.

    Attributes:
        rows: One for each method, scan and coverage.
        setup: What was evaluated on what, as plain values.
        left_out: Images that were not used, and why.
    """

    rows: list[EvaluationRow]
    setup: dict[str, Any]
    left_out: list[str] = field(default_factory=list)

    def summaries(self) -> list[Summary]:
        """Means over images for each coverage and method, in the order of first appearance."""
        groups: dict[tuple[str, str], list[EvaluationRow]] = {}
        for row in self.rows:
            groups.setdefault((row.coverage, row.method), []).append(row)
        return [_summary(rows) for rows in groups.values()]

    def markdown(self) -> str:
        """A table for each coverage: mean and standard error of every score."""
        summaries = self.summaries()
        tables = []
        for coverage in dict.fromkeys(summary.coverage for summary in summaries):
            rows = [s for s in summaries if s.coverage == coverage]
            number = rows[0].num_images
            images = "1 image" if number == 1 else f"mean of {number} images ± standard error"
            tables.append(f"coverage {coverage}, {images}\n\n{_table(rows)}")
        return "\n\n".join(tables)

    def to_json(self) -> str:
        """Everything as JSON; null for an infinite PSNR."""
        values = {
            "setup": self.setup,
            "summaries": [_plain(summary) for summary in self.summaries()],
            "rows": [_plain(row) for row in self.rows],
            "left_out": self.left_out,
        }
        return json.dumps(values, indent=2, allow_nan=False)


def _summary(rows: Sequence[EvaluationRow]) -> Summary:
    expected = [row.expected_rmse for row in rows if row.expected_rmse is not None]
    return Summary(
        method=rows[0].method,
        coverage=rows[0].coverage,
        num_images=len(rows),
        rmse=Statistic.of([row.scores.rmse for row in rows]),
        psnr=Statistic.of([row.scores.psnr for row in rows]),
        ssim=Statistic.of([row.scores.ssim for row in rows]),
        unblurred_rmse=Statistic.of([row.unblurred_rmse for row in rows]),
        expected_rmse=Statistic.of(expected) if len(expected) == len(rows) else None,
        seconds=Statistic.of([row.seconds for row in rows]),
    )


def _table(summaries: Sequence[Summary]) -> str:
    """Scores of one coverage."""
    mapped = any(summary.expected_rmse for summary in summaries)
    header = ["method", "RMSE [%]", "PSNR [dB]", "SSIM", "RMSE to unblurred [%]", "time [ms]"]
    rows = [
        [
            s.method,
            _cell(s.rmse, 2, 100),
            _cell(s.psnr, 2),
            _cell(s.ssim, 3),
            _cell(s.unblurred_rmse, 2, 100),
            f"{1e3 * s.seconds.mean:.0f}",
            *[_cell(s.expected_rmse, 2, 100)] * mapped,
        ]
        for s in summaries
    ]
    return markdown_table(header + ["RMSE by error map [%]"] * mapped, rows)


def _cell(statistic: Statistic | None, digits: int, factor: float = 1) -> str:
    if statistic is None:
        return ""
    cell = f"{factor * statistic.mean:.{digits}f}"
    if statistic.standard_error is None:
        return cell
    return f"{cell} ± {factor * statistic.standard_error:.{digits}f}"


def _plain(value: Any) -> Any:
    """Named tuples as dictionaries, what is not finite as None."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
