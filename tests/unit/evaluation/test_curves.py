from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from stem_complete.evaluation import LearningCurve, boxcar_mean, learning_curves_figure, save_png
from stem_complete.evaluation.curves import ARM_COLOURS, mean_curve


def curve(steps: object, values: object) -> LearningCurve:
    return LearningCurve(np.asarray(steps), np.asarray(values, dtype=float))


@given(st.integers(2, 60), st.integers(1, 80), st.floats(-3, 3), st.floats(-3, 3))
def test_boxcar_keeps_straight_lines(
    length: int, width: int, slope: float, intercept: float
) -> None:
    steps = 50.0 * np.arange(length)
    averaged = boxcar_mean(curve(steps, slope * steps + intercept), 50 * width)
    assert len(averaged.steps) == max(length - width + 1, 1)
    np.testing.assert_allclose(averaged.values, slope * averaged.steps + intercept, atol=1e-8)


def test_boxcar_is_the_mean_of_its_window() -> None:
    averaged = boxcar_mean(curve([10, 20, 30, 40], [1, 2, 6, 1]), 30)
    np.testing.assert_allclose(averaged.steps, [20, 30])
    np.testing.assert_allclose(averaged.values, [3, 3])


def test_boxcar_leaves_out_what_is_not_finite() -> None:
    averaged = boxcar_mean(curve([1, 2, 3, 4], [9, np.nan, np.inf, 6]), 1)
    np.testing.assert_array_equal(averaged.steps, [1, 4])
    np.testing.assert_array_equal(averaged.values, [9, 6])


def test_boxcar_of_nothing_is_nothing() -> None:
    assert len(boxcar_mean(curve([], []), 10).steps) == 0
    assert len(boxcar_mean(curve([1, 2], [np.nan, np.inf]), 10).steps) == 0


def test_mean_curve_covers_the_steps_all_have() -> None:
    mean = mean_curve([curve([0, 10, 20, 30], [0, 1, 2, 3]), curve([10, 20], [3, 5])])
    np.testing.assert_array_equal(mean.steps, [10, 20])
    np.testing.assert_array_equal(mean.values, [2.0, 3.5])


def test_mean_curve_of_disjoint_runs_is_empty() -> None:
    assert len(mean_curve([curve([0, 1], [1, 1]), curve([5, 6], [1, 1])]).steps) == 0


def is_drawn(colour: str, picture: np.ndarray) -> bool:
    return bool((abs(picture[..., :3] - to_rgb(colour)) < 1e-3).all(axis=-1).any())


def test_every_arm_is_drawn_in_its_own_colour(tmp_path: Path) -> None:
    steps = np.arange(0, 1000, 10)
    arms = {
        "MSE": [curve(steps, np.exp(-steps / 500) + seed / 10) for seed in range(3)],
        "all diverged": [curve(steps, np.full(steps.shape, np.nan))],
        "ALRC": [curve(steps, 0.5 * np.exp(-steps / 500))],
        "one point": [curve([400], [0.7])],
    }
    save_png(learning_curves_figure(arms, boxcar_steps=100), tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")
    drawn = [is_drawn(colour, picture) for colour in ARM_COLOURS[:5]]
    assert drawn == [True, False, True, True, False]


@pytest.mark.parametrize(
    "values", [[1.0, 1.0], [1.90, 2.05], [1e-4, 1e3]], ids=["flat", "narrow", "wide"]
)
def test_any_range_of_losses_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    figure = learning_curves_figure({"a": [curve([0, 10], values)]}, boxcar_steps=1)
    save_png(figure, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").std() > 0.05


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [curve([0], [np.nan])]}])
def test_nothing_to_draw(curves: dict[str, list[LearningCurve]]) -> None:
    with pytest.raises(ValueError, match="at least one finite value"):
        learning_curves_figure(curves, boxcar_steps=1)


@pytest.mark.parametrize("decades", [0.2, 1, 2, 4, 9, 16])
def test_log_axes_of_any_range_have_a_few_ticks(decades: float) -> None:
    values = 10.0 ** np.linspace(0, decades, 50)
    figure = learning_curves_figure({"a": [curve(np.arange(50), values)]}, boxcar_steps=1)
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert 2 <= sum(low <= tick <= high for tick in axes.get_yticks()) <= 10


def test_many_arms_differ_in_colour_or_line_and_their_legend_covers_none() -> None:
    arms = {f"arm {number}": [curve([0, 1], [1, 2])] for number in range(8)}
    figure = learning_curves_figure(arms, boxcar_steps=1)
    (axes,) = figure.axes
    styles = {(line.get_color(), str(line._dash_pattern)) for line in axes.lines}
    assert len(styles) == len(arms)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
