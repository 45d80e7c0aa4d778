"""Arms of an experiment side by side (ALRC paper, fig. 6), from tracked runs alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.errors import TrackingError
from stem_complete.evaluation import (
    LearningCurve,
    boxcar_mean,
    grouped,
    learning_curves_figure,
    markdown_table,
    save_png,
)
from stem_complete.files import write_atomically
from stem_complete.tracking import Curve, list_curves

_PAPERS_BOXCAR_STEPS = 2500
_FINAL_FRACTION = 0.1

_COLUMNS = {
    "final_loss": "final loss",
    "final_rmse": "final validation RMSE [%]",
    "best_rmse": "best validation RMSE [%]",
    "clip_fraction": "clipped [%]",
    "largest_spike": "largest spike",
}
_PERCENT = {"final_rmse", "best_rmse", "clip_fraction"}

Summary = dict[str, float | None]
"""The keys of `_COLUMNS`; None where the run does not say.

`final_loss` is the mean of the last tenth of the logged losses, `clip_fraction` that of all logged
fractions. `largest_spike` is the largest ratio of a logged loss to the boxcar mean around it. RMSE
is on images scaled to [0, 1] by the truth's own range.
"""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only, and what came of each."""

    name: str
    runs: dict[str, Summary]

    @property
    def mean(self) -> Summary:
        """Mean over seeds, of those that have a value."""
        return {key: fmean(v) if (v := self._values(key)) else None for key in _COLUMNS}

    @property
    def std(self) -> Summary:
        """Standard deviation over seeds, with n - 1; None with fewer than two."""
        return {key: stdev(v) if len(v := self._values(key)) > 1 else None for key in _COLUMNS}

    def _values(self, key: str) -> list[float]:
        return [value for run in self.runs.values() if (value := run[key]) is not None]


