"""Runs of the supersampling task side by side, by the names of their arms in MLflow.

An arm is called `[<optimizer>-<rate>-]<errors>-<n>[-batch-<size>]`, as in `quartic-none` or
`sgd-3e-3-squared-2`; its recipe and batch size are those that it was trained with. A run's final
loss is the mean over its last 5,000 steps, as in the ALRC paper, or over the last half of a shorter
run. One that diverged has none: it ended with losses that were not finite, or with a final loss
above 1, worse than an image without anything in it. Means and differences are of those that did
not, and the others are counted beside them.

A report keeps its runs in CSV files, so that runs that were trained elsewhere, or later, can be
added to it.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import say
from stem_complete.errors import DataError, TrackingError, system_error_in_one_line
from stem_complete.evaluation import (
    LearningCurve,
    grouped,
    learning_curves_figure,
    markdown_table,
    save_png,
)
from stem_complete.experiments.paired import difference
from stem_complete.experiments.run_summary import has_diverged
from stem_complete.files import write_atomically
from stem_complete.tracking import Curve, TrackedRuns

METRIC, CLIPPED = "train/image_loss", "train/image_clip_fraction"
WEIGHT = 25
"""`loss.weight` of the config `supersampling`; the paper's losses are without it."""

FINAL_STEPS = 5000
EXPLODED = 1.0
"""Standardised images have squares, and at least fourth powers, of this mean."""
BOXCAR_STEPS = 500

ERRORS = ("squared", "quartic")
THRESHOLDS = ("2", "3", "4", "none")

RUNS_FILE, CURVES_FILE = "runs.csv", "curves.csv"
_KEY = ("recipe", "policy", "error", "threshold", "batch", "seed")

_ARM = re.compile(r"(?:((?:adam|sgd)-\d+e-\d+)-)?(squared|quartic)-(2|3|4|none)(?:-batch-(\d+))?")


class Run(NamedTuple):
    """A trained network.

    Attributes:
        recipe: `paper`, or `reference-code` of what the published code does.
        policy: Optimizer and rate, such as `sgd-3e-3`; "" is the paper's, Adam at 1/1280.
        error: `squared` or `quartic`.
        threshold: Standard deviations above the mean, or `none`.
        batch: Batch size.
        seed: Its seed.
        steps: How many it was trained for.
        diverged: Whether it did.
        final: Mean of the last losses, without their weight; NaN if none was finite.
        largest: Largest loss after the first tenth of the steps, in units of `final`.
        clipped: Fraction of the last losses that ALRC clipped; NaN if that was not recorded.
        curve: All losses, without their weight.
    """

    recipe: str
    policy: str
    error: str
    threshold: str
    batch: int
    seed: int
    steps: int
    diverged: bool
    final: float
    largest: float
    clipped: float
    curve: LearningCurve

    @property
    def key(self) -> tuple[str, str, str, str, int, int]:
        """What no two runs of a report share: the arm and the seed."""
        return self[:6]


Arm = tuple[str, str, str, str, int]
"""Recipe, policy, error, threshold and batch size."""


def arm_of(run: Run) -> Arm:
    """What runs of several seeds share."""
    return run[:5]


def runs_of(curves: Sequence[Curve], clipped: Sequence[Curve] = ()) -> list[Run]:
    """The runs among `curves` that are named as above and finished or diverged.

    Those of one recipe and batch size are as long as the longest of them. Of several with one name
    the latest counts.

    Args:
        curves: Losses.
        clipped: Fractions of them that ALRC clipped, of any of the runs.
    """
    fractions = {curve.run_id: curve for curve in clipped}
    by_arm = [
        (arm, curve)
        for curve in sorted(curves, key=lambda curve: curve.started_ms)
        if curve.seed is not None
        and (curve.finished or has_diverged(curve))
        and (arm := _arm(curve)) is not None
    ]
    lengths = {
        alike: max(int(curve.steps[-1]) for _, curve in each)
        for alike, each in grouped(by_arm, lambda each: (each[0][0], each[0][4])).items()
    }
    found = {}
    for arm, curve in by_arm:
        ended = int(curve.steps[-1]) == lengths[arm[0], arm[4]]
        if ended or has_diverged(curve):
            losses = LearningCurve(curve.steps, curve.values / WEIGHT)
            of_run = fractions.get(curve.run_id)
            last = np.array([np.nan]) if of_run is None else of_run.values[_last(of_run.steps)]
            found[*arm, curve.seed] = _run(arm, curve.seed or 0, losses, float(last.mean()))
    return list(found.values())


