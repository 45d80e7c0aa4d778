"""A picture of a model's ratios to the best baselines, over all conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stem_complete.evaluation.page import GAP_IN, INK, SMALL_PT, TEXT_PT, styled
from stem_complete.evaluation.report import Cell
from stem_complete.vocabulary import parse_coverage

_SQUARE_IN, _NAMES_IN, _TITLE_IN, _SCALE_IN = 0.31, 1.2, 0.45, 0.5
_LOWEST, _HIGHEST = 0.5, 1.5  # ratios of the lightest and the darkest square
_DARK = 0.85  # above, numbers are white


@styled()
def ratios_figure(cells: Sequence[Cell]) -> Any:
    """A panel for each noise: ratios by geometry and coverage, the darker the worse.

    Bold numbers are those of 1 and above, where a baseline is better.

    Raises:
        ValueError: No cell has a ratio.
    """
    from matplotlib.figure import Figure

    cells = [cell for cell in cells if cell.ratio is not None]
    if not cells:
        raise ValueError("ratios_figure needs at least one ratio")
    geometries, noises = (
        list(dict.fromkeys(getattr(cell, name) for cell in cells)) for name in ("geometry", "noise")
    )
    coverages = sorted({cell.coverage for cell in cells}, key=parse_coverage, reverse=True)
    panel = len(coverages) * _SQUARE_IN + GAP_IN
    figure = Figure(
        (
            _NAMES_IN + len(noises) * panel + _SCALE_IN,
            len(geometries) * _SQUARE_IN + 2 * _TITLE_IN,
        )
    )
    grid = figure.subplots(1, len(noises), squeeze=False, sharey=True)[0]
    for axes, noise in zip(grid, noises, strict=True):
        of_noise = [cell for cell in cells if cell.noise == noise]
        shown = _show(axes, of_noise, geometries, coverages)
        axes.set_title(f"noise: {noise}" if noise == "none" else noise)
        axes.set_xlabel("coverage")
    grid[0].set_yticks(range(len(geometries)), [name.replace("_", " ") for name in geometries])
    scale = figure.colorbar(shown, ax=list(grid), aspect=30, extend="both")
    scale.set_label("RMSE, model to best baseline", size=TEXT_PT)
    ticks = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5)
    scale.set_ticks([math.log(tick) for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
    scale.outline.set_linewidth(0.5)
    return figure


def _show(
    axes: Any, cells: Sequence[Cell], geometries: Sequence[str], coverages: Sequence[str]
) -> Any:
    """Squares of the ratios, with their numbers."""
    values = [[math.nan] * len(coverages) for _ in geometries]
    for cell in cells:
        row, column = geometries.index(cell.geometry), coverages.index(cell.coverage)
        ratio = cell.ratio or math.nan
        values[row][column] = math.log(ratio)
        axes.text(
            *(column, row, f"{ratio:.2f}"),
            ha="center",
            va="center",
            size=SMALL_PT - 1,
            color="white" if ratio > _DARK else INK,
            weight="bold" if ratio >= 1 else "normal",
        )
    axes.set_xticks(range(len(coverages)), coverages, rotation=90)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes.imshow(
        values, cmap="cividis_r", vmin=math.log(_LOWEST), vmax=math.log(_HIGHEST), aspect="equal"
    )
