"""Arms of an experiment side by side (ALRC paper, fig. 6), from tracked runs alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from stem_complete.console import format_digits
from stem_complete.errors import TrackingError
from stem_complete.evaluation import (
    LearningCurve,
    Panel,
    curves_figure,
    grouped,
    markdown_table,
    save_png,
)
from stem_complete.experiments.paired import Difference, difference, ratio
from stem_complete.experiments.run_summary import (
    COLUMNS,
    PERCENT,
    Curves,
    Summary,
    final_loss,
    has_diverged,
    summary,
)
from stem_complete.files import write_atomically
from stem_complete.tracking import Curve, TrackedRuns

_PAPERS_BOXCAR_STEPS = 2500
_TESTED = ("final_loss", "best_rmse")
_INTERVAL = ("95 % interval", "p")
_CHANGES = ("arm", "of", "seeds", "difference", *_INTERVAL, "ratio", *_INTERVAL)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only, and what came of each.

    Attributes:
        name: What the runs share.
        runs: What came of each, by name.
        seeds: Those of the runs that have one.
        diverged: Names of the runs that ended with losses that are not finite.
        unfinished: Names of those under way, stopped or failed; their values are those so far.
    """

    name: str
    runs: dict[str, Summary]
    seeds: dict[str, int]
    diverged: tuple[str, ...]
    unfinished: tuple[str, ...]

    @property
    def mean(self) -> Summary:
        """Mean over seeds, of those that have a value."""
        return {key: fmean(v) if (v := self._values(key)) else None for key in COLUMNS}

    @property
    def std(self) -> Summary:
        """Standard deviation over seeds, with n - 1; None with fewer than two."""
        return {key: stdev(v) if len(v := self._values(key)) > 1 else None for key in COLUMNS}

    def _values(self, key: str) -> list[float]:
        return [value for run in self.runs.values() if (value := run[key]) is not None]

    def by_seed(self, key: str) -> dict[int, float]:
        """A value of each finished run that has it, by seed."""
        finished = {seed: name for name, seed in self.seeds.items() if name not in self.unfinished}
        values = ((seed, self.runs[name][key]) for seed, name in finished.items())
        return {seed: value for seed, value in values if value is not None}


