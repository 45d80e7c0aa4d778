"""Plots with the same axes side by side: what is compared has one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stem_complete.evaluation.page import INK, TEXT_PT, styled

_COLUMNS = 4
# Told apart without colours.
_LINES = (("-o", INK), ("--s", "white"))


@styled()
def side_by_side_figure(
    plots: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    xlabel: str,
    ylabel: str,
    lowest: float,
) -> Any:
    """Points joined by lines on logarithmic axes.

    Args:
        plots: At most two lines of points (x, y) by label, by title.
        xlabel: What x is.
        ylabel: What y is.
        lowest: Lower end of y.
    """
    from matplotlib.figure import Figure

    rows = -(-len(plots) // _COLUMNS)
    page = Figure((6.6, 1.7 * rows))
    places = page.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes, (title, lines) in zip(places.flat, plots.items(), strict=False):
        for (label, points), (line, filling) in zip(lines.items(), _LINES, strict=False):
            style = {"markersize": 2.5, "linewidth": 1.2, "markerfacecolor": filling}
            axes.plot(*zip(*points, strict=True), line, color=INK, label=label, **style)
        axes.set_title(title)
        axes.set(xscale="log", yscale="log", ylim=(lowest, None))
        axes.minorticks_off()
        axes.grid()
    places[0, 0].legend(loc="lower left")
    page.supxlabel(xlabel, fontsize=TEXT_PT)
    page.supylabel(ylabel, fontsize=TEXT_PT)
    return page
