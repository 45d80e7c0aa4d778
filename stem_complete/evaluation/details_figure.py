"""A picture of details: errors by distance from what was measured, and ring correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from stem_complete.evaluation.curves import ARM_COLOURS
from stem_complete.evaluation.gaps import BINS
from stem_complete.evaluation.page import INK, SMALL_PT, styled
from stem_complete.evaluation.report import Report, Row, grouped
from stem_complete.evaluation.resolution import ONE_SEVENTH

MOST_CONDITIONS = 8
"""Shown in one picture: the first ones."""

# With the colours, so that lines differ in grey, too.
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*X"
_WIDTH_IN, _HEIGHT_IN = 6.4, 2.1


@styled()
def details_figure(report: Report) -> Any:
    """A line of two panels for each condition: RMSE by distance, and Fourier ring correlation.

    Raises:
        ValueError: The report has no details.
    """
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.details is not None]
    if not rows:
        raise ValueError("details_figure needs a report with details")
    of_conditions = grouped(rows, attrgetter("geometry", "coverage", "noise"))
    shown = list(of_conditions.items())[:MOST_CONDITIONS]
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure((_WIDTH_IN, _HEIGHT_IN * len(shown) + 0.3))
    grid = figure.subplots(len(shown), 2, squeeze=False)
    for (left, right), ((geometry, coverage, noise), of_condition) in zip(grid, shown, strict=True):
        for method, of_method in grouped(of_condition, attrgetter("method")).items():
            style = _style(methods.index(method)) | {"label": method.replace("_", " ")}
            _draw_gaps(left, of_method, style)
            _draw_rings(right, of_method, style)
        right.axhline(ONE_SEVENTH, color=INK, linewidth=0.5)
        right.annotate("1/7", (0.5, ONE_SEVENTH), (0, 2), textcoords="offset points",
                       ha="right", size=SMALL_PT)  # fmt: skip
        left.set(xlim=(-0.3, len(BINS) - 0.7), ylim=(0, None), ylabel="RMSE [%]")
        right.set(xlim=(0, 0.5), ylim=(min(0, right.get_ylim()[0]), 1.02), ylabel="correlation")
        left.set_title(f"{geometry.replace('_', ' ')}, {coverage}, noise {noise}", loc="left")
        for axes in (left, right):
            axes.grid()
    grid[-1][0].set_xlabel("Distance from the nearest measured pixel [px]")
    grid[-1][1].set_xlabel("Spatial frequency [cycles / px]")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _draw_gaps(axes: Any, rows: Sequence[Row], style: dict[str, Any]) -> None:
    columns = zip(*(row.details.rmse_by_distance for row in rows if row.details), strict=True)
    means = []
    for column in columns:
        logs = [math.log(max(error, 1e-12)) for error in column if error is not None]
        means.append(100 * math.exp(sum(logs) / len(logs)) if logs else math.nan)
    axes.plot(means, **style)
    shown = [name.replace(" to ", "-").replace("over ", ">") for name in BINS]
    axes.set_xticks(range(len(BINS)), shown)


def _draw_rings(axes: Any, rows: Sequence[Row], style: dict[str, Any]) -> None:
    mean = np.mean([row.details.frc for row in rows if row.details], axis=0)
    frequency = (np.arange(len(mean)) + 0.5) / (2 * len(mean))
    axes.plot(frequency, mean, **style, markevery=(len(mean) // 8, len(mean) // 4))


def _style(place: int) -> dict[str, Any]:
    return {
        "color": ARM_COLOURS[place % len(ARM_COLOURS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "markersize": 3,
        "linewidth": 1,
    }