@dataclass(frozen=True)
class Comparison:
    """Arms of an experiment, in alphabetical order.

    Attributes:
        experiment: Its name.
        metric: The loss that was compared.
        boxcar_steps: Window of the learning curves.
        loss_to_reach: That of `steps_to_loss`; None if no loss is finite.
        baseline: Arm that the others are compared with.
        arms: What came of them.
        superseded: How many older runs of the same names were left out.
        figure: Written learning curves; None if no loss is finite.
    """

    experiment: str
    metric: str
    boxcar_steps: int
    loss_to_reach: float | None
    baseline: str
    arms: tuple[Arm, ...]
    superseded: int
    figure: Path | None

    @property
    def differences(self) -> dict[str, dict[str, Difference]]:
        """What each arm changes in the baseline's values, paired by seed: by arm and key.

        Of finished runs.
        """
        return self._against_baseline(difference)

    @property
    def ratios(self) -> dict[str, dict[str, Difference]]:
        """How many times as large as the baseline's the values of each arm are, likewise."""
        return self._against_baseline(ratio)

    def _against_baseline(
        self, test: Callable[[Mapping[int, float], Mapping[int, float]], Difference | None]
    ) -> dict[str, dict[str, Difference]]:
        (baseline,) = (arm for arm in self.arms if arm.name == self.baseline)
        found = {
            arm.name: {
                key: change
                for key in _TESTED
                if (change := test(arm.by_seed(key), baseline.by_seed(key))) is not None
            }
            for arm in self.arms
            if arm is not baseline
        }
        return {arm: changes for arm, changes in found.items() if changes}

    @property
    def markdown(self) -> str:
        """Tables: the arms, mean +- standard deviation over seeds; and what each changes."""
        columns = {key: name for key, name in COLUMNS.items() if self._is_known(key)}
        if "steps_to_loss" in columns and self.loss_to_reach is not None:
            columns["steps_to_loss"] = f"steps to a loss of {format_digits(self.loss_to_reach)}"
        header = ["arm", "seeds", *columns.values()]
        rows = [
            [arm.name, _number_of_runs(arm), *(_cell(arm, key) for key in columns)]
            for arm in self.arms
        ]
        tables = [markdown_table(header, rows)]
        if self.differences:
            tables.append(f"Beside {self.baseline}, paired by seed:\n\n{self._changes()}")
        return "\n\n".join(tables) + "\n"

    def _is_known(self, key: str) -> bool:
        return any(arm.mean[key] is not None for arm in self.arms)

    def _changes(self) -> str:
        rows, ratios = [], self.ratios
        for arm, changes in self.differences.items():
            for key, change in changes.items():
                scale = 100 if key in PERCENT else 1
                mean, low, high = (f"{scale * v:+.3g}" for v in change[:3])
                row = [arm, COLUMNS[key], str(change.num_seeds), mean, f"{low} to {high}"]
                row.append(f"{change.p:.2g}")
                times = ratios.get(arm, {}).get(key)
                if times is not None:
                    mean, low, high = (f"{value:.3g}" for value in times[:3])
                    row += [mean, f"{low} to {high}", f"{times.p:.2g}"]
                rows.append([*row, *[""] * (len(_CHANGES) - len(row))])
        return markdown_table(_CHANGES, rows)

    @property
    def csv(self) -> str:
        """A row for each run, with the keys of `Summary`; what a run does not say is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arm", "run", "seed", "diverged", "finished", *COLUMNS])
        for arm in self.arms:
            for name, values in arm.runs.items():
                row = [arm.name, name, arm.seeds.get(name), name in arm.diverged]
                finished = name not in (*arm.diverged, *arm.unfinished)
                writer.writerow([*row, finished, *values.values()])
        return file.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; None where a value is missing."""
        return {
            "experiment": self.experiment,
            "metric": self.metric,
            "boxcar_steps": self.boxcar_steps,
            "loss_to_reach": self.loss_to_reach,
            "baseline": self.baseline,
            "superseded_runs": self.superseded,
            "arms": {
                arm.name: {
                    "runs": arm.runs,
                    "mean": arm.mean,
                    "std": arm.std,
                    "diverged": list(arm.diverged),
                    "unfinished": list(arm.unfinished),
                }
                for arm in self.arms
            },
            "differences": _plain(self.differences),
            "ratios": _plain(self.ratios),
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
    baseline: str | None = None,
    loss_to_reach: float | None = None,
) -> Comparison:
    """The arms of an experiment; writes `learning_curves.png` and `comparison.{json,md,csv}`.

    Of several runs with one name, the latest counts. Runs that diverged are counted, and have no
    final values. Unfinished ones are counted, too, with their values so far. Differences from
    the baseline and ratios to it, of finished runs, are tested by Student's t over seeds, paired;
    with many arms some are significant by chance.

    Args:
        uri: Tracking server.
        experiment: Its name.
        output: Folder to write to.
        metric: The loss to compare.
        boxcar_steps: Window of the learning curves [steps]; None is the paper's 2,500, or a
            fortieth of shorter runs.
        names: Only runs whose name or arm matches one of these patterns, like `alrc*`.
        parent: Only runs of this sweep, by its run id.
        baseline: Arm that the others are compared with; None is the first by name.
        loss_to_reach: Steps to it are told; None is the highest final loss of an arm, which all
            have reached.

    Raises:
        TrackingError: The server does not answer, or has no such experiment, runs or arm.
    """
    runs = TrackedRuns(uri, experiment, parent=parent)
    found = [curve for curve in runs.curves(metric) if _chosen(curve, names)]
    if not found:
        of_all = TrackedRuns(uri, experiment).curves(metric)
        there = dict.fromkeys(curve.name for curve in of_all)
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

    by_arm = grouped(losses, lambda curve: curve.arm)
    if baseline is None:
        baseline = next(iter(by_arm))
    elif baseline not in by_arm:
        raise TrackingError(
            expected=f"runs of the baseline {baseline!r}",
            found=", ".join(by_arm),
            where=f"experiment {experiment!r} at {uri}",
            fix="name one of those as --baseline",
        )
    others = _others(runs, metric, losses)
    if loss_to_reach is None:
        finals = [[v for c in of if (v := final_loss(c)) is not None] for of in by_arm.values()]
        loss_to_reach = max((fmean(of_arm) for of_arm in finals if of_arm), default=None)
    summaries = {c.name: summary(c, others.of(c), boxcar_steps, loss_to_reach) for c in losses}

    output.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(
        experiment,
        metric,
        boxcar_steps,
        loss_to_reach,
        baseline,
        tuple(
            Arm(
                arm,
                {c.name: summaries[c.name] for c in of},
                {c.name: c.seed for c in of if c.seed is not None},
                tuple(c.name for c in of if has_diverged(c)),
                tuple(c.name for c in of if not (c.finished or has_diverged(c))),
            )
            for arm, of in by_arm.items()
        ),
        superseded=len(found) - len(losses),
        figure=_draw(by_arm, others, output / "learning_curves.png", metric, boxcar_steps),
    )
    write_atomically(output / "comparison.json", json.dumps(comparison.to_dict(), indent=2) + "\n")
    write_atomically(output / "comparison.md", comparison.markdown)
    write_atomically(output / "comparison.csv", comparison.csv)
    return comparison


