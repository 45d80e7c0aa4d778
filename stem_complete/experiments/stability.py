"""Network stability (experiments A to D): the text's claims beside what was found.

    for experiment in whole a b c d; do
        stem-complete train classification stability_$experiment data.store=cifar-10-python.tar.gz
    done
    stability="python -m stem_complete.experiments.stability"
    $stability --uri sqlite:///$PWD/runs/mlflow.db --output report

The text (S., "Proposing a new effect of learning rate decay: network stability", 2020) decays or
freezes single blocks of ResNet-18 on CIFAR-10, and reads its claims off curves. Here each is a
comparison of arms with an interval, see `stability_claims`.

Accuracies and losses are means over the last tenth of the run, on the test images that all arms
have seen. How much they vary between validations is their deviation from a straight line in the
last quarter of the run.

The report has the claims, the arms, the training and validation curves of each experiment, and a
CSV file with a row for each run.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from stem_complete.console import errors_in_one_line, say
from stem_complete.errors import TrackingError
from stem_complete.evaluation import (
    LearningCurve,
    Panel,
    curves_figure,
    markdown_table,
    save_png,
)
from stem_complete.experiments.stability_claims import (
    BASELINE,
    BLOCKS,
    CLAIMS,
    OUTPOST,
    Arms,
    Run,
    pooled_deviation,
    verdict,
)
from stem_complete.files import write_atomically
from stem_complete.tracking import Curve, TrackedRuns

CURVES = {
    "train/zero_one_loss": "Training error",
    "train/cross_entropy_loss": "Training loss",
    "validation/zero_one": "Test error",
    "validation/cross_entropy": "Test loss",
    "validation/beyond_five": "Top-5 test error",
}
"""What is drawn, one below the other."""

FINAL_FRACTION = 0.1
SETTLED_FRACTION = 0.25
"""End of the run in which validations are compared with one another: all stages have begun."""

DECAYED, FROZEN = 0.375, 0.5625
"""Where rates first decay, and where C freezes: epochs 60 and 90 of 160."""


def arms_of(curves: Mapping[str, Sequence[Curve]]) -> Arms:
    """The runs that have all curves and a seed; of several of one arm and seed the newest.

    Args:
        curves: By metric, the keys of `CURVES`; unfinished runs, and those that ended before the
            longest, are left out.
    """
    by_run = [{curve.run_id: curve for curve in of_all} for of_all in curves.values()]
    wrong = by_run[list(CURVES).index("validation/zero_one")]
    longest = max((int(curve.steps[-1]) for curve in wrong.values() if curve.finished), default=0)
    found: dict[str, dict[int, Run]] = {}
    for run_id, curve in sorted(wrong.items(), key=lambda item: item[1].started_ms):
        if curve.seed is None or not curve.finished or curve.steps[-1] < longest:
            continue
        if all(run_id in of_metric for of_metric in by_run):
            run = _run(longest, *(of_metric[run_id] for of_metric in by_run))
            found.setdefault(curve.arm, {})[curve.seed] = run
    return found


def _run(
    longest: int, train: Curve, train_loss: Curve, wrong: Curve, loss: Curve, beyond_five: Curve
) -> Run:
    calm = (FROZEN if wrong.arm.startswith("c-") else DECAYED) * longest

    def at_first(curve: Curve) -> float:
        after = (curve.steps > calm) & (curve.steps <= calm + FINAL_FRACTION * longest)
        return float(curve.values[after].mean()) if after.any() else math.nan

    def at_last(curve: Curve) -> float:
        return float(curve.values[curve.steps > (1 - FINAL_FRACTION) * longest].mean())

    deviation, degrees = _deviation(wrong, longest)
    return Run(
        train=1 - at_last(train),
        train_loss=at_last(train_loss),
        test=1 - at_last(wrong),
        top_5=1 - at_last(beyond_five),
        loss=at_last(loss),
        first_test=1 - at_first(wrong),
        first_loss=at_first(loss),
        gain=at_first(wrong) - at_last(wrong),
        fall=at_last(beyond_five) - at_first(beyond_five),
        rise=at_last(loss) - at_first(loss),
        deviation=deviation,
        loss_deviation=_deviation(loss, longest)[0],
        degrees=degrees,
    )


def _deviation(curve: Curve, longest: int) -> tuple[float, int]:
    """From a straight line, as accuracies that still rise would deviate from their mean."""
    settled = curve.steps > (1 - SETTLED_FRACTION) * longest
    degrees = int(settled.sum()) - 2
    if degrees < 1:
        return math.nan, 0
    steps, values = curve.steps[settled] / longest, curve.values[settled]
    rest = values - np.polyval(np.polyfit(steps, values, 1), steps)
    return max(float(np.square(rest).sum() / degrees) ** 0.5, 1e-6), degrees


def claims_table(arms: Arms) -> str:
    """Every claim, whether it is reproduced, and by which differences."""
    header = ["experiment", "the text", "here", "differences, with 95 % intervals"]
    rows = [[claim.experiment, claim.text, *verdict(claim, arms)] for claim in CLAIMS]
    return markdown_table(header, rows)


def arms_table(arms: Arms) -> str:
    """Accuracies and losses of every arm, means over its seeds."""
    header = ["arm", "seeds", "training [%]", "test [%]", "top 5 [%]", "deviation [%]"]
    header += ["training loss", "test loss", "its rise"]
    rows = [
        [
            name,
            str(len(runs)),
            *(f"{100 * _mean(runs, of):.2f}" for of in ("train", "test", "top_5")),
            f"{100 * pooled_deviation(runs.values())[0]:.2f}",
            *(f"{_mean(runs, of):.3f}" for of in ("train_loss", "loss", "rise")),
        ]
        for name, runs in arms.items()
    ]
    return markdown_table(header, rows)


def _mean(runs: Mapping[int, Run], of: str) -> float:
    return fmean(getattr(run, of) for run in runs.values())


def as_csv(arms: Arms) -> str:
    """A row for each run."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "seed", *Run._fields])
    for name, runs in arms.items():
        for seed, run in sorted(runs.items()):
            writer.writerow([name, seed, *(f"{value:.6g}" for value in run)])
    return file.getvalue()


