"""What a scan path costs and where it leaves gaps, in numbers and in pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from stem_complete.evaluation.page import GAP_IN, SMALL_PT, styled
from stem_complete.scan import ScanPath
from stem_complete.scan.raster import inside_image
from stem_complete.vocabulary import format_coverage

_PANEL_IN, _SMALL_PANEL_IN, _CAPTION_IN, _COLOUR_BAR_IN = 2.6, 1.25, 0.4, 0.45
_CANVAS_PX = 768  # of the longer side of a path's picture
_STROKE_PX = 0.7  # width of the path in pixels of the scan
_NUM_COLUMNS = 5


class PathFacts(NamedTuple):
    """What a path costs, and where it leaves gaps.

    Attributes:
        samples: Number of samples.
        coverage: Mean of the dwell map.
        dwell: Time on all samples [full pixel dwells], without what the beam is blanked for.
        travel_px: Length of the way from sample to sample [px].
        longest_jump_px: Largest distance from one sample to the next [px].
        mean_distance_px: Mean over the pixels of the distance to the nearest pixel with a sample.
        largest_distance_px: Largest distance of a pixel to the nearest pixel with a sample.
    """

    samples: int
    coverage: float
    dwell: float
    travel_px: float
    longest_jump_px: float
    mean_distance_px: float
    largest_distance_px: float


def facts_of(path: ScanPath) -> PathFacts:
    """What a path with at least one sample in its image costs, and where it leaves gaps."""
    steps = path.positions.diff(dim=0).norm(dim=1)
    visited = torch.zeros(path.shape, dtype=torch.bool)
    x, y = path.positions[inside_image(path.positions, path.shape)].round().long().T
    # Half a pixel beyond the last centre still lies in that pixel, and 2.5 rounds to 2.
    visited[y.clamp(0, path.shape[0] - 1), x.clamp(0, path.shape[1] - 1)] = True
    distance = ndimage.distance_transform_edt(~visited.numpy())
    return PathFacts(
        samples=len(path.positions),
        coverage=path.coverage,
        dwell=float(path.dwell.double().sum()),
        travel_px=float(steps.sum()),
        longest_jump_px=float(steps.max()) if len(steps) else 0.0,
        mean_distance_px=float(distance.mean()),
        largest_distance_px=float(distance.max()),
    )


@styled()
def path_figure(path: ScanPath, name: str) -> Any:
    """A path coloured by time, and its dwell map."""
    from matplotlib.figure import Figure

    facts = facts_of(path)
    height = _PANEL_IN * min(path.shape[0] / path.shape[1], 3)
    figure = Figure((2 * (_PANEL_IN + GAP_IN) + _COLOUR_BAR_IN, height + _CAPTION_IN + 0.15))
    left, right = figure.subplots(1, 2)
    _show_path(left, path)
    left.set_title(f"{name}, first to last sample")
    left.set_xlabel(
        f"{facts.samples:,} samples, travel {facts.travel_px:,.0f} px,\n"
        f"longest jump {facts.longest_jump_px:,.1f} px",
        size=SMALL_PT,
    )
    image = right.imshow(path.dwell_map().numpy(), cmap="magma", vmin=0)
    right.set(xticks=[], yticks=[], title="dwell map [full pixel dwells]")
    right.set_xlabel(
        f"coverage {format_coverage(facts.coverage)}, nearest sample "
        f"{facts.mean_distance_px:.1f} px\naway on average, {facts.largest_distance_px:.1f} px "
        "at most",
        size=SMALL_PT,
    )
    figure.colorbar(image, ax=right, shrink=0.8).outline.set_linewidth(0.5)
    return figure


@styled()
def geometries_figure(paths: Mapping[str, ScanPath]) -> Any:
    """Paths in a grid, by name, coloured by time.

    Raises:
        ValueError: There are none.
    """
    from matplotlib.figure import Figure

    if not paths:
        raise ValueError("geometries_figure needs at least one path")
    num_rows = math.ceil(len(paths) / _NUM_COLUMNS)
    panel = _SMALL_PANEL_IN + GAP_IN
    figure = Figure((_NUM_COLUMNS * panel, num_rows * (panel + 0.2)))
    grid = figure.subplots(num_rows, _NUM_COLUMNS, squeeze=False).flatten()
    for axes, (name, path) in zip(grid, paths.items(), strict=False):
        _show_path(axes, path)
        axes.set_title(name.replace("_", " "), size=SMALL_PT)
    for axes in grid[len(paths) :]:
        axes.set_axis_off()
    return figure


def _show_path(axes: Any, path: ScanPath) -> None:
    axes.imshow(_time_image(path), cmap="turbo", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)


def _time_image(path: ScanPath) -> NDArray[np.float32]:
    """When the probe was last in each place, from 0 to 1, NaN where it never was.

    An image, as drawing a million samples one by one takes long.
    """
    inside = inside_image(path.positions, path.shape)
    scale = _CANVAS_PX / max(path.shape)
    height, width = (max(1, round(side * scale)) for side in path.shape)
    x, y = ((path.positions[inside] + 0.5) * scale).long().T
    place = y.clamp(max=height - 1) * width + x.clamp(max=width - 1)
    time = torch.linspace(0, 1, len(inside))[inside]
    image = torch.full((height * width,), -1.0).scatter_reduce(0, place, time, "amax")
    drawn = ndimage.maximum_filter(
        image.view(height, width).numpy(), size=max(2, round(_STROKE_PX * scale))
    )
    return np.where(drawn < 0, np.float32(np.nan), drawn)
