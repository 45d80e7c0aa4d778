"""Stable and unstably high learning rates, with ALRC and without (the ALRC repository).

    stem-complete train supersampling unstable_rates data.store=cifar-10-python.tar.gz storage=runs
    unstable_rates="python -m stem_complete.experiments.unstable_rates"
    $unstable_rates --uri sqlite:///$PWD/runs/mlflow.db --output report

What the repository shows is learning curves at batch size 1, of Adam at 1e-4 and 2e-3 and of SGD at
1e-4 and 3e-3, with losses clipped at n = 2 or not at all, and the claim that ALRC prevents loss
spikes where the rate is unstably high and has little effect elsewhere. It gives no numbers. What is
told here is the mean of the training losses of the last 5,000 steps, or of the last half of shorter
runs, over the seeds that did not diverge, times 100, and how many did, see
`experiments.supersampling_runs`. The report has the table, the differences that ALRC makes, paired
by seed, learning curves and a CSV file with a row for each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from stem_complete.console import errors_in_one_line
from stem_complete.evaluation import grouped, markdown_table
from stem_complete.experiments.supersampling_runs import (
    ERRORS,
    Run,
    arm_of,
    mean_of,
    of_each_recipe,
    report_command,
)

CONFIG = "unstable_rates"
POLICIES = {
    "adam-1e-4": "stable",
    "adam-2e-3": "unstably high",
    "sgd-1e-4": "stable",
    "sgd-3e-3": "unstably high",
}
THRESHOLDS = ("none", "2")


def table(runs: Sequence[Run]) -> str:
    """Final losses and largest spikes of each optimizer and rate, with ALRC and without."""
    return of_each_recipe(runs, _table)


def _table(runs: Sequence[Run]) -> str:
    of_arm = grouped(runs, lambda run: arm_of(run)[1:])
    rows = []
    for policy, stability in POLICIES.items():
        for error in ERRORS:
            row = [policy, stability, error]
            for threshold in THRESHOLDS:
                of = of_arm.get((policy, error, threshold, 1), ())
                row += [mean_of(of), _spikes(of)]
            rows.append(row)
    return markdown_table(
        ["policy", "rate", "errors", "no clipping", "largest", "n = 2", "largest"], rows
    )


def _spikes(runs: Sequence[Run]) -> str:
    """The largest mean loss of a log interval after the first tenth of the steps, in final ones."""
    largest = [run.largest for run in runs if not run.diverged]
    return f"{median(largest):.3g}" if largest else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    report_command(__doc__, "unstable-rates", CONFIG, table, arguments)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
