"""What the evaluation protocol found: means by geometry, coverage and noise, and all scans."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from stem_complete.evaluation import Interval, markdown_table, ratio_interval

FIRST, MODEL = "first_completion", "model"
"""What the model makes of a scan, without its network and with it; other methods are baselines."""


class ProtocolRow(NamedTuple):
    """One scan.

    Attributes:
        image: Name of the crop.
        field: Its field of view.
        geometry: Of the probe's path.
        coverage: True mean dwell, such as "1/20".
        noise: "none" or "reference".
        rmse: Of each method against the blurred crop, as a fraction of the unblurred one's range;
            the methods are the baselines, `FIRST` if there is such, and `MODEL` if there is one.
        unblurred_rmse: Of each method against the unblurred crop, likewise.
    """

    image: str
    field: str
    geometry: str
    coverage: str
    noise: str
    rmse: dict[str, float]
    unblurred_rmse: dict[str, float]


class Cell(NamedTuple):
    """All scans of one geometry, coverage and noise.

    Attributes:
        geometry: Of the probe's path.
        coverage: True mean dwell, such as "1/20".
        noise: "none" or "reference".
        num_images: Number of scans.
        num_fields: Fields of view that they come from.
        rmse: Mean over images for each method; see `ProtocolRow`.
        unblurred_rmse: Mean over images for each method.
        best_baseline: The classical method of the lowest mean RMSE.
        ratio: Mean RMSE of the model to that of the best baseline; None without a model.
        interval: 95% bootstrap interval of `ratio` over fields of view; None if there is only one.
        share_better: Share of the images on which the model has the lower RMSE of these two.
    """

    geometry: str
    coverage: str
    noise: str
    num_images: int
    num_fields: int
    rmse: dict[str, float]
    unblurred_rmse: dict[str, float]
    best_baseline: str
    ratio: float | None
    interval: Interval | None
    share_better: float | None


class Worst(NamedTuple):
    """A scan, and the best baseline of its cell."""

    row: ProtocolRow
    best_baseline: str


@dataclass(frozen=True)
class ProtocolReport:
    """Every error, and how it came about.

    Attributes:
        rows: One for each scan.
        setup: What was evaluated on what, as plain values.
        left_out: Images that were not used, and why.
    """

    rows: list[ProtocolRow]
    setup: dict[str, Any]
    left_out: list[str]

    def cells(self) -> list[Cell]:
        """Means over images, in the order of the rows."""
        return [_cell(rows) for rows in self._by_cell().values()]

    def worst(self, number: int) -> list[Worst]:
        """The images on which the model does worst beside the best baseline, each in one scan.

        Without a model, those on which the best baseline has the highest RMSE.
        """
        found: dict[tuple[str, str], tuple[float, Worst]] = {}
        for rows in self._by_cell().values():
            best = _best_baseline(_means([row.rmse for row in rows]))
            for row in rows:
                badness = row.rmse[best]
                if MODEL in row.rmse:
                    badness = row.rmse[MODEL] / max(row.rmse[best], 1e-12)
                image = (row.field, row.image)
                if image not in found or badness > found[image][0]:
                    found[image] = (badness, Worst(row, best))
        ranked = sorted(found.values(), key=lambda pair: pair[0], reverse=True)
        return [worst for _, worst in ranked[:number]]

    def markdown(self, num_worst: int = 10) -> str:
        """What was evaluated, the table of means, and the worst scans."""
        setup, cells = self.setup, self.cells()
        model = f"{setup['model']}, weights SHA-256 {setup['model_sha256']}"
        versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
        lines = [
            f"* model: {model if setup['model'] else 'none, baselines alone'}",
            f"* data: {cells[0].num_images} crops of {cells[0].num_fields} fields of view (at most "
            f"{setup['max_images_per_field']} of each), SHA-256 {setup['data_sha256']}",
            f"* seed {setup['seed']}; {versions}",
        ]
        explained = (
            "RMSE in % of the truth's range, against the truth blurred by 5x5 px, sigma "
            f"{setup['truth_blur_sigma_px']:g} px; means over the crops. **Bold**: the best "
            "baseline."
        )
        if setup["model"]:
            explained += (
                " Ratio: the model's mean to that baseline's, with its 95% bootstrap interval over "
                "fields of view. Better: crops on which the model beats it."
            )
        if FIRST in cells[0].rmse:
            explained += " First completion: what the model's network corrects."
        parts = ["\n".join(lines), explained, _table(cells, "rmse")]
        parts += ["Against the truth itself, in %:", _table(cells, "unblurred_rmse")]
        worst = self.worst(num_worst)
        parts += [f"The worst {len(worst)}, each image in its worst scan:", _worst_table(worst)]
        return "\n\n".join(parts)

    def to_json(self) -> str:
        """Everything as JSON."""
        values = {
            "setup": self.setup,
            "cells": [
                cell._asdict() | {"interval": cell.interval and cell.interval._asdict()}
                for cell in self.cells()
            ],
            "rows": [row._asdict() | {"field": Path(row.field).name} for row in self.rows],
            "left_out": self.left_out,
        }
        return json.dumps(values, indent=2, allow_nan=False)

    def _by_cell(self) -> dict[tuple[str, str, str], list[ProtocolRow]]:
        found: dict[tuple[str, str, str], list[ProtocolRow]] = {}
        for row in self.rows:
            found.setdefault((row.geometry, row.coverage, row.noise), []).append(row)
        return found


def _cell(rows: Sequence[ProtocolRow]) -> Cell:
    means = _means([row.rmse for row in rows])
    best = _best_baseline(means)
    ratio = interval = share_better = None
    if MODEL in means:
        ratio = means[MODEL] / means[best]
        share_better = fmean(row.rmse[MODEL] < row.rmse[best] for row in rows)
        interval = ratio_interval(
            [row.rmse[MODEL] for row in rows],
            [[row.rmse[method] for row in rows] for method in _baselines(means)],
            [row.field for row in rows],
        )
    return Cell(
        geometry=rows[0].geometry,
        coverage=rows[0].coverage,
        noise=rows[0].noise,
        num_images=len(rows),
        num_fields=len({row.field for row in rows}),
        rmse=means,
        unblurred_rmse=_means([row.unblurred_rmse for row in rows]),
        best_baseline=best,
        ratio=ratio,
        interval=interval,
        share_better=share_better,
    )


def _means(errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {method: fmean(of_image[method] for of_image in errors) for method in errors[0]}


def _best_baseline(means: Mapping[str, float]) -> str:
    return min(_baselines(means), key=means.__getitem__)


def _baselines(means: Mapping[str, float]) -> list[str]:
    return [method for method in means if method not in (FIRST, MODEL)]


def _table(cells: Sequence[Cell], errors: str) -> str:
    """A row for each cell; the model beside the best baseline only where that was chosen."""
    methods = list(cells[0].rmse)
    compared = errors == "rmse" and MODEL in methods
    header = ["geometry", "coverage", "noise", *(method.replace("_", " ") for method in methods)]
    rows = []
    for cell in cells:
        means: dict[str, float] = getattr(cell, errors)
        best = _best_baseline(means)
        row = [cell.geometry, cell.coverage, cell.noise]
        row += [f"**{100 * v:.2f}**" if m == best else f"{100 * v:.2f}" for m, v in means.items()]
        rows.append([*row, *_comparison(cell)] if compared else row)
    return markdown_table(header + ["ratio", "better"] * compared, rows)


def _comparison(cell: Cell) -> list[str]:
    """Ratio and share; there is a model."""
    assert cell.ratio is not None
    assert cell.share_better is not None
    interval = f" [{cell.interval.low:.3f}, {cell.interval.high:.3f}]" if cell.interval else ""
    return [f"{cell.ratio:.3f}{interval}", f"{100 * cell.share_better:.0f} %"]


def _worst_table(worst: Sequence[Worst]) -> str:
    rows = []
    for row, best in worst:
        cells = [row.image, row.geometry, row.coverage, row.noise, best.replace("_", " ")]
        cells.append(f"{100 * row.rmse[best]:.2f}")
        if MODEL in row.rmse:
            cells += [f"{100 * row.rmse[MODEL]:.2f}", f"{row.rmse[MODEL] / row.rmse[best]:.2f}"]
        rows.append(cells)
    header = ["image", "geometry", "coverage", "noise", "best baseline", "its RMSE"]
    return markdown_table(header + ["the model's", "ratio"] * (len(rows[0]) > len(header)), rows)