def report(uri: str, experiment: str, output: Path) -> str:
    """Writes `report.md`, `runs.csv` and a figure for each experiment, and returns the tables.

    Raises:
        TrackingError: There are no such runs.
    """
    runs = TrackedRuns(uri, experiment)
    curves = {metric: runs.curves(metric) for metric in CURVES}
    arms = arms_of(curves)
    if not arms:
        raise TrackingError(
            expected="finished runs of the configs stability_whole and stability_a to stability_d",
            found="none",
            where=f"experiment {experiment!r} at {uri}",
            fix="train some with `stem-complete train classification stability_whole`",
        )
    output.mkdir(parents=True, exist_ok=True)
    tables = f"{claims_table(arms)}\n\n{arms_table(arms)}\n"
    write_atomically(output / "report.md", tables)
    write_atomically(output / "runs.csv", as_csv(arms))
    for name in "abcd":
        shown = [
            arm for arm in (BASELINE, OUTPOST, *(f"{name}-{b}" for b in BLOCKS)) if arm in arms
        ]
        if not any(arm.startswith(f"{name}-") for arm in shown):
            continue
        panels = [
            Panel(
                {
                    arm: [LearningCurve(c.steps, c.values) for c in curves[metric] if c.arm == arm]
                    for arm in shown
                },
                ylabel,
            )
            for metric, ylabel in CURVES.items()
        ]
        save_png(curves_figure(panels), output / f"{name}.png")
    return tables


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uri", required=True, help="tracking server")
    parser.add_argument("--experiment", default="stability", help="MLflow experiment")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    options = parser.parse_args(arguments)
    print(report(options.uri, options.experiment, options.output))
    say(f"report  {options.output}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
