"""Pictures for reports, as PNG: completions beside their truth, learning curves, contact sheets.

Drawn with matplotlib's object interface on an Agg canvas: no display, no global state. Everything
is placed in inches from the top left, so that panels line up whatever their labels.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.evaluation.metrics import rmse

Image = NDArray[Any]

DPI = 300
PANEL_IN, GAP_IN, MARGIN_IN = 1.72, 0.06, 0.06  # a 512 px image keeps its pixels
HEADING_IN, CAPTION_IN, ROW_LABEL_IN = 0.2, 0.17, 0.2
COLOUR_BAR_IN, COLOUR_BAR_LABELS_IN = 0.08, 0.4
HEADING_PT, TEXT_PT, SMALL_PT = 8.5, 7.5, 6.5
INK = "#222222"
UNMEASURED = "#16243f"  # dark, but blue: a dark measured pixel still differs from it
GREY_PERCENTILES = (0.1, 99.9)  # a few hot pixels must not turn a picture black
ERROR_PERCENTILE = 99.5
# Okabe and Ito's palette: distinct for colour-blind readers too.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class CompletionExample(NamedTuple):
    """One row of a completion figure; all images [h, w] in the same units.

    Attributes:
        name: Row label.
        truth: Complete image, or None where there is none.
        intensity: Partial scan, NaN where not measured.
        baseline: Classical completion, or None.
        completion: The network's.
        error: Its own estimate of its error, shown where there is no truth to measure it by.
    """

    name: str
    truth: Image | None
    intensity: Image
    baseline: Image | None
    completion: Image
    error: Image | None = None


class LearningCurve(NamedTuple):
    """Losses `values` [n] of one run at its `steps` [n], in any order."""

    steps: Sequence[int] | NDArray[Any]
    values: Sequence[float] | NDArray[Any]


class _Panel(NamedTuple):
    """An image with its caption; `error_unit` is None for images in grey."""

    image: Image
    caption: str
    error_unit: str | None = None


def completion_figure(
    examples: Sequence[CompletionExample],
    path: Path,
    *,
    baseline_name: str = "Linear interpolation",
) -> None:
    """Writes a PNG with a row per example: truth, partial scan, baseline, completion, error.

    Greys have the same limits along a row, set by the truth. The error is absolute, in percent of
    the truth's range, and so is the RMSE; without a truth, the estimated error is shown in the
    units of the scan. Columns that no example fills are left out.
    """
    rows = [_panels(example, baseline_name) for example in examples]
    headings = ("Truth", "Partial scan", baseline_name, "Completion", "Error")
    columns = [heading for heading in headings if any(heading in row for row in rows)]
    heights = [PANEL_IN * e.intensity.shape[0] / e.intensity.shape[1] for e in examples]
    lefts = [MARGIN_IN + ROW_LABEL_IN + i * (PANEL_IN + GAP_IN) for i in range(len(columns))]
    error_scale = COLOUR_BAR_IN + COLOUR_BAR_LABELS_IN if columns[-1] == "Error" else 0.0
    page = _Page(
        width=lefts[-1] + PANEL_IN + error_scale + MARGIN_IN,
        height=2 * MARGIN_IN + HEADING_IN + sum(heights) + CAPTION_IN * len(heights),
    )
    for left, heading in zip(lefts, columns, strict=True):
        middle = left + PANEL_IN / 2
        page.text(middle, MARGIN_IN + HEADING_IN / 2, heading, size=HEADING_PT, weight="bold")
    top = MARGIN_IN + HEADING_IN
    for example, row, height in zip(examples, rows, heights, strict=True):
        limits = _grey_limits(example.completion if example.truth is None else example.truth)
        top += CAPTION_IN
        page.text(MARGIN_IN + ROW_LABEL_IN / 2, top + height / 2, example.name, rotation=90)
        for left, heading in zip(lefts, columns, strict=True):
            if heading in row:
                page.text(left + PANEL_IN / 2, top - CAPTION_IN / 2, row[heading].caption)
                _draw(page, row[heading], limits, left, top, height)
        top += height
    page.save(path)


def contact_sheet(
    images: Sequence[Image], labels: Sequence[str], path: Path, *, num_columns: int | None = None
) -> None:
    """Writes a PNG of images [h, w] in a grid, labels above, each image with its own grey limits.

    NaN pixels are shown as not measured.
    """
    num_columns = num_columns or math.ceil(math.sqrt(len(images)))
    num_rows = math.ceil(len(images) / num_columns)
    height = PANEL_IN * max(image.shape[0] / image.shape[1] for image in images)
    page = _Page(
        width=2 * MARGIN_IN + num_columns * (PANEL_IN + GAP_IN) - GAP_IN,
        height=2 * MARGIN_IN + num_rows * (height + CAPTION_IN),
    )
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(index, num_columns)
        left = MARGIN_IN + column * (PANEL_IN + GAP_IN)
        top = MARGIN_IN + row * (height + CAPTION_IN) + CAPTION_IN
        page.text(left + PANEL_IN / 2, top - CAPTION_IN / 2, label)
        _draw(page, _Panel(image, label), _grey_limits(image), left, top, height)
    page.save(path)


def learning_curves_figure(
    curves: Mapping[str, Sequence[LearningCurve]],
    path: Path,
    *,
    boxcar_steps: int,
    ylabel: str = "Loss",
    title: str = "",
) -> None:
    """Writes a PNG of the boxcar-averaged curves of every arm, log loss against step.

    Each arm has one colour; its seeds are thin lines, their mean a thick one.
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    page = _Page(width=4.6, height=3.0)
    axes = page.axes(left=0.62, top=0.3 if title else 0.12, width=3.85, height=2.2 + 0.18)
    for index, (arm, seeds) in enumerate(curves.items()):
        colour = ARM_COLOURS[index % len(ARM_COLOURS)]
        means = [boxcar_mean(seed, boxcar_steps) for seed in seeds]
        means = [curve for curve in means if len(curve.steps)]
        if len(means) > 1:
            for curve in means:
                axes.plot(*curve, color=colour, linewidth=0.6, alpha=0.4)
        if means:
            axes.plot(*mean_of_seeds(means), color=colour, linewidth=1.6, label=arm)
    axes.set_yscale("log")
