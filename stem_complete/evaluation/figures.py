"""Images for reports, as PNG: completions beside their truth, and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.evaluation.metrics import rmse
from stem_complete.evaluation.page import (
    DPI,
    GAP_IN,
    HEADING_PT,
    INK,
    SMALL_PT,
    TEXT_PT,
    new_figure,
    save_png,
)
from stem_complete.inference.image_files import display_range

Image = NDArray[Any]

PANEL_IN = 512 / DPI  # a 512 px image keeps its pixels, nearly
TEXT_IN, CAPTION_IN, COLOUR_BAR_IN = 0.2, 0.13, 0.5
UNMEASURED = "#16243f"  # dark, but blue: a dark measured pixel still differs from it
ERROR_PERCENTILE = 99.5
CHARACTER_IN = 0.064  # of text, on average


class CompletionExample(NamedTuple):
    """One row of a completion figure; all images [h, w] in the same units.

    Attributes:
        name: Row label.
        truth: Complete image, or None where there is none.
        intensity: Partial scan, NaN where not measured.
        baseline: Classical completion, or None.
        completion: The network's.
        error: Its own estimate of its error, shown where there is no truth to measure it by.
        intensity_range: What errors are in percent of; the truth's own range if None.
        note: Shown above the first image.
        other: Another network's completion, or None.
    """

    name: str
    truth: Image | None
    intensity: Image
    baseline: Image | None
    completion: Image
    error: Image | None = None
    intensity_range: tuple[float, float] | None = None
    note: str = ""
    other: Image | None = None


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
    completion_name: str = "Completion",
    other_name: str = "Other network",
) -> None:
    """Writes a PNG with a row per example: truth, scan, baseline, completions, error of the first.

    Greys have the same limits along a row, set by the truth. The error is absolute, in percent of
    the truth's range or of another that the example names, and so is the RMSE; without a truth,
    the estimated error is shown in the units of the scan. Columns that no example fills are left
    out.

    Raises:
        ValueError: No examples.
        DataError: An example's images do not go together.
    """
    names = (baseline_name, other_name, completion_name)
    save_png(draw_completions(examples, *names), path)


def draw_completions(
    examples: Sequence[CompletionExample],
    baseline_name: str,
    other_name: str,
    completion_name: str,
) -> Any:
    """The figure of `completion_figure`: axes in rows, the last of a row being the colour bar's."""
    if not examples:
        raise ValueError("completion_figure needs at least one example")
    names = (baseline_name, other_name, completion_name)
    rows = [_panels(example, *names) for example in examples]
    headings = ("Truth", "Partial scan", *names, "Error")
    columns = [heading for heading in headings if any(heading in row for row in rows)]
    ratios = [e.intensity.shape[0] / e.intensity.shape[1] for e in examples]
    bar = columns[-1] == "Error"
    figure = new_figure(
        width=len(columns) * (PANEL_IN + GAP_IN) + TEXT_IN + COLOUR_BAR_IN * bar,
        height=sum(ratios) * PANEL_IN + len(rows) * CAPTION_IN + TEXT_IN,
    )
    grid = figure.subplots(
        len(rows),
        len(columns) + 1,
        squeeze=False,
        width_ratios=[1] * len(columns) + [0.045 if bar else 1e-3],
        height_ratios=ratios,
    )
    for axes, heading in zip(grid[0], columns, strict=False):
        axes.set_title(heading, fontsize=HEADING_PT, color=INK, weight="bold", pad=3)
    for line, example, row, ratio in zip(grid, examples, rows, ratios, strict=True):
        line[0].set_ylabel(_short(example.name, ratio * PANEL_IN), fontsize=TEXT_PT, color=INK)
        greys = _grey_limits(example.completion if example.truth is None else example.truth)
        for axes, heading in zip(line, columns, strict=False):
            _bare(axes)
            if heading in row:
                axes.set_xlabel(row[heading].caption, fontsize=TEXT_PT, color=INK, labelpad=2)
                _draw(figure, axes, row[heading], greys, line[-1])
        if "Error" not in row:
            line[-1].set_axis_off()
    return figure


def contact_sheet(
    images: Sequence[Image], labels: Sequence[str], path: Path, *, num_columns: int | None = None
) -> None:
    """Writes a PNG of images [h, w] in a grid, labels above, each with its own grey limits.

    NaN pixels are shown as not measured.

    Raises:
        ValueError: No images, or not one label for each.
    """
    save_png(draw_contact_sheet(images, labels, num_columns), path)


