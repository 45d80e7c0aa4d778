"""Network stability (experiments A to D): the text's claims beside what was found.

    for experiment in whole a b c d; do
        stem-complete train classification stability_$experiment data.store=cifar-10-python.tar.gz
    done
    stability="python -m stem_complete.experiments.stability"
    $stability --uri sqlite:///$PWD/runs/mlflow.db --output report

The text (S., "Proposing a new effect of learning rate decay: network stability", 2020) decays or
freezes single blocks of ResNet-18 on CIFAR-10, and reads its claims off curves. Here each is a
comparison of arms, or of the end of an arm with what was before, with a 95 % interval. One that
holds for several blocks is reproduced if it is significant for all, and not reproduced if its
opposite is for any.

Accuracies and losses are means over the last tenth of the run, on the test images that all arms
have seen. Their intervals are of Student's t over seeds, paired, as those of a seed have the same
first weights and batches. Where the arms of a claim have one seed in common, they are taken to
differ between seeds as the baseline does, which nothing calms; and if that has one seed too, the
claim is not decided. How much the accuracy varies between validations is its deviation from a
straight line in the last quarter of the run. Its intervals are of Fisher's F over validations, and
so of these runs alone.

The report has the claims, the arms, the training and validation curves of each experiment, and a
CSV file with a row for each run.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, stdtrit

from stem_complete.console import errors_in_one_line, say
from stem_complete.errors import TrackingError
from stem_complete.evaluation import (
    LearningCurve,
    Panel,
    curves_figure,
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

DECAYED, FROZEN = 0.375, 0.5625
"""Where rates first decay, and where C freezes: epochs 60 and 90 of 160."""

CONFIDENCE = 0.95
ALIKE = {"test": 0.01, "fall": 0.01, "loss": 0.1, "deviation": math.log(2)}
"""What is not much, where the text claims that something does not exceed another by much."""


class Run(NamedTuple):
    """What came of a run.

    Attributes:
        train: Accuracy on the training images, augmented.
        test: Accuracy on the test images.
        top_5: Share of the test images whose class is among five guesses.
        loss: Test loss.
        gain: Of the test accuracy, from the tenth of the run after `DECAYED`, or after `FROZEN` in
            C, to the last.
        fall: Of `top_5` between these.
        rise: Of the test loss between these.
        deviation: Of the accuracy between validations; NaN with fewer than three.
        degrees: Of freedom of it.
    """

    train: float
    test: float
    top_5: float
    loss: float
    gain: float
    fall: float
    rise: float
    deviation: float
    degrees: int


class Claim(NamedTuple):
    """What the text says of two arms, or of several pairs of them.

    Attributes:
        experiment: A to D.
        text: What it says.
        of: The attribute of `Run`, which is larger in the first arm of each pair; or is not by
            much, if `alike`.
        pairs: Of arms; or single arms, which are compared with 0.
        alike: Whether the claim is that the first arm of a pair does not exceed the other by as
            much as `ALIKE`.
    """

    experiment: str
    text: str
    of: str
    pairs: Sequence[tuple[str, ...]]
    alike: bool = False


class Difference(NamedTuple):
    """How much the first arm of a pair exceeds the other; of deviations, the logarithm of a ratio.

    Attributes:
        pair: The arms.
        value: The difference.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    pair: tuple[str, ...]
    value: float
    low: float
    high: float


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
        *("A", "accuracy varies more than with decay of all rates", "deviation"),
        [(f"a-{block}", OUTPOST) for block in BLOCKS],
    ),
    Claim(
        "B",
        "freezing all blocks but one raises the test accuracy, not for early or late blocks only",
        *("test", [(f"b-{block}", BASELINE) for block in BLOCKS]),
    ),
    Claim(
        *("B", "accuracy varies less than without freezing", "deviation"),
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
        *("C", "both together mimic the stability of decay of all rates", "deviation"),
        [(f"c-{block}", OUTPOST) for block in BLOCKS],
        alike=True,
    ),
    Claim(
        *("C", "late blocks that are trained on fit the training images better", "train"),
        [(late, early) for late in LATE for early in EARLY],
    ),
    Claim(
        *("C", "early blocks that are trained on are better on the test images", "test"),
        [(early, late) for late in LATE for early in EARLY],
    ),
    Claim("C", "after decay of all rates the test loss rises", "rise", [(OUTPOST,)]),
    Claim("C", "while the test accuracy rises too", "gain", [(OUTPOST,)]),
    Claim("C", "and the top-5 accuracy falls", "fall", [(OUTPOST,)]),
    Claim(
        *("C", "with late blocks the test loss rises too", "rise"),
        [(late,) for late in LATE],
    ),
    Claim(
        *("C", "and ends like that of decay of all rates", "loss"),
        [pair for late in LATE for pair in ((late, OUTPOST), (OUTPOST, late))],
        alike=True,
    ),
    Claim(
        *("C", "with late blocks the top-5 accuracy falls too", "fall"),
        [(late,) for late in LATE],
    ),
    Claim(
        *("C", "with early blocks the test loss does not rise in the same way", "rise"),
        [(other, early) for other in (OUTPOST, *LATE) for early in EARLY],
    ),
    Claim(
        *("C", "with early blocks the top-5 accuracy does not suffer", "fall"),
        [(early,) for early in EARLY],
        alike=True,
    ),
    Claim(
        *("C", "early blocks improve the most in the test loss", "loss"),
        [(other, early) for other in (OUTPOST, *LATE) for early in EARLY],
    ),
    Claim(
        *("D", "after decay of all rates, freezing brings no more test accuracy", "test"),
        [(f"d-{block}", OUTPOST) for block in BLOCKS],
        alike=True,
    ),
)

