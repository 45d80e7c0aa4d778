"""What the text on network stability claims of its arms, and whether runs show it.

A claim is a comparison of arms, or of the end of an arm with what was before, with a 95 % interval.
One that holds for several blocks is reproduced if it is significant for all, and not reproduced if
its opposite is for any.

Intervals of accuracies and losses are of Student's t over seeds, paired, as those of a seed have
the same first weights and batches. Where the arms of a claim have one seed in common, they are
taken to differ between seeds as the baseline does, which nothing calms; and if that has one seed
too, the claim is not decided. Intervals of how much accuracies and losses vary between validations
are of Fisher's F over validations, and so of these runs alone. How much those of training vary is
not compared: a step's are of one batch.

Source: S., "Proposing a new effect of learning rate decay: network stability", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, stdtrit

BLOCKS = ("64", "128", "256", "512")
BASELINE, OUTPOST = "baseline", "outpost"
CONFIDENCE = 0.95
ALIKE = {
    "test": 0.01,
    "train": 0.01,
    "train_error": 0.01,
    "fall": 0.01,
    "loss": 0.1,
    "deviation": math.log(2),
}
"""What is not much, where the text claims that something does not exceed another by much."""

DEVIATIONS = ("deviation", "loss_deviation")
"""Attributes of `Run` that are compared by their ratio."""

LOSSES = ("train_loss", "loss", "first_loss", "rise")
"""Attributes of `Run` that are no shares."""


class Run(NamedTuple):
    """What came of a run.

    Attributes:
        train: Accuracy on the training images, augmented.
        train_loss: Loss on them.
        test: Accuracy on the test images.
        top_5: Share of the test images whose class is among five guesses.
        loss: Test loss.
        first_test: Test accuracy in the tenth of the run after the first decay or freezing, or
            after the freezing of C.
        first_loss: Test loss there.
        gain: Of the test accuracy, from there to the end.
        fall: Of `top_5`.
        rise: Of the test loss.
        deviation: Of the test accuracy between validations; NaN with fewer than three.
        loss_deviation: Of the test loss.
        degrees: Of freedom of these deviations.
    """

    train: float
    train_loss: float
    test: float
    top_5: float
    loss: float
    first_test: float
    first_loss: float
    gain: float
    fall: float
    rise: float
    deviation: float
    loss_deviation: float
    degrees: int

    @property
    def train_error(self) -> float:
        """Share of the training images that are told wrongly."""
        return 1 - self.train


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
    Claim("A", "and lowers the training loss", "train_loss", [(BASELINE, OUTPOST)]),
    Claim(
        *("A", "decay of one block's rate alone lets it settle: training accuracy rises", "train"),
        [(f"a-{block}", BASELINE) for block in BLOCKS],
    ),
    Claim(
        *("A", "its training loss falls", "train_loss"),
        [(BASELINE, f"a-{block}") for block in BLOCKS],
    ),
    Claim(
        *("A", "and the test accuracy rises", "test"),
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
        *("B", "and the test loss falls faster than without it", "first_loss"),
        [(BASELINE, f"b-{block}") for block in BLOCKS],
    ),
    Claim(
        *("B", "accuracy varies less than without freezing", "deviation"),
        [(BASELINE, f"b-{block}") for block in BLOCKS],
    ),
    Claim(
        *("B", "and so does the test loss", "loss_deviation"),
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
        *("C", "and its test accuracy", "test"),
        [(OUTPOST, f"c-{block}") for block in BLOCKS],
        alike=True,
    ),
    Claim(
        *("C", "and its training accuracy", "train"),
        [(OUTPOST, f"c-{block}") for block in BLOCKS],
        alike=True,
    ),
    Claim(
        *("C", "late blocks that are trained on fit all training images", "train_error"),
        [(late,) for late in LATE],
        alike=True,
    ),
    Claim(
        *("C", "and more of them than early blocks", "train"),
        [(late, early) for late in LATE for early in EARLY],
    ),
    Claim(
        *("C", "early blocks that are trained on are better on the test images", "test"),
        [(early, late) for late in LATE for early in EARLY],
    ),
    Claim(
        *("C", "and so they are soon after the freezing", "first_test"),
        [(early, late) for late in LATE for early in EARLY],
    ),
    Claim(
        *("C", "soon after it their test loss is lower", "first_loss"),
        [(late, early) for late in LATE for early in EARLY],
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


def differences(claim: Claim, arms: Arms) -> list[Difference]:
    """What each pair of a claim differs by, if both of its arms have been run.

    Those of accuracies and losses are over the seeds that all of these arms have.
    """
    pairs = [pair for pair in claim.pairs if all(arm in arms for arm in pair)]
    if claim.of in DEVIATIONS:
        return [_of_deviations(pair, claim.of, arms) for pair in pairs]
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


def _of_deviations(pair: tuple[str, ...], of: str, arms: Arms) -> Difference:
    (first, degrees), (second, others) = (pooled_deviation(arms[arm].values(), of) for arm in pair)
    value = math.log(first / second)
    if not (degrees and others):
        return Difference(pair, value, -math.inf, math.inf)
    ends = ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2)
    low, high = (value - math.log(fdtri(degrees, others, end)) / 2 for end in ends)
    return Difference(pair, value, low, high)


def pooled_deviation(runs: Collection[Run], of: str = "deviation") -> tuple[float, int]:
    """Deviation between the validations of an arm's runs, and its degrees of freedom.

    Args:
        runs: Of the arm.
        of: One of `DEVIATIONS`.
    """
    degrees = sum(run.degrees for run in runs)
    squares = sum(run.degrees * getattr(run, of) ** 2 for run in runs if run.degrees)
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
    name = (" by " if of in DEVIATIONS else " less ").join(pair)
    return f"{name}: {_number(of, value)}{interval}"


def _number(of: str, value: float) -> str:
    if of in DEVIATIONS:
        return f"{math.exp(value):.2f}"
    return f"{value:+.3f}" if of in LOSSES else f"{100 * value:+.2f} %"
