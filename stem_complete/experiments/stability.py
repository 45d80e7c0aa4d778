"""Network stability (experiments A to D): the text's claims beside what was found.

    for experiment in a b c d; do
        stem-complete train classification stability_$experiment data.store=cifar-10-python.tar.gz
    done
    stability="python -m stem_complete.experiments.stability"
    $stability --uri sqlite:///$PWD/runs/mlflow.db --output report --images 10000

The text (S., "Proposing a new effect of learning rate decay: network stability", 2020) decays or
freezes single blocks of ResNet-18 on CIFAR-10, and reads its claims off curves. Here each is a
comparison of arms, with a 95 % interval: of accuracies from the number of test images, and from the
seeds where there are several; of losses from the seeds alone; of how much the accuracy varies from
one validation to the next from the number of validations. One that holds for several blocks is
reproduced if it is significant for all, and not reproduced if its opposite is for any.

Accuracies and losses are means over the last tenth of the run. The report has the claims, the arms,
the training and validation curves of each experiment, and a CSV file with a row for each arm.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from stem_complete.console import errors_in_one_line, say
from stem_complete.errors import TrackingError
from stem_complete.evaluation import (
    LearningCurve,
    Panel,
    curves_figure,
    grouped,
    markdown_table,
    save_png,
)
from stem_complete.files import write_atomically
from stem_complete.tracking import Curve, TrackedRuns

BLOCKS = ("64", "128", "256", "512")
BASELINE, OUTPOST = "baseline", "outpost"
CURVES = {
    "train/zero_one_loss": "Training error",
    "validation/zero_one": "Test error",
    "validation/cross_entropy": "Test loss",
    "validation/beyond_five": "Top-5 test error",
}
"""What is drawn, one below the other."""

FINAL_FRACTION = 0.1
SETTLED_FRACTION = 0.25
"""End of the run in which validations are compared with one another: all stages have begun."""

SIGMAS = 1.96
NO_GAIN = 0.01
"""A gain in accuracy below it is none, where the text claims that there is none."""


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


class Arm(NamedTuple):
    """What came of an arm, over its seeds.

    Attributes:
        train: Accuracy on the training images, augmented.
        test: Accuracy on the test images.
        top_5: Share of the test images whose class is among five guesses.
        spread: Logarithm of the accuracy's standard deviation between validations.
        loss: Test loss.
        rise: Of the test loss from its lowest to its last value.
    """

    train: Estimate
    test: Estimate
    top_5: Estimate
    spread: Estimate
    loss: Estimate
    rise: Estimate


class Claim(NamedTuple):
    """What the text says of two arms, or of several pairs of them.

    Attributes:
        experiment: A to D.
        text: What it says.
        of: The attribute of `Arm`, which is larger in the first arm of each pair; or is not, if
            `no_gain`.
        pairs: Of arms.
        no_gain: Whether the claim is that the first arm of a pair is no better.
    """

    experiment: str
    text: str
    of: str
    pairs: Sequence[tuple[str, str]]
    no_gain: bool = False


EARLY, LATE = ("c-64", "c-128"), ("c-256", "c-512")
CLAIMS = (
    Claim(
        *("A", "decay of all rates raises the test accuracy", "test"),
        [(OUTPOST, BASELINE)],
    ),
    Claim(
        *("A", "decay of one block's rate alone lets it settle: training accuracy rises", "train"),
        [(f"a-{block}", BASELINE) for block in BLOCKS],
    ),
    Claim(
        *("A", "accuracy varies more than with decay of all rates", "spread"),
        [(f"a-{block}", OUTPOST) for block in BLOCKS],
    ),
    Claim(
        *("B", "freezing all blocks but one raises the test accuracy", "test"),
        [(f"b-{block}", BASELINE) for block in BLOCKS],
    ),
    Claim(
        *("B", "accuracy varies less than without freezing", "spread"),
        [(BASELINE, f"b-{block}") for block in BLOCKS],
    ),
    Claim(
        *("B", "freezing the others does more for the test accuracy than decay of the block"),
        *("test", [(f"b-{block}", f"a-{block}") for block in BLOCKS]),
    ),
    Claim(
        *("C", "both together do not reach the test accuracy of decay of all rates", "test"),
        [(OUTPOST, f"c-{block}") for block in BLOCKS],
    ),
    Claim(
        *("C", "late blocks that are trained on fit the training images better", "train"),
        [(late, early) for late in LATE for early in EARLY],
    ),
    Claim(
        *("C", "early blocks that are trained on are better on the test images", "test"),
        [(early, late) for late in LATE for early in EARLY],
    ),
    Claim(
        *("C", "the test loss rises again with decay of all rates, less with early blocks", "rise"),
        [(OUTPOST, early) for early in EARLY],
    ),
    Claim(
        *("D", "after decay of all rates, freezing brings no more test accuracy", "test"),
        [(f"d-{block}", OUTPOST) for block in BLOCKS],
        no_gain=True,
    ),
)


def arms_of(curves: Mapping[str, Sequence[Curve]], images: int) -> dict[str, Arm]:
    """The arms that have all curves, by name.

    Args:
        curves: By metric, the keys of `CURVES`; runs that ended before the longest are left out.
        images: How many test images each validation saw.
    """
    train, *tests = ({c.run_id: c for c in of} for of in curves.values())
    wrong, losses, beyond_five = tests
    longest = max((int(curve.steps[-1]) for curve in wrong.values()), default=0)
    ended = [curve for run, curve in wrong.items() if curve.steps[-1] == longest and run in train]
    found = {}
    for arm, of_arm in grouped(ended, lambda curve: curve.arm).items():
        runs = [curve.run_id for curve in of_arm]
        spreads = [_spread(wrong[run], longest) for run in runs]
        degrees = sum(number - 1 for _, number in spreads)
        found[arm] = Arm(
            train=_share([1 - _final(train[run], longest) for run in runs], images),
            test=_share([1 - _final(wrong[run], longest) for run in runs], images),
            top_5=_share([1 - _final(beyond_five[run], longest) for run in runs], images),
            spread=Estimate(
                fmean(spread for spread, _ in spreads),
                (2 * degrees) ** -0.5 if degrees else math.inf,
            ),
            loss=_over_seeds([_final(losses[run], longest) for run in runs]),
            rise=_over_seeds(
                [_final(losses[run], longest) - float(losses[run].values.min()) for run in runs]
            ),
        )
    return found


def _final(curve: Curve, longest: int) -> float:
    return float(curve.values[curve.steps > (1 - FINAL_FRACTION) * longest].mean())


def _spread(curve: Curve, longest: int) -> tuple[float, int]:
    """Logarithm of the deviation between validations, from those in a row, and their number."""
    values = curve.values[curve.steps > (1 - SETTLED_FRACTION) * longest]
    if len(values) < 2:
        return math.nan, 1
    # A trend would widen the deviation from the mean, and differences hardly.
    deviation = float(np.square(np.diff(values)).mean() / 2) ** 0.5
    return math.log(max(deviation, 1e-6)), len(values)


def _over_seeds(values: Sequence[float]) -> Estimate:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.inf
    return Estimate(fmean(values), error)


def _share(values: Sequence[float], images: int) -> Estimate:
    mean = fmean(values)
    by_images = (max(mean * (1 - mean), 0) / (images * len(values))) ** 0.5
    by_seeds = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Estimate(mean, max(by_images, by_seeds))


def verdict(claim: Claim, arms: Mapping[str, Arm]) -> tuple[str, str]:
    """Whether a claim is reproduced, and the difference that each of its pairs makes."""
    differences = []
    for one, other in claim.pairs:
        if one in arms and other in arms:
            a, b = (getattr(arms[arm], claim.of) for arm in (one, other))
            differences.append((one, other, a.value - b.value, SIGMAS * math.hypot(*a[1:], *b[1:])))
    if claim.no_gain:
        for_it = [d + half < NO_GAIN for *_, d, half in differences]
        against = [d - half > 0 for *_, d, half in differences]
    else:
        for_it = [d - half > 0 for *_, d, half in differences]
        against = [d + half < 0 for *_, d, half in differences]
    told = "; ".join(
        f"{one} less {other}: {_number(claim.of, d)} ± {_number(claim.of, half, sign='')}"
        for one, other, d, half in differences
    )
    if any(against):
        return "not reproduced", told
    complete = len(differences) == len(claim.pairs)
    return "reproduced" if complete and all(for_it) else "not decided", told


def _number(of: str, value: float, sign: str = "+") -> str:
    if math.isinf(value):
        return "?"
    if of in ("train", "test", "top_5"):
        return f"{100 * value:{sign}.2f} %"
    return f"{value:{sign}.2f}"


def claims_table(arms: Mapping[str, Arm]) -> str:
    """Every claim, whether it is reproduced, and by which differences."""
    header = ["experiment", "the text", "here", "differences, with 95 % intervals"]
    rows = [[claim.experiment, claim.text, *verdict(claim, arms)] for claim in CLAIMS]
    return markdown_table(header, rows)


def arms_table(arms: Mapping[str, Arm]) -> str:
    """Final accuracies and losses of every arm."""
    header = ["arm", "training [%]", "test [%]", "top 5 [%]", "deviation [%]", "test loss", "rise"]
    rows = [
        [
            name,
            *(f"{100 * value:.2f}" for value, _ in (arm.train, arm.test, arm.top_5)),
            f"{100 * math.exp(arm.spread.value):.2f}",
            *(f"{value:.3f}" for value, _ in (arm.loss, arm.rise)),
        ]
        for name, arm in arms.items()
    ]
    return markdown_table(header, rows)


def as_csv(arms: Mapping[str, Arm]) -> str:
    """A row for each arm: values and standard errors."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", *(each for name in Arm._fields for each in (name, f"{name}_error"))])
    for name, arm in arms.items():
        writer.writerow([name, *(f"{each:.6g}" for estimate in arm for each in estimate)])
    return file.getvalue()


def report(uri: str, experiment: str, output: Path, images: int) -> str:
    """Writes `report.md`, `arms.csv` and a figure for each experiment, and returns the tables.

    Raises:
        TrackingError: There are no such runs.
    """
    runs = TrackedRuns(uri, experiment)
    curves = {metric: runs.curves(metric) for metric in CURVES}
    arms = arms_of(curves, images)
    if not arms:
        raise TrackingError(
            expected="finished runs of the configs stability_a to stability_d",
            found="none",
            where=f"experiment {experiment!r} at {uri}",
            fix="train some with `stem-complete train classification stability_a`",
        )
    output.mkdir(parents=True, exist_ok=True)
    tables = f"{claims_table(arms)}\n\n{arms_table(arms)}\n"
    write_atomically(output / "report.md", tables)
    write_atomically(output / "arms.csv", as_csv(arms))
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
    parser.add_argument("--images", type=int, required=True, help="training.validation_examples")
    options = parser.parse_args(arguments)
    print(report(options.uri, options.experiment, options.output, options.images))
    say(f"report  {options.output}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