Arms = Mapping[str, Mapping[int, Run]]
"""Runs by arm and seed."""


def arms_of(curves: Mapping[str, Sequence[Curve]]) -> Arms:
    """The runs that have all curves and a seed; of several of one arm and seed the newest.

    Args:
        curves: By metric, the keys of `CURVES`; runs that ended before the longest are left out.
    """
    by_run = [{curve.run_id: curve for curve in of_all} for of_all in curves.values()]
    wrong = by_run[1]
    longest = max((int(curve.steps[-1]) for curve in wrong.values()), default=0)
    found: dict[str, dict[int, Run]] = {}
    for run_id, curve in sorted(wrong.items(), key=lambda item: item[1].started_ms):
        if curve.seed is None or curve.steps[-1] < longest:
            continue
        if all(run_id in of_metric for of_metric in by_run):
            run = _run(longest, *(of_metric[run_id] for of_metric in by_run))
            found.setdefault(curve.arm, {})[curve.seed] = run
    return found


def _run(longest: int, train: Curve, wrong: Curve, loss: Curve, beyond_five: Curve) -> Run:
    calm = (FROZEN if wrong.arm.startswith("c-") else DECAYED) * longest

    def at_first(curve: Curve) -> float:
        after = (curve.steps > calm) & (curve.steps <= calm + FINAL_FRACTION * longest)
        return float(curve.values[after].mean()) if after.any() else math.nan

    def at_last(curve: Curve) -> float:
        return float(curve.values[curve.steps > (1 - FINAL_FRACTION) * longest].mean())

    deviation, degrees = _deviation(wrong, longest)
    return Run(
        train=1 - at_last(train),
        test=1 - at_last(wrong),
        top_5=1 - at_last(beyond_five),
        loss=at_last(loss),
        gain=at_first(wrong) - at_last(wrong),
        fall=at_last(beyond_five) - at_first(beyond_five),
        rise=at_last(loss) - at_first(loss),
        deviation=deviation,
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


def differences(claim: Claim, arms: Arms) -> list[Difference]:
    """What each pair of a claim differs by, if both of its arms have been run.

    Those of accuracies and losses are over the seeds that all of these arms have.
    """
    pairs = [pair for pair in claim.pairs if all(arm in arms for arm in pair)]
    if claim.of == "deviation":
        return [_of_deviations(pair, *(arms[arm].values() for arm in pair)) for pair in pairs]
    names = list(dict.fromkeys(arm for pair in pairs for arm in pair))
    seeds = sorted(set.intersection(*(set(arms[name]) for name in names)) if names else ())
    if not seeds:
        return []
    values = _values(names, seeds, claim.of, arms)
    noise, degrees = _between_seeds(values, paired=len(pairs[0]) > 1)
    if not degrees and BASELINE in arms:
        # Trained at the first rate to the end, it differs most.
        baseline = _values([BASELINE], sorted(arms[BASELINE]), claim.of, arms)
        noise, degrees = _between_seeds(baseline, paired=False)
    means = dict(zip(names, values.mean(1).tolist(), strict=True))
    found = []
    for pair in pairs:
        value = means[pair[0]] - sum(means[arm] for arm in pair[1:])
        error = noise * (len(pair) / len(seeds)) ** 0.5
        half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * error if degrees else math.inf
        found.append(Difference(pair, value, value - half, value + half))
    return found


def _values(names: Sequence[str], seeds: Sequence[int], of: str, arms: Arms) -> NDArray[np.float64]:
    """An attribute of runs, [num_arms, num_seeds]."""
    return np.array([[getattr(arms[name][seed], of) for seed in seeds] for name in names])


def _between_seeds(values: NDArray[np.float64], *, paired: bool) -> tuple[float, int]:
    """Standard deviation of an arm's value [num_arms, num_seeds], and its degrees of freedom.

    If `paired`, without what a seed does to all arms alike, which cancels in their differences.
    """
    rest = values - values.mean(1, keepdims=True)
    num_arms, num_seeds = values.shape
    if paired:
        rest = rest - rest.mean(0)
        num_arms -= 1
    degrees = num_arms * (num_seeds - 1)
    return float(np.square(rest).sum() / max(degrees, 1)) ** 0.5, degrees


def _of_deviations(
    pair: tuple[str, ...], one: Collection[Run], other: Collection[Run]
) -> Difference:
    (first, degrees), (second, others) = map(_pooled, (one, other))
    value = math.log(first / second)
    if not (degrees and others):
        return Difference(pair, value, -math.inf, math.inf)
    ends = ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2)
    low, high = (value - math.log(fdtri(degrees, others, end)) / 2 for end in ends)
    return Difference(pair, value, low, high)