def _arm(curve: Curve) -> Arm | None:
    """By the name of an arm and the settings that it was trained with; None if it is another."""
    if (match := _ARM.fullmatch(curve.arm)) is None:
        return None
    policy, error, threshold, batch = match.groups()
    settings = curve.settings
    size = int(settings.get("training.batch_size", batch or 1))
    return (settings.get("recipe", "paper"), policy or "", error, threshold, size)


def _last(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    last_step = int(steps[-1])
    is_last: NDArray[np.bool_] = steps > last_step - min(FINAL_STEPS, last_step // 2)
    return is_last


def _run(arm: Arm, seed: int, curve: LearningCurve, clipped: float) -> Run:
    """A run by its losses, which are without their weight."""
    steps, losses = curve
    last_step = int(steps[-1])
    final = float(np.mean(losses[_last(steps)])) if np.isfinite(losses[-1]) else np.nan
    later = losses[(steps > last_step / 10) & np.isfinite(losses)]
    largest = float(later.max()) / final if len(later) else np.nan
    return Run(*arm, seed, last_step, not final <= EXPLODED, final, largest, clipped, curve)


def of_each_recipe(
    runs: Sequence[Run], table: Callable[[Sequence[Run]], str], published: str = ""
) -> str:
    """A table of the runs of each recipe, below how long they are, and how long the published."""
    tables = []
    for recipe, of in grouped(runs, lambda run: run.recipe).items():
        by_batch = grouped(sorted(of, key=lambda run: run.batch), lambda run: run.batch)
        steps = ", ".join(
            f"{max(run.steps for run in each):,} steps at batch {batch}"
            for batch, each in by_batch.items()
        )
        tables.append(f"Recipe {recipe}: {steps}, seeds in brackets{published}.\n\n{table(of)}")
    return "\n\n".join(tables)


def mean_of(runs: Sequence[Run]) -> str:
    """Mean and standard deviation of the final losses, times 100, and how many runs they are of."""
    if not runs:
        return ""
    finals = [100 * run.final for run in runs if not run.diverged]
    told = []
    if finals:
        spread = f" ± {stdev(finals):.3f}" if len(finals) > 1 else ""
        told.append(f"{fmean(finals):.2f}{spread} ({len(finals)})")
    if len(finals) < len(runs):
        told.append(f"{len(runs) - len(finals)} of {len(runs)} diverged")
    return ", ".join(told)


def effects(runs: Sequence[Run]) -> str:
    """What clipping changes, paired by seed: loss with ALRC less loss without, times 100."""
    by_arm = grouped(runs, arm_of)
    rows = []
    for arm in sorted(by_arm, key=lambda arm: (*arm[:2], ERRORS.index(arm[2]), arm[4], arm[3])):
        recipe, policy, error, threshold, batch = arm
        with_, without = (
            _finals(by_arm.get((*arm[:3], n, batch), ())) for n in (threshold, "none")
        )
        if threshold == "none" or (found := difference(with_, without)) is None:
            continue
        rows.append(
            [
                *(recipe, policy or "adam-1/1280", error, str(batch), threshold),
                str(found.num_seeds),
                f"{found.mean:+.3f}",
                f"{found.low:+.3f} to {found.high:+.3f}",
                f"{100 * found.mean / fmean(without.values()):+.1f} %",
                f"{found.p:.2g}",
            ]
        )
    header = ["recipe", "policy", "errors", "batch", "n", "seeds", "difference"]
    return markdown_table([*header, "95 % interval", "relative", "p"], rows)


def _finals(runs: Sequence[Run]) -> Mapping[int, float]:
    return {run.seed: 100 * run.final for run in runs if not run.diverged}


def as_csv(runs: Sequence[Run]) -> str:
    """A row for each run."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [name for name in Run._fields if name != "curve"]
    writer.writerow(columns)
    for run in sorted(runs, key=lambda run: run.key):
        writer.writerow([getattr(run, name) for name in columns])
    return file.getvalue()


def curves_as_csv(runs: Sequence[Run]) -> str:
    """A row for each point of each run."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_KEY, "step", "loss"])
    for run in sorted(runs, key=lambda run: run.key):
        for step, loss in zip(*run.curve, strict=True):
            writer.writerow([*run.key, step, f"{loss:.5g}"])
    return file.getvalue()


def kept_runs(report: Path) -> list[Run]:
    """The runs of the report in a folder.

    Raises:
        DataError: There is none.
    """
    try:
        runs = list(csv.DictReader((report / RUNS_FILE).read_text().splitlines()))
        points = list(csv.DictReader((report / CURVES_FILE).read_text().splitlines()))
    except OSError as error:
        raise DataError(
            expected=f"a report with {RUNS_FILE} and {CURVES_FILE}",
            found=system_error_in_one_line(error),
            where=report,
            fix="name the folder that --output was given",
        ) from error
    of_run = grouped(points, lambda point: tuple(point[name] for name in _KEY))
    return [
        _run(
            (row["recipe"], row["policy"], row["error"], row["threshold"], int(row["batch"])),
            int(row["seed"]),
            LearningCurve(
                np.array([int(point["step"]) for point in own]),
                np.array([float(point["loss"]) for point in own]),
            ),
            float(row["clipped"]),
        )
        for row in runs
        for own in [of_run[tuple(row[name] for name in _KEY)]]
    ]


def all_runs(uri: str | None, experiment: str, config: str, kept: Path | None) -> list[Run]:
    """The runs of an experiment, and those of an earlier report that it does not have.

    Args:
        uri: Tracking server; None takes the report's alone.
        experiment: Its name there.
        config: That makes them, on top of `supersampling`.
        kept: Folder of the report; None: none.

    Raises:
        TrackingError: There are none that ended.
        DataError: There is no such report.
    """
    runs = {run.key: run for run in (kept_runs(kept) if kept else ())}
    if uri is not None:
        tracked = TrackedRuns(uri, experiment)
        found = runs_of(tracked.curves(METRIC), tracked.curves(CLIPPED))
        runs |= {run.key: run for run in found}
    if not runs:
        raise TrackingError(
            expected=f"finished runs named as in the config {config}",
            found="none",
            where=f"experiment {experiment!r} at {uri}",
            fix=f"train some with `stem-complete train supersampling {config}`",
        )
    return list(runs.values())


def write_report(runs: Sequence[Run], tables: str, output: Path) -> str:
    """Writes the tables, the runs and their curves, and pictures of these; returns the tables."""
    output.mkdir(parents=True, exist_ok=True)
    written = f"{tables}\n\n{effects(runs)}\n"
    write_atomically(output / "table.md", written)
    write_atomically(output / RUNS_FILE, as_csv(runs))
    write_atomically(output / CURVES_FILE, curves_as_csv(runs))
    several = len({run.recipe for run in runs}) > 1
    for (recipe, policy, error, batch), of in grouped(
        runs, lambda run: (run.recipe if several else "", run.policy, run.error, run.batch)
    ).items():
        curves = {
            "no clipping" if threshold == "none" else f"n = {threshold}": [
                run.curve for run in each
            ]
            for threshold, each in grouped(
                sorted(of, key=lambda run: THRESHOLDS.index(run.threshold)),
                lambda run: run.threshold,
            ).items()
        }
        if not any(
            np.isfinite(curve.values).any() for of_arm in curves.values() for curve in of_arm
        ):
            continue
        figure = learning_curves_figure(
            curves, boxcar_steps=BOXCAR_STEPS, ylabel=f"{error.capitalize()} error"
        )
        name = "-".join(filter(None, (recipe, policy, error, f"batch-{batch}")))
        save_png(figure, output / f"{name}.png")
    return written


def report_command(
    usage: str,
    experiment: str,
    config: str,
    table: Callable[[Sequence[Run]], str],
    arguments: Sequence[str] | None,
) -> None:
    """Command line of a report.

    Args:
        usage: What `--help` says.
        experiment: MLflow experiment, unless another one is named.
        config: That makes the runs, on top of `supersampling`.
        table: Makes the table of the runs.
        arguments: None takes those of the process.
    """
    parser = argparse.ArgumentParser(
        description=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uri", help="tracking server; without one the runs are those of --kept")
    parser.add_argument("--experiment", default=experiment, help="MLflow experiment")
    parser.add_argument("--kept", type=Path, help="folder of a report whose runs are added")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    options = parser.parse_args(arguments)
    if options.uri is None and options.kept is None:
        parser.error("expected --uri or --kept, or both; found none")
    runs = all_runs(options.uri, options.experiment, config, options.kept)
    print(write_report(runs, table(runs), options.output))
    say(f"report  {options.output}")
