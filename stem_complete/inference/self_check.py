"""How well a model predicts parts of a scan that were held out, beside the classical completion.

The truth of a scan is not known, but parts of the scan are: blocks of it are left out, a few times
as wide as its gaps, and predicted from the rest. Blocks rather than single samples, as those beside
a sample say what it is.

Where each pixel was measured on its own, as in masks of whole frames, single pixels say something
else: how closely a completion should follow the measurements. Models are trained to return blurred
micrographs, and take details of the size of a pixel for noise.

Both tell whether the error map is right, too: it expects an error of each held-out pixel.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import counted

LEAST_PIXELS = 100
"""Held-out pixels below which a scan says nothing about a model."""

_RAISED = 1.2  # from which factor on the error map is told to be raised

Vector = NDArray[np.float64]


class SelfCheck(NamedTuple):
    """What a scan says about its own completion.

    Attributes:
        error: Root mean square difference of held-out measurements from their completion from the
            rest, in the units of the scan; the measurements' own noise is part of it.
        classical_error: Likewise of the classical completion that the model corrects; None if it
            corrects none.
        deviation: Standard deviation of the held-out measurements.
        num_pixels: Number of held-out pixels.
        trust: Share of the model's correction that the held-out measurements agree with, from 0
            to 1; 1 if the model predicts them better than the classical completion does.
        following: Share of an interpolation of the measurements, from 0 to 1, with which single
            held-out pixels are predicted best; 0 if neighbouring pixels share samples.
        expected: Root mean square difference of the blocks' measurements that the error map and
            their own noise let expect; None if there is no error map.
        map_factor: Factor on the error map with which it agrees with the held-out measurements.
    """

    error: float
    classical_error: float | None
    deviation: float
    num_pixels: int
    trust: float
    following: float = 0.0
    expected: float | None = None
    map_factor: float = 1.0

    @property
    def ratio(self) -> float | None:
        """Error of the model in units of the classical completion's, None if there is none."""
        return self.error / self.classical_error if self.classical_error else None

    @property
    def note(self) -> str:
        """What to tell of it."""
        if not math.isfinite(self.error):
            return (
                f"self-check: only {counted(self.num_pixels, 'pixel')} could be held out, too few"
            )
        told = f"self-check: held-out measurements are off by {self.error:.3g}"
        if self.deviation > 0:
            told += f" ({self.error / self.deviation:.2f} of their deviation)"
        if self.ratio is not None:
            told += f", {self.ratio:.2f} of the classical completion's error"
        if self.trust < 1:
            told += f"; so {self.trust:.0%} of the model's correction is used"
        if self.following > 0:
            told += (
                f"; single held-out pixels are predicted best with {self.following:.0%} of an "
                "interpolation, which is mixed in"
            )
        if self.map_factor > _RAISED and self.expected is not None:
            told += (
                f"; {self.expected:.3g} was expected, so the error map is raised "
                f"{self.map_factor:.1f} times"
            )
        return told

    def expecting(self, off: Vector, dwell: Vector, expected: Vector, noise: float) -> SelfCheck:
        """The check of the error map by n pixels of held-out blocks.

        The map is raised where it says less than what is left of the differences without noise. It
        is not lowered: much of an error near the noise is not seen.

        Args:
            off: Measurements less their completion [n], as it is trusted.
            dwell: Dwell times [n].
            expected: What the error map of the rest says of them [n].
            noise: Standard deviation of a full dwell's measurement.
        """
        of_noise = noise**2 / dwell.mean()  # weighted by the dwell, as all squares are
        found, told = (float(np.average(each**2, weights=dwell)) for each in (off, expected))
        raised = (found - of_noise) / told if told else 1.0
        return self._replace(
            expected=math.sqrt(told + of_noise), map_factor=math.sqrt(max(raised, 1.0))
        )

    def followed(
        self, off: Vector, change: Vector, expected: NDArray[np.floating[Any]] | None
    ) -> SelfCheck:
        """The check with how closely n single held-out pixels are to be followed.

        Where they are, their noise is small, and the error map should say at least their error. It
        is not lowered: beside a measured pixel there is mostly another.

        Args:
            off: Measurements less their completion [n], as it is trusted.
            change: An interpolation of the rest less that completion [n].
            expected: What the error map of the rest says of them [n]; None if there is none.
        """
        share = share_of(off, change)
        factor = self.map_factor
        if share and expected is not None:
            found, told = (_root_mean(each) for each in (off - share * change, expected))
            if told:
                factor = max(factor, (found / told) ** share)
        return self._replace(following=share, map_factor=factor)


TOO_LITTLE = NOT_CHECKED = SelfCheck(math.nan, None, math.nan, 0, 1.0)
"""Of a scan of which nothing can be held out; it leaves a completion as it is."""


def share_of(off: Vector, correction: Vector) -> float:
    """Share of a correction, 0 to 1, that leaves the least squared error of `off`.

    As of two forecasts that are combined (Bates and Granger 1969).
    """
    size = float((correction**2).sum())
    return float(np.clip((correction * off).sum() / size, 0, 1)) if size else 0.0


def judge(
    measured: NDArray[np.float64],
    dwell: NDArray[np.float32],
    completed: NDArray[np.float64],
    first: NDArray[np.float64] | None,
) -> SelfCheck:
    """The self-check of a scan whose rest was completed, from its n held-out pixels.

    Args:
        measured: Their intensities [n].
        dwell: Their dwell times [n].
        completed: Completion of the rest there [n], in the units of the scan.
        first: Classical completion of the rest there [n], which the model corrects; None if none.
    """
    if (num := len(measured)) < LEAST_PIXELS:
        return TOO_LITTLE._replace(num_pixels=num)
    weight = dwell.astype(np.float64)

    def root_mean(squares: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.average(squares, weights=weight)))

    deviation = root_mean((measured - np.average(measured, weights=weight)) ** 2)
    error = root_mean((measured - completed) ** 2)
    if first is None:
        return SelfCheck(error, None, deviation, num, 1.0)
    off, correction = measured - first, completed - first
    classical_error, trust = root_mean(off**2), 1.0
    if error > classical_error:
        root = np.sqrt(weight)
        trust = share_of(root * off, root * correction)
    return SelfCheck(error, classical_error, deviation, num, trust)


def _root_mean(values: NDArray[np.floating[Any]]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
