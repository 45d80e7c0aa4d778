"""Table I of the ALRC paper, beside what was found here.

    stem-complete train supersampling table_1 data.store=cifar-10-python.tar.gz storage=runs
    python -m stem_complete.experiments.table_1 --uri sqlite:///$PWD/runs/mlflow.db --output report

Networks learn to restore CIFAR-10's images that were halved in size, with squared or quartic
errors, and with losses clipped by ALRC to n standard deviations above their running mean. What is
told is the mean of the training losses of the last twentieth of the steps (of the paper's 100,000
the last 5,000), over the seeds, times 100. Runs are read from MLflow, their arms from their names:
`quartic-3-batch-4`, or `quartic-none` for batch size 1. The report has the table, the differences
that ALRC makes, each paired by seed, learning curves and a CSV file with a row for each run.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from stem_complete.console import errors_in_one_line, say
from stem_complete.errors import TrackingError
from stem_complete.evaluation import (
    LearningCurve,
    grouped,
    learning_curves_figure,
    markdown_table,
    save_png,
)
from stem_complete.experiments.paired import difference
from stem_complete.files import write_atomically
from stem_complete.tracking import Curve, list_curves

METRIC = "train/image_loss"
WEIGHT = 25
"""`loss.weight` of the config `supersampling`; the paper's losses are without it."""

FINAL_FRACTION = 0.05
BOXCAR_STEPS = 500

ERRORS = ("squared", "quartic")
THRESHOLDS = ("2", "3", "4", "none")
BATCHES = (1, 4, 16, 64)

# Means and standard deviations over ten runs, times 100; n = 2 was not run at batch size 64.
PUBLISHED: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "squared": {
        "2": ((5.55, 0.048), (4.96, 0.016), (4.58, 0.010)),
        "3": ((5.52, 0.054), (4.96, 0.029), (4.58, 0.004), (3.90, 0.013)),
        "4": ((5.56, 0.048), (4.97, 0.017), (4.58, 0.007), (3.89, 0.016)),
        "none": ((5.55, 0.041), (4.98, 0.017), (4.59, 0.006), (3.89, 0.014)),
    },
    "quartic": {
        "2": ((3.54, 0.084), (3.02, 0.023), (2.60, 0.012), (1.65, 0.011)),
        "3": ((3.59, 0.055), (3.08, 0.024), (2.61, 0.014), (1.58, 0.016)),
        "4": ((3.61, 0.054), (3.13, 0.023), (2.64, 0.016), (1.57, 0.016)),
        "none": ((3.88, 0.108), (3.32, 0.037), (2.74, 0.020), (1.61, 0.008)),
    },
}

_ARM = re.compile(r"(squared|quartic)-(2|3|4|none)(?:-batch-(\d+))?")


class Run(NamedTuple):
    """A trained network.

    Attributes:
        error: `squared` or `quartic`.
        threshold: Standard deviations above the mean, or `none`.
        batch: Batch size.
        seed: Its seed.
        steps: How many it was trained for.
        final: Mean of the last losses, without their weight.
        largest: Largest loss after the first tenth of the steps, in units of `final`.
        curve: All losses, without their weight.
    """

    error: str
    threshold: str
    batch: int
    seed: int
    steps: int
    final: float
    largest: float
    curve: LearningCurve


Arm = tuple[str, str, int]
"""Error, threshold and batch size."""


def runs_of(curves: Sequence[Curve]) -> list[Run]:
    """The runs of the table among `curves`, each trained to the end; others are left out."""
    longest = max((int(curve.steps[-1]) for curve in curves), default=0)
    found = []
    for curve in curves:
        match = _ARM.fullmatch(curve.arm)
        if match is None or curve.seed is None or int(curve.steps[-1]) < longest:
            continue
        losses = curve.values / WEIGHT
        final = float(np.nanmean(losses[curve.steps > (1 - FINAL_FRACTION) * longest]))
        largest = float(np.nanmax(losses[curve.steps > longest / 10])) / final
        error, threshold, batch = match.groups()
        kept = LearningCurve(curve.steps, losses)
        found.append(
            Run(error, threshold, int(batch or 1), curve.seed, longest, final, largest, kept)
        )
    return found


