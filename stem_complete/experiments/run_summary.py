"""What came of a run, from its curves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.evaluation import LearningCurve, boxcar_mean
from stem_complete.tracking import Curve

_FINAL_FRACTION = 0.1
_SPIKE = 5.0
"""A loss so many times the mean around it is a spike."""
_LONGEST_GAP = 5.0  # between records, in units of the usual one; a longer one is a pause

COLUMNS = {
    "steps": "steps",
    "final_loss": "final loss",
    "final_rmse": "final validation RMSE [%]",
    "best_rmse": "best validation RMSE [%]",
    "steps_to_loss": "steps to the loss",
    "clip_fraction": "clipped [%]",
    "threshold": "threshold",
    "num_spikes": "spikes",
    "largest_spike": "largest spike",
    "minutes": "time [min]",
}
PERCENT = {"final_rmse", "best_rmse", "clip_fraction"}

Summary = dict[str, float | None]
"""The keys of `COLUMNS`; None where the run does not say.

A run whose losses ended without being finite has diverged: it has no final or best values, nor
steps to a loss. `steps` is the last one that was recorded, `final_loss` the mean of the last tenth
of the logged losses, `threshold` that of the last tenth of the thresholds, `clip_fraction` the mean
of all logged fractions. `steps_to_loss` is where the boxcar mean first falls to the loss that is
asked for. `num_spikes` counts the logged intervals with a loss of more than five times the boxcar
mean around, `largest_spike` is the largest such ratio; runs of earlier versions have recorded the
intervals' means alone. `minutes` leaves pauses out. RMSE is on images scaled to [0, 1] by the
truth's own range.
"""


class Curves(NamedTuple):
    """What a run has recorded beside its loss; None: nothing.

    Attributes:
        rmse: Of validation.
        clip_fraction: Of the examples between two records.
        threshold: Of ALRC.
        largest: The largest loss between two records.
    """

    rmse: Curve | None
    clip_fraction: Curve | None
    threshold: Curve | None
    largest: Curve | None


def has_diverged(loss: Curve) -> bool:
    """Whether the last loss of a run is not finite."""
    return not np.isfinite(loss.values[-1])


def final_loss(loss: Curve) -> float | None:
    """Mean of the last tenth of the losses that are finite; None if the run diverged."""
    return None if has_diverged(loss) else _final(loss)


def summary(loss: Curve, others: Curves, boxcar_steps: int, to_reach: float | None) -> Summary:
    """What came of a run; `to_reach` is the loss of `steps_to_loss`."""
    errors, fractions = _finite(others.rmse), _finite(others.clip_fraction)
    mean = boxcar_mean(LearningCurve(loss.steps, loss.values), boxcar_steps)
    ratios = _ratios(others.largest or loss, mean)
    if has_diverged(loss):
        errors, to_reach = np.empty(0), None
    return {
        "steps": float(loss.steps[-1]),
        "final_loss": final_loss(loss),
        "final_rmse": float(errors[-1]) if len(errors) else None,
        "best_rmse": float(errors.min()) if len(errors) else None,
        "steps_to_loss": _first_step(mean, to_reach),
        "clip_fraction": float(fractions.mean()) if len(fractions) else None,
        "threshold": _final(others.threshold),
        "num_spikes": float((ratios > _SPIKE).sum()) if len(ratios) else None,
        "largest_spike": float(ratios.max()) if len(ratios) else None,
        "minutes": _minutes(loss),
    }


def _final(curve: Curve | None) -> float | None:
    """Mean of the last tenth."""
    values = _finite(curve)
    last = values[-max(round(len(values) * _FINAL_FRACTION), 1) :]
    return float(last.mean()) if len(last) else None


def _first_step(mean: LearningCurve, loss: float | None) -> float | None:
    if loss is None:
        return None
    reached = mean.steps[mean.values <= loss]
    return float(reached[0]) if len(reached) else None


def _finite(curve: Curve | None) -> NDArray[np.float64]:
    return np.empty(0) if curve is None else curve.values[np.isfinite(curve.values)]


def _ratios(largest: Curve, mean: LearningCurve) -> NDArray[np.float64]:
    """Of the finite losses to the mean around them."""
    finite = np.isfinite(largest.values) & (largest.values > 0)
    if not len(mean.steps):
        return np.empty(0)
    around: NDArray[np.float64] = np.interp(largest.steps[finite], mean.steps, mean.values)
    return largest.values[finite] / around


def _minutes(curve: Curve) -> float | None:
    """How long it was trained; pauses between stops and starts count as usual gaps."""
    gaps = np.diff(curve.times_ms) / 60_000
    if not len(gaps):
        return None
    # As long for the first record, which nothing was before.
    usual = float(np.median(gaps))
    return float(np.where(gaps > _LONGEST_GAP * usual, usual, gaps).sum()) + usual
