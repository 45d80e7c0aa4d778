"""Learning curves: boxcar averages, the mean over seeds, and their picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.evaluation.page import styled

# Okabe and Ito's palette: distinct for colour-blind readers too.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# In grey, arms are told apart by these.
ARM_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))

_MOST_POINTS = 1000
"""Of a curve that is drawn; more cannot be told apart."""

_MOST_ARMS_INSIDE = 4
"""A legend of more covers curves, and is placed above the plots."""


class LearningCurve(NamedTuple):
    """The losses of one run: `values` [n] at rising `steps` [n]."""

    steps: NDArray[Any]
    values: NDArray[Any]


def boxcar_mean(curve: LearningCurve, width_steps: float) -> LearningCurve:
    """The curve averaged over a window of `width_steps` that lies wholly within it.

    Non-finite values are left out. A curve shorter than the window becomes one point.
    """
    finite = np.isfinite(curve.values)
    steps, values = curve.steps[finite].astype(np.float64), curve.values[finite]
    if len(steps) < 2:
        return LearningCurve(steps, values)
    width = round(width_steps / float(np.median(np.diff(steps))))
    from scipy.ndimage import uniform_filter1d  # slow to import

    width = min(max(width, 1), len(steps))
    middle = slice(width // 2, width // 2 + len(steps) - width + 1)
    means = (uniform_filter1d(each, width) for each in (steps, values))
    return LearningCurve(*(mean[middle] for mean in means))


def mean_curve(curves: Sequence[LearningCurve]) -> LearningCurve:
    """Mean of several curves, from where the last of them begins to where the first one ends.

    Curves with no steps in common have an empty mean.
    """
    start = max(curve.steps[0] for curve in curves)
    end = min(curve.steps[-1] for curve in curves)
    finest = max(curves, key=lambda curve: len(curve.steps)).steps
    steps = finest[(finest >= start) & (finest <= end)]
    values = [np.interp(steps, curve.steps, curve.values) for curve in curves]
    return LearningCurve(steps, np.mean(values, axis=0))


class Panel(NamedTuple):
    """What one of several plots shows.

    Attributes:
        curves: The runs of each arm, one per seed.
        ylabel: What the values are.
        boxcar_steps: Window of the averages [steps]; None draws each point.
        log: Whether the values' axis is logarithmic.
    """

    curves: Mapping[str, Sequence[LearningCurve]]
    ylabel: str = "Loss"
    boxcar_steps: float | None = None
    log: bool = True


def learning_curves_figure(
    curves: Mapping[str, Sequence[LearningCurve]], *, boxcar_steps: float, ylabel: str = "Loss"
) -> Any:
    """Boxcar-averaged losses, on a log scale, against the step; see `curves_figure`.

    Raises:
        ValueError: No arm has a finite loss.
    """
    return curves_figure([Panel(curves, ylabel, boxcar_steps)])


@styled()
def curves_figure(panels: Sequence[Panel]) -> Any:
    """Plots against the step, one below the other.

    Every arm has one colour and one kind of line; its runs are thin lines, their mean a thick one.
    Points that are not finite are left out, and panels without any.

    Raises:
        ValueError: No arm has a finite value.
    """
    from matplotlib.figure import Figure

    drawn = [(panel, means) for panel in panels if any((means := _averaged(panel)).values())]
    if not drawn:
        raise ValueError("curves_figure needs at least one finite value")
    figure = Figure((4.8, 3.0 if len(drawn) == 1 else 1.9 * len(drawn)))
    places = figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0]
    for axes, (panel, averaged) in zip(places, drawn, strict=True):
        _draw_arms(axes, averaged)
        axes.set_ylabel(panel.ylabel)
        if panel.boxcar_steps is not None:
            note = f"boxcar mean over {panel.boxcar_steps:,g} steps"
            axes.set_title(note, loc="left", fontsize="small", fontweight="normal")
        if panel.log:
            _use_log_scale(axes)
        axes.grid()
    last = max(
        seed.steps[-1]
        for panel, _ in drawn
        for seeds in panel.curves.values()
        for seed in seeds
        if len(seed.steps)
    )
    places[-1].set(xlim=(0, last or 1), xlabel="Step")
    places[-1].xaxis.set_major_locator(_ticks(6))
    places[-1].xaxis.set_major_formatter("{x:,.0f}")
    arms = places[0].get_legend_handles_labels()
    if len(arms[0]) > _MOST_ARMS_INSIDE:
        figure.legend(*arms, loc="outside upper center", ncols=2)
    else:
        # Where it covers least takes long to find among many points; losses fall.
        places[0].legend(loc="upper right")
    return figure


def _averaged(panel: Panel) -> dict[str, list[LearningCurve]]:
    """The curves that have a finite value, by arm, with as many points as are drawn."""
    width = panel.boxcar_steps or 0
    return {
        arm: [_thinned(mean) for seed in seeds if len((mean := boxcar_mean(seed, width)).steps)]
        for arm, seeds in panel.curves.items()
    }


def _draw_arms(axes: Any, averaged: Mapping[str, Sequence[LearningCurve]]) -> None:
    # Colours go by position, so an arm keeps its own when another has no data.
    for index, (arm, seeds) in enumerate(averaged.items()):
        colour = ARM_COLOURS[index % len(ARM_COLOURS)]
        # Shifted each time the colours begin anew: arms of one colour differ in their lines.
        line = ARM_LINES[(index + index // len(ARM_COLOURS)) % len(ARM_LINES)]
        if len(seeds) > 1:
            for seed in seeds:
                axes.plot(*seed, color=colour, linewidth=0.6, alpha=0.45)
        if seeds:
            mean = mean_curve(seeds)
            marker = "o" if len(mean.steps) == 1 else ""  # a line of one point is invisible
            label = f"{arm} ({len(seeds)} runs)" if len(seeds) > 1 else arm
            style = {"color": colour, "linestyle": line, "linewidth": 1.4}
            axes.plot(*mean, **style, marker=marker, markersize=3, label=label)


def _thinned(curve: LearningCurve) -> LearningCurve:
    every = max(len(curve.steps) // _MOST_POINTS, 1)
    return LearningCurve(curve.steps[::every], curve.values[::every])


def _ticks(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, steps=(1, 2, 5, 10))


def _use_log_scale(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Within a decade or less, ticks at powers of ten leave the axis bare; over many, there is no
    # room for more than some of these.
    if high < 4 * low:
        locator: Any = _ticks(6)
    elif high < 1e3 * low:
        locator = LogLocator(subs=(1, 2, 5))
    else:
        locator = LogLocator(numticks=6)
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