class _Others(NamedTuple):
    """Other curves of the runs, by run id; the fields are those of `Curves`."""

    rmse: dict[str, Curve]
    clip_fraction: dict[str, Curve]
    threshold: dict[str, Curve]
    largest: dict[str, Curve]

    def of(self, loss: Curve) -> Curves:
        """Those of one run."""
        return Curves(*(by_run.get(loss.run_id) for by_run in self))


def _others(runs: TrackedRuns, metric: str, losses: Sequence[Curve]) -> _Others:
    run_ids = [curve.run_id for curve in losses]
    kinds = ("_clip_fraction", "_threshold", "_largest_loss")
    metrics = ("validation/rmse", *(metric.replace("_loss", kind) for kind in kinds))
    return _Others(*({c.run_id: c for c in runs.curves(name, run_ids=run_ids)} for name in metrics))


def _chosen(curve: Curve, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(
        fnmatchcase(name, pattern) for name in (curve.name, curve.arm) for pattern in patterns
    )


def _latest(curves: Sequence[Curve]) -> list[Curve]:
    """The newest curve of each run name, in the order of `curves`."""
    newest = {c.name: c for c in sorted(curves, key=lambda curve: curve.started_ms)}
    return [curve for curve in curves if newest[curve.name] is curve]


def _draw(
    arms: Mapping[str, Sequence[Curve]],
    others: _Others,
    path: Path,
    metric: str,
    boxcar_steps: int,
) -> Path | None:
    """Loss, validation error, threshold and clipped fraction, as far as they are recorded."""

    def of(curves: Mapping[str, Curve]) -> dict[str, list[LearningCurve]]:
        return {
            arm: [
                LearningCurve(found.steps, found.values)
                for run in runs
                if (found := curves.get(run.run_id)) is not None
            ]
            for arm, runs in arms.items()
        }

    losses = of({curve.run_id: curve for runs in arms.values() for curve in runs})
    if not any(np.isfinite(c.values).any() for of_arm in losses.values() for c in of_arm):
        return None
    ylabel = metric.removeprefix("train/").replace("_", " ").capitalize()
    panels = [
        Panel(losses, ylabel, boxcar_steps),
        Panel(of(others.rmse), "Validation RMSE"),
        Panel(of(others.threshold), "Threshold", boxcar_steps),
        Panel(of(others.clip_fraction), "Fraction clipped", boxcar_steps, log=False),
    ]
    save_png(curves_figure(panels), path)
    return path


def _plain(changes: dict[str, dict[str, Difference]]) -> dict[str, Any]:
    return {
        arm: {key: change._asdict() for key, change in of_arm.items()}
        for arm, of_arm in changes.items()
    }


def _number_of_runs(arm: Arm) -> str:
    of_kind = {"diverged": arm.diverged, "unfinished": arm.unfinished}
    told = [f"{len(names)} {kind}" for kind, names in of_kind.items() if names]
    return ", ".join([str(len(arm.runs)), *told])


def _cell(arm: Arm, key: str) -> str:
    mean, std = arm.mean[key], arm.std[key]
    if mean is None:
        return ""
    if key == "steps":
        return f"{mean:,.0f}" + (f" +- {std:,.0f}" if std else "")
    scale = 100 if key in PERCENT else 1
    return f"{scale * mean:.3g}" + ("" if std is None else f" +- {scale * std:.2g}")
