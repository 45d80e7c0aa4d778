"""Learning curves: boxcar averages, the mean over seeds, and their picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.evaluation.page import styled

# Okabe and Ito's palette: distinct for colour-blind readers too.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


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
    window = np.full(min(max(width, 1), len(steps)), 1.0)
    window /= len(window)
    return LearningCurve(
        np.convolve(steps, window, mode="valid"), np.convolve(values, window, mode="valid")
    )


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


@styled()
def learning_curves_figure(
    curves: Mapping[str, Sequence[LearningCurve]], *, boxcar_steps: float, ylabel: str = "Loss"
) -> Any:
    """Boxcar-averaged losses, on a log scale, against the step.

    Every arm of `curves` has one colour; its runs (one per seed) are thin lines, their mean a
    thick one. Runs without a finite loss are left out.

    Raises:
        ValueError: No arm has a finite loss.
    """
    from matplotlib.figure import Figure

    averaged = {
        arm: [mean for seed in seeds if len((mean := boxcar_mean(seed, boxcar_steps)).steps)]
        for arm, seeds in curves.items()
    }
    if not any(averaged.values()):
        raise ValueError("learning_curves_figure needs at least one finite loss")
    figure = Figure((4.8, 3.0))
    axes = figure.subplots()
    # Colours go by position in `curves`, so an arm keeps its own when another has no data.
    for index, (arm, seeds) in enumerate(averaged.items()):
        colour = ARM_COLOURS[index % len(ARM_COLOURS)]
        if len(seeds) > 1:
            for seed in seeds:
                axes.plot(*seed, color=colour, linewidth=0.6, alpha=0.45)
        if seeds:
            mean = mean_curve(seeds)
            marker = "o" if len(mean.steps) == 1 else ""  # a line of one point is invisible
            label = f"{arm} ({len(seeds)} runs)" if len(seeds) > 1 else arm
            axes.plot(*mean, color=colour, linewidth=1.4, marker=marker, markersize=3, label=label)
    last = max(max(seed.steps) for seeds in curves.values() for seed in seeds if len(seed.steps))
    axes.set(xlim=(0, last or 1), ylabel=ylabel)
    axes.set_xlabel(f"Step (boxcar mean over {boxcar_steps:,g} steps)")
    _set_ticks(axes)
    axes.grid()
    axes.legend()
    return figure


def _set_ticks(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Within a decade or less, ticks at powers of ten leave the axis bare.
    narrow = high < 4 * low
    axes.yaxis.set_major_locator(
        MaxNLocator(6, steps=(1, 2, 5, 10)) if narrow else LogLocator(subs=(1, 2, 5))
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter("{x:,.0f}")