def draw_contact_sheet(
    images: Sequence[Image], labels: Sequence[str], num_columns: int | None = None
) -> Any:
    """The figure of `contact_sheet`."""
    if not images or len(images) != len(labels):
        raise ValueError(f"contact_sheet got {len(images)} images and {len(labels)} labels")
    num_columns = min(num_columns or math.ceil(math.sqrt(len(images))), len(images))
    num_rows = math.ceil(len(images) / num_columns)
    height = PANEL_IN * max(image.shape[0] / image.shape[1] for image in images)
    figure = new_figure(
        width=num_columns * (PANEL_IN + GAP_IN), height=num_rows * (height + TEXT_IN + GAP_IN)
    )
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes in grid:
        _bare(axes)
    for axes, image, label in zip(grid, images, labels, strict=False):
        axes.set_title(_short(label, PANEL_IN), fontsize=TEXT_PT, color=INK, pad=3)
        _draw(figure, axes, _Panel(image, label), _grey_limits(image))
    return figure


def _panels(
    example: CompletionExample, baseline_name: str, other_name: str, completion_name: str
) -> dict[str, _Panel]:
    """What an example shows in each column, by heading."""
    truth, completion = example.truth, example.completion
    measured = np.isfinite(example.intensity).mean()
    panels = {"Partial scan": _Panel(example.intensity, f"{measured:.0%} of pixels measured")}
    if truth is None:
        if example.baseline is not None:
            panels[baseline_name] = _Panel(example.baseline, "")
        if example.other is not None:
            panels[other_name] = _Panel(example.other, "")
        panels[completion_name] = _Panel(completion, "")
        if example.error is not None:
            caption = f"estimated, mean {example.error.mean():.3g}"
            panels["Error"] = _Panel(example.error, caption, error_unit="")
        return panels
    panels["Truth"] = _Panel(truth, example.note)
    if example.baseline is not None:
        panels[baseline_name] = _Panel(example.baseline, _rmse_caption(example, example.baseline))
    if example.other is not None:
        panels[other_name] = _Panel(example.other, _rmse_caption(example, example.other))
    panels[completion_name] = _Panel(completion, _rmse_caption(example, completion))
    unit = np.ptp(truth if example.intensity_range is None else example.intensity_range)
    percent = 100 * np.abs(np.subtract(completion, truth, dtype=np.float64)) / unit
    panels["Error"] = _Panel(percent, f"mean {percent.mean():.1f}%", error_unit="%")
    return panels


def _bare(axes: Any) -> None:
    """Leaves nothing of the axes but what is drawn on them and written beside them."""
    axes.set(xticks=[], yticks=[], anchor="N")
    axes.spines[:].set_visible(False)


def _draw(
    figure: Any, axes: Any, panel: _Panel, greys: tuple[float, float], bar: Any = None
) -> None:
    """Draws a panel; with an error map, its scale goes on the axes `bar`."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    if panel.error_unit is None:
        low, high = greys
        shades = colormaps["gray"].with_extremes(bad=UNMEASURED)
        axes.imshow(panel.image, cmap=shades, vmin=low, vmax=high)
        return
    limit = float(np.percentile(panel.image, ERROR_PERCENTILE)) or 1.0
    shown = axes.imshow(panel.image, cmap="magma", vmin=0, vmax=limit)
    scale = figure.colorbar(
        shown, cax=bar, format=StrMethodFormatter("{x:g}" + panel.error_unit), extend="max"
    )
    scale.locator = MaxNLocator(5, steps=(1, 2, 5, 10))
    scale.outline.set_linewidth(0.5)
    bar.tick_params(labelsize=SMALL_PT, length=2, width=0.5, pad=1.5, colors=INK)


def _short(name: str, length: float) -> str:
    """The name, or its two ends where it is longer than `length` inches."""
    room = int(length / CHARACTER_IN)
    if len(name) <= room:
        return name
    half = max((room - 1) // 2, 1)
    return f"{name[:half]}…{name[-half:]}"


def _rmse_caption(example: CompletionExample, image: Image) -> str:
    assert example.truth is not None
    error = rmse(example.truth, image, intensity_range=example.intensity_range)
    return f"RMSE {100 * error:.1f}%"


def _grey_limits(image: Image) -> tuple[float, float]:
    low, high = display_range(image)
    return (low, high) if low < high else (low - 0.5, low + 0.5)
