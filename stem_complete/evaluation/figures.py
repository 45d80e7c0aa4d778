"""Images for reports: completions beside their truth, and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.evaluation.known_scans import KnownScan
from stem_complete.evaluation.metrics import rmse
from stem_complete.evaluation.page import DPI, GAP_IN, TEXT_PT, styled
from stem_complete.inference.image_files import display_range
from stem_complete.vocabulary import INTENSITY_RANGE

Image = NDArray[Any]
_Panel = tuple[Image, str]
"""An image with its caption."""

PANEL_IN = 512 / DPI  # a 512 px image keeps its pixels, nearly
TEXT_IN, CAPTION_IN, COLOUR_BAR_IN = 0.2, 0.18, 0.5
UNMEASURED = "#16243f"  # dark, but blue: a dark measured pixel still differs from it
ERROR_PERCENTILE = 99.5
CHARACTER_IN = 0.064  # of text, on average


class CompletionExample(NamedTuple):
    """One row of a completion figure.

    Attributes:
        name: Row label.
        scan: The scan, with the truth that completions are compared with.
        completions: Completed images [h, w], by the heading of their column.
        note: Shown below the truth.
    """

    name: str
    scan: KnownScan
    completions: Mapping[str, Image]
    note: str = ""


@styled()
def completion_figure(examples: Sequence[CompletionExample]) -> Any:
    """A row per example: truth, scan, completions, and the error of the last completion.

    Greys have the same limits along a row, set by the truth. Errors are absolute, and in percent of
    the micrograph's range, as RMSEs are.

    Raises:
        ValueError: No examples.
        DataError: An example's images do not go together.
    """
    from matplotlib.figure import Figure

    if not examples:
        raise ValueError("completion_figure needs at least one example")
    rows = [_panels(example) for example in examples]
    ratios = [e.scan.truth.shape[0] / e.scan.truth.shape[1] for e in examples]
    width = len(rows[0]) * (PANEL_IN + GAP_IN) + TEXT_IN + COLOUR_BAR_IN
    height = sum(ratios) * PANEL_IN + len(rows) * CAPTION_IN + TEXT_IN
    figure = Figure((width, height))
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False, height_ratios=ratios)
    for axes, heading in zip(grid[0], rows[0], strict=True):
        axes.set_title(heading)
    for line, example, row, ratio in zip(grid, examples, rows, ratios, strict=True):
        line[0].set_ylabel(_short(example.name, ratio * PANEL_IN))
        *panels, error = row.values()
        for axes, panel in zip(line, panels, strict=False):
            _show_grey(axes, panel, example.scan.truth)
        _show_error(line[-1], error)
    return figure


@styled()
def side_by_side(images: Mapping[str, Image], errors: Mapping[str, Image]) -> Any:
    """Images [h, w] by name with the grey limits of the first, NaN left white; then error maps.

    Raises:
        ValueError: No images.
    """
    from matplotlib.figure import Figure

    if not images:
        raise ValueError("side_by_side needs at least one image")
    num = len(images) + len(errors)
    figure = Figure((num * (PANEL_IN + GAP_IN) + COLOUR_BAR_IN, PANEL_IN + CAPTION_IN))
    places = figure.subplots(1, num, squeeze=False)[0]
    low, high = np.nanquantile(next(iter(images.values())), [0.01, 0.99])
    for axes, (name, image) in zip(places, images.items(), strict=False):
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(name)
    for axes, (name, error) in zip(places[len(images) :], errors.items(), strict=True):
        shown = axes.imshow(error, cmap="cividis", vmin=0, interpolation="nearest")
        axes.set_title(name)
        figure.colorbar(shown, ax=axes)
    for axes in places:
        axes.set_axis_off()
    return figure


@styled()
def contact_sheet(images: Sequence[Image], labels: Sequence[str], *, num_panels: int = 1) -> Any:
    """Images [h, w] in a grid, labels above, each with its own grey limits.

    NaN pixels are shown as not measured.

    Args:
        images: What is drawn.
        labels: One for each.
        num_panels: How many pictures side by side each image is made of.

    Raises:
        ValueError: No images, or not one label for each.
    """
    from matplotlib.figure import Figure

    if not images or len(images) != len(labels):
        raise ValueError(f"contact_sheet got {len(images)} images and {len(labels)} labels")
    num_columns = math.ceil(math.sqrt(len(images) / num_panels))
    num_rows = math.ceil(len(images) / num_columns)
    width = PANEL_IN * num_panels
    height = width * max(image.shape[0] / image.shape[1] for image in images)
    figure = Figure((num_columns * (width + GAP_IN), num_rows * (height + TEXT_IN + GAP_IN)))
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes, image, label in zip(grid, images, labels, strict=False):
        axes.set_title(_short(label, width), size=TEXT_PT, weight="normal")
        _show_grey(axes, (image, ""), image)
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    return figure


def _panels(example: CompletionExample) -> dict[str, _Panel]:
    """Image and caption of each column, by heading."""
    partial, truth = example.scan.partial, example.scan.truth
    measured = f"{partial.measured.mean():.0%} of pixels measured"
    panels: dict[str, _Panel] = {
        "Truth": (truth, example.note),
        "Partial scan": (partial.intensity, measured),
    }
    for heading, image in example.completions.items():
        error = rmse(truth, image, intensity_range=INTENSITY_RANGE)
        panels[heading] = (image, f"RMSE {100 * error:.1f}%")
    last, _ = panels[heading]
    percent = 100 * np.abs(np.subtract(last, truth, dtype=np.float64)) / np.ptp(INTENSITY_RANGE)
    return panels | {"Error": (percent, f"mean {percent.mean():.1f}%")}


def _show(axes: Any, panel: _Panel, **options: Any) -> Any:
    """Shows an image and its caption, and nothing else of the axes."""
    image, caption = panel
    axes.set(xticks=[], yticks=[], anchor="N", xlabel=caption)
    axes.spines[:].set_visible(False)
    return axes.imshow(image, **options)


def _show_grey(axes: Any, panel: _Panel, fitting: Image) -> None:
    """Shows an image in the greys that fit another."""
    from matplotlib import colormaps

    low, high = display_range(fitting)
    if low == high:
        low, high = low - 0.5, high + 0.5
    shades = colormaps["gray"].with_extremes(bad=UNMEASURED)
    _show(axes, panel, cmap=shades, vmin=low, vmax=high)


def _show_error(axes: Any, panel: _Panel) -> None:
    """Shows an error map [%] with its scale beside it."""
    from matplotlib.ticker import MaxNLocator

    limit = float(np.percentile(panel[0], ERROR_PERCENTILE)) or 1.0
    shown = _show(axes, panel, cmap="magma", vmin=0, vmax=limit)
    ticks = MaxNLocator(5, steps=(1, 2, 5, 10))
    scale = axes.figure.colorbar(shown, ax=axes, ticks=ticks, format="{x:g}%", extend="max")
    scale.outline.set_linewidth(0.5)


def _short(name: str, length: float) -> str:
    """The name, or its two ends where it is longer than `length` inches."""
    room = int(length / CHARACTER_IN)
    if len(name) <= room:
        return name
    half = max((room - 1) // 2, 1)
    return f"{name[:half]}…{name[-half:]}"