def _pooled(runs: Collection[Run]) -> tuple[float, int]:
    """Deviation between the validations of an arm's runs, and its degrees of freedom."""
    degrees = sum(run.degrees for run in runs)
    squares = sum(run.degrees * run.deviation**2 for run in runs if run.degrees)
    return (squares / degrees) ** 0.5 if degrees else math.nan, degrees


def verdict(claim: Claim, arms: Arms) -> tuple[str, str]:
    """Whether a claim is reproduced, and the difference that each of its pairs makes."""
    found = differences(claim, arms)
    if claim.alike:
        margin = ALIKE[claim.of]
        for_it = [each.high < margin for each in found]
        against = [each.low > margin for each in found]
    else:
        for_it = [each.low > 0 for each in found]
        against = [each.high < 0 for each in found]
    told = "; ".join(_told(claim.of, each) for each in found)
    if any(against):
        return "not reproduced", told
    complete = len(found) == len(claim.pairs)
    return "reproduced" if complete and all(for_it) else "not decided", told


def _told(of: str, difference: Difference) -> str:
    pair, value, low, high = difference
    interval = f" ({_number(of, low)} to {_number(of, high)})" if math.isfinite(low) else ""
    name = (" by " if of == "deviation" else " less ").join(pair)
    return f"{name}: {_number(of, value)}{interval}"


def _number(of: str, value: float) -> str:
    if of == "deviation":
        return f"{math.exp(value):.2f}"
    return f"{value:+.3f}" if of in ("loss", "rise") else f"{100 * value:+.2f} %"


def claims_table(arms: Arms) -> str:
    """Every claim, whether it is reproduced, and by which differences."""
    header = ["experiment", "the text", "here", "differences, with 95 % intervals"]
    rows = [[claim.experiment, claim.text, *verdict(claim, arms)] for claim in CLAIMS]
    return markdown_table(header, rows)


def arms_table(arms: Arms) -> str:
    """Accuracies and losses of every arm, means over its seeds."""
    header = ["arm", "seeds", "training [%]", "test [%]", "top 5 [%]", "deviation [%]"]
    header += ["test loss", "its rise"]
    rows = [
        [
            name,
            str(len(runs)),
            *(f"{100 * _mean(runs, of):.2f}" for of in ("train", "test", "top_5")),
            f"{100 * _pooled(runs.values())[0]:.2f}",
            *(f"{_mean(runs, of):.3f}" for of in ("loss", "rise")),
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
