"""Images for reports, as PNG: completions beside their truth, and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.evaluation.metrics import rmse
from stem_complete.evaluation.page import DPI, HEADING_PT, INK, SMALL_PT, Page

Image = NDArray[Any]

PANEL_IN = 512 / DPI  # a 512 px image keeps its pixels
GAP_IN, MARGIN_IN = 0.06, 0.07
HEADING_IN, CAPTION_IN, ROW_LABEL_IN = 0.18, 0.19, 0.18
COLOUR_BAR_IN, COLOUR_BAR_LABELS_IN = 0.08, 0.36
UNMEASURED = "#16243f"  # dark, but blue: a dark measured pixel still differs from it
GREY_PERCENTILES = (0.3, 99.7)  # a few hot pixels must not turn a picture black
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
    if not examples:
        raise ValueError("completion_figure needs at least one example")
    names = (baseline_name, other_name, completion_name)
    rows = [_panels(example, *names) for example in examples]
    headings = ("Truth", "Partial scan", *names, "Error")
    columns = [heading for heading in headings if any(heading in row for row in rows)]
    lefts = [MARGIN_IN + ROW_LABEL_IN + i * (PANEL_IN + GAP_IN) for i in range(len(columns))]
    heights = [PANEL_IN * e.intensity.shape[0] / e.intensity.shape[1] for e in examples]
    error_scale = COLOUR_BAR_IN + COLOUR_BAR_LABELS_IN if columns[-1] == "Error" else 0.0
    page = Page(
        width=lefts[-1] + PANEL_IN + error_scale + MARGIN_IN,
        height=2 * MARGIN_IN + HEADING_IN + sum(heights) + CAPTION_IN * len(heights),
    )
    for left, heading in zip(lefts, columns, strict=True):
        middle = left + PANEL_IN / 2
        page.text(middle, MARGIN_IN + HEADING_IN / 2, heading, size=HEADING_PT, weight="bold")
    top = MARGIN_IN + HEADING_IN
    for example, row, height in zip(examples, rows, heights, strict=True):
        top += CAPTION_IN
        page.text(
            MARGIN_IN + ROW_LABEL_IN / 2,
            top + height / 2,
            _short(example.name, height),
            rotation=90,
        )
        greys = _grey_limits(example.completion if example.truth is None else example.truth)
        for left, heading in zip(lefts, columns, strict=True):
            if heading in row:
                page.text(left + PANEL_IN / 2, top - CAPTION_IN / 2, row[heading].caption)
                _draw(page, row[heading], greys, left, top, height)
        top += height
    page.save(path)


def contact_sheet(
    images: Sequence[Image], labels: Sequence[str], path: Path, *, num_columns: int | None = None
) -> None:
    """Writes a PNG of images [h, w] in a grid, labels above, each with its own grey limits.

    NaN pixels are shown as not measured.

    Raises:
        ValueError: No images, or not one label for each.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"contact_sheet got {len(images)} images and {len(labels)} labels")
    num_columns = num_columns or math.ceil(math.sqrt(len(images)))
    num_rows = math.ceil(len(images) / num_columns)
    height = PANEL_IN * max(image.shape[0] / image.shape[1] for image in images)
    page = Page(
        width=2 * MARGIN_IN + min(num_columns, len(images)) * (PANEL_IN + GAP_IN) - GAP_IN,
        height=2 * MARGIN_IN + num_rows * (height + CAPTION_IN),
    )
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(index, num_columns)
        left = MARGIN_IN + column * (PANEL_IN + GAP_IN)
        top = MARGIN_IN + row * (height + CAPTION_IN) + CAPTION_IN
        page.text(left + PANEL_IN / 2, top - CAPTION_IN / 2, _short(label, PANEL_IN))
        _draw(page, _Panel(image, label), _grey_limits(image), left, top, height)
    page.save(path)


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


def _draw(
    page: Page,
    panel: _Panel,
    greys: tuple[float, float],
    left: float,
    top: float,
    height: float,
) -> None:
    """Draws a panel, and the colour bar of an error map to its right."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes = page.axes(left, top, PANEL_IN, height)
    axes.set_axis_off()
    axes.set_anchor("N")
    if panel.error_unit is None:
        low, high = greys
        shades = colormaps["gray"].with_extremes(bad=UNMEASURED)
        axes.imshow(panel.image, cmap=shades, vmin=low, vmax=high)
        return
    limit = float(np.percentile(panel.image, ERROR_PERCENTILE)) or 1.0
    shown = axes.imshow(panel.image, cmap="magma", vmin=0, vmax=limit)
    bar = page.axes(left + PANEL_IN + GAP_IN, top, COLOUR_BAR_IN, height)
    scale = page.figure.colorbar(
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
    low, high = np.nanpercentile(image, GREY_PERCENTILES)
    return (float(low), float(high)) if low < high else (float(low) - 0.5, float(low) + 0.5)