@dataclass(frozen=True)
class Comparison:
    """Arms of an experiment, in alphabetical order.

    Attributes:
        experiment: Its name.
        metric: The loss that was compared.
        boxcar_steps: Window of the learning curves.
        arms: What came of them.
        superseded: How many older runs of the same names were left out.
        figure: Written learning curves; None if no loss is finite.
    """

    experiment: str
    metric: str
    boxcar_steps: int
    arms: tuple[Arm, ...]
    superseded: int
    figure: Path | None

    @property
    def markdown(self) -> str:
        """Table of the arms, mean +- standard deviation over seeds."""
        header = ["arm", "seeds", *_COLUMNS.values()]
        rows = [
            [arm.name, str(len(arm.runs)), *(_cell(arm, key) for key in _COLUMNS)]
            for arm in self.arms
        ]
        return markdown_table(header, rows)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; None where a value is missing."""
        return {
            "experiment": self.experiment,
            "metric": self.metric,
            "boxcar_steps": self.boxcar_steps,
            "superseded_runs": self.superseded,
            "arms": {
                arm.name: {"runs": arm.runs, "mean": arm.mean, "std": arm.std} for arm in self.arms
            },
        }


def compare(
    uri: str,
    experiment: str,
    output: Path,
    *,
    metric: str = "train/outer_loss",
    boxcar_steps: int | None = None,
    names: Sequence[str] | None = None,
    parent: str | None = None,
) -> Comparison:
    """The arms of an experiment; writes `learning_curves.png`, `comparison.json` and `.md`.

    Of several runs with one name, the latest counts.

    Args:
        uri: Tracking server.
        experiment: Its name.
        output: Folder to write to.
        metric: The loss to compare.
        boxcar_steps: Window of the learning curves [steps]; None is the paper's 2,500, or a
            fortieth of shorter runs.
        names: Only runs whose name or arm matches one of these patterns, like `alrc*`.
        parent: Only runs of this sweep, by its run id.

    Raises:
        TrackingError: The server does not answer, or has no such experiment or runs.
    """
    found = [c for c in list_curves(uri, experiment, metric, parent=parent) if _chosen(c, names)]
    if not found:
        there = dict.fromkeys(curve.name for curve in list_curves(uri, experiment, metric))
        raise TrackingError(
            expected=f"runs with {metric}" + (f" called {' or '.join(names)}" if names else ""),
            found=", ".join(there) or "none",
            where=f"experiment {experiment!r} at {uri}",
            fix="train some with `stem-complete train`, or choose other names",
        )
    losses = _latest(found)
    if boxcar_steps is None:
        longest = max(int(curve.steps[-1]) for curve in losses)
        boxcar_steps = min(_PAPERS_BOXCAR_STEPS, max(longest // 40, 1))

    # The other metrics of the same runs, by run id.
    run_ids = [curve.run_id for curve in losses]
    clipped, rmse = (
        {c.run_id: c for c in list_curves(uri, experiment, name, run_ids=run_ids)}
        for name in (metric.replace("_loss", "_clip_fraction"), "validation/rmse")
    )
    summaries = {
        c.name: _summary(c, clipped.get(c.run_id), rmse.get(c.run_id), boxcar_steps) for c in losses
    }
    by_arm = grouped(losses, lambda curve: curve.arm)

    output.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(
        experiment,
        metric,
        boxcar_steps,
        tuple(Arm(arm, {c.name: summaries[c.name] for c in of}) for arm, of in by_arm.items()),
        superseded=len(found) - len(losses),
        figure=_draw(by_arm, output / "learning_curves.png", metric, boxcar_steps),
    )
    write_atomically(output / "comparison.json", json.dumps(comparison.to_dict(), indent=2) + "\n")
    write_atomically(output / "comparison.md", comparison.markdown)
    return comparison


def _chosen(curve: Curve, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(
        fnmatchcase(name, pattern) for name in (curve.name, curve.arm) for pattern in patterns
    )


def _latest(curves: Sequence[Curve]) -> list[Curve]:
    """The newest curve of each run name, in the order of `curves`."""
    newest = {c.name: c for c in sorted(curves, key=lambda curve: curve.started_ms)}
    return [curve for curve in curves if newest[curve.name] is curve]


def _summary(loss: Curve, clipped: Curve | None, rmse: Curve | None, boxcar_steps: int) -> Summary:
    losses, errors, fractions = _finite(loss), _finite(rmse), _finite(clipped)
    final = losses[-max(round(len(losses) * _FINAL_FRACTION), 1) :]
    return {
        "final_loss": fmean(final) if final else None,
        "final_rmse": errors[-1] if errors else None,
        "best_rmse": min(errors, default=None),
        "clip_fraction": fmean(fractions) if fractions else None,
        "largest_spike": _largest_spike(loss, boxcar_steps),
    }


def _finite(curve: Curve | None) -> list[float]:
    return [] if curve is None else curve.values[np.isfinite(curve.values)].tolist()


def _largest_spike(loss: Curve, boxcar_steps: int) -> float | None:
    finite = np.isfinite(loss.values) & (loss.values > 0)
    steps, values = loss.steps[finite], loss.values[finite]
    if not len(values):
        return None
    mean = boxcar_mean(LearningCurve(steps, values), boxcar_steps)
    around: NDArray[np.float64] = np.interp(steps, mean.steps, mean.values)
    return float((values / around).max())


def _draw(
    arms: Mapping[str, Sequence[Curve]], path: Path, metric: str, boxcar_steps: int
) -> Path | None:
    curves = {
        arm: [LearningCurve(curve.steps, curve.values) for curve in of_arm]
        for arm, of_arm in arms.items()
    }
    if not any(np.isfinite(c.values).any() for of_arm in curves.values() for c in of_arm):
        return None
    ylabel = metric.removeprefix("train/").replace("_", " ").capitalize()
    save_png(learning_curves_figure(curves, boxcar_steps=boxcar_steps, ylabel=ylabel), path)
    return path


def _cell(arm: Arm, key: str) -> str:
    mean, std = arm.mean[key], arm.std[key]
    if mean is None:
        return ""
    scale = 100 if key in _PERCENT else 1
    return f"{scale * mean:.3g}" + ("" if std is None else f" +- {scale * std:.2g}")
