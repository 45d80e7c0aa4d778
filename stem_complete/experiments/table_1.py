"""Table I of the ALRC paper, beside what was found here.

    stem-complete train supersampling table_1 data.store=cifar-10-python.tar.gz storage=runs
    python -m stem_complete.experiments.table_1 --uri sqlite:///$PWD/runs/mlflow.db --output report

Networks learn to restore CIFAR-10's images that were halved in size, with squared or quartic
errors, and with losses clipped by ALRC to n standard deviations above their running mean. What is
told is the mean of the training losses of the last 5,000 steps, or of the last half of shorter
runs, over the seeds, times 100, and how many runs diverged. Runs are read from MLflow, see
`experiments.supersampling_runs`.
The report has the table, the differences that ALRC makes, each paired by seed, learning curves and
a CSV file with a row for each run.
"""

from __future__ import annotations

from collections.abc import Sequence

from stem_complete.console import errors_in_one_line
from stem_complete.evaluation import grouped, markdown_table
from stem_complete.experiments.supersampling_runs import (
    ERRORS,
    THRESHOLDS,
    Run,
    arm_of,
    mean_of,
    of_each_recipe,
    report_command,
)

CONFIG = "table_1"
BATCHES = (1, 4, 16, 64)

# Means and standard deviations, times 100; n = 2 was not run with squared errors at batch size 64.
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


def table(runs: Sequence[Run]) -> str:
    """Table I of each recipe, with the published numbers beside: mean and deviation, times 100."""
    return of_each_recipe(runs, _table, "; published: 100,000 steps, 10 seeds")


def _table(runs: Sequence[Run]) -> str:
    of_arm = grouped(runs, lambda run: arm_of(run)[1:])
    batches = [batch for batch in BATCHES if any(run.batch == batch for run in runs)]
    header = ["errors", "n"]
    for batch in batches:
        header += [f"batch {batch}: here", "published"]
    rows = []
    for error in ERRORS:
        for threshold in THRESHOLDS:
            row = [error, threshold]
            for batch in batches:
                row.append(mean_of(of_arm.get(("", error, threshold, batch), ())))
                place, published = BATCHES.index(batch), PUBLISHED[error][threshold]
                row.append(
                    "{:.2f} ± {:.3f}".format(*published[place]) if place < len(published) else ""
                )
            rows.append(row)
    return markdown_table(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    report_command(__doc__, "table-1", CONFIG, table, arguments)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