def table(runs: Sequence[Run]) -> str:
    """Table I with the published numbers beside: mean and standard deviation, times 100."""
    of_arm = grouped(runs, lambda run: (run.error, run.threshold, run.batch))
    batches = [batch for batch in BATCHES if any(run.batch == batch for run in runs)]
    header = ["errors", "n"]
    for batch in batches:
        header += [f"batch {batch}: here", "published"]
    rows = []
    for error in ERRORS:
        for threshold in THRESHOLDS:
            row = [error, threshold]
            for batch in batches:
                row.append(_mean([run.final for run in of_arm.get((error, threshold, batch), [])]))
                place, published = BATCHES.index(batch), PUBLISHED[error][threshold]
                row.append(
                    "{:.2f} ± {:.3f}".format(*published[place]) if place < len(published) else ""
                )
            rows.append(row)
    return markdown_table(header, rows)


def _mean(finals: Sequence[float]) -> str:
    if not finals:
        return ""
    spread = f" ± {100 * stdev(finals):.3f}" if len(finals) > 1 else ""
    return f"{100 * fmean(finals):.2f}{spread} ({len(finals)})"


def effects(runs: Sequence[Run]) -> str:
    """What clipping changes, paired by seed: loss with ALRC less loss without, times 100."""
    by_arm = grouped(runs, lambda run: (run.error, run.threshold, run.batch))
    finals = {arm: {run.seed: 100 * run.final for run in of} for arm, of in by_arm.items()}
    rows = []
    for arm in sorted(finals, key=lambda arm: (ERRORS.index(arm[0]), arm[2], arm[1])):
        error, threshold, batch = arm
        without = finals.get((error, "none", batch), {})
        if threshold == "none" or (found := difference(finals[arm], without)) is None:
            continue
        rows.append(
            [
                *(error, str(batch), threshold, str(found.num_seeds)),
                f"{found.mean:+.3f}",
                f"{found.low:+.3f} to {found.high:+.3f}",
                f"{100 * found.mean / fmean(without.values()):+.1f} %",
                f"{found.p:.2g}",
            ]
        )
    header = ["errors", "batch", "n", "seeds", "difference", "95 % interval", "relative", "p"]
    return markdown_table(header, rows)


def as_csv(runs: Sequence[Run]) -> str:
    """A row for each run."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [name for name in Run._fields if name != "curve"]
    writer.writerow(columns)
    for run in sorted(runs, key=lambda run: run[:4]):
        writer.writerow([getattr(run, name) for name in columns])
    return file.getvalue()


def report(uri: str, experiment: str, output: Path) -> str:
    """Writes `table.md`, `runs.csv` and learning curves, and returns the tables.

    Raises:
        TrackingError: There are no such runs.
    """
    runs = runs_of(list_curves(uri, experiment, METRIC))
    if not runs:
        raise TrackingError(
            expected="finished runs with names like quartic-3-seed0",
            found="none",
            where=f"experiment {experiment!r} at {uri}",
            fix="train some with `stem-complete train supersampling table_1`",
        )
    output.mkdir(parents=True, exist_ok=True)
    tables = f"{table(runs)}\n\n{effects(runs)}\n"
    write_atomically(output / "table.md", tables)
    write_atomically(output / "runs.csv", as_csv(runs))
    for (error, batch), of in grouped(runs, lambda run: (run.error, run.batch)).items():
        curves = {
            "no clipping" if threshold == "none" else f"n = {threshold}": [
                run.curve for run in each
            ]
            for threshold, each in grouped(of, lambda run: run.threshold).items()
        }
        figure = learning_curves_figure(
            curves, boxcar_steps=BOXCAR_STEPS, ylabel=f"{error.capitalize()} error"
        )
        save_png(figure, output / f"{error}-batch-{batch}.png")
    return tables


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uri", required=True, help="tracking server")
    parser.add_argument("--experiment", default="table-1", help="MLflow experiment")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    options = parser.parse_args(arguments)
    print(report(options.uri, options.experiment, options.output))
    say(f"report  {options.output}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
