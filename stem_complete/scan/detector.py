"""Detector and scan hardware: what an instrument makes of the specimen along a path.

Times are in full pixel dwells, as dwells are: a sample of dwell 1 collects the dose of a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from stem_complete.scan import random

# Numbers that make the keys of a detector's and the hardware's random quantities independent.
_ELECTRONS, _READOUT, _DOSE, _DEAD, _DRIFT, _JITTER = range(2, 8)


@dataclass(frozen=True)
class Detector:
    """Counts electrons over the dwell of each sample, and turns them into digital units.

    Attributes:
        dose_electrons_per_px: Mean number of electrons counted over a full pixel dwell at
            intensity 1; at -1 it is 0. A range is drawn from log-uniformly, once for each example.
            None: intensities are measured without any noise.
        background_electrons_per_px: Mean number of electrons over a full pixel dwell that do not
            come from the specimen; calibrated out, their noise stays.
        readout_std_electrons: Standard deviation of the readout noise of a sample.
        gain: Digital units per electron; samples are whole digital units. None: no digitisation.
        offset: Digital units at no electron; what lies below 0 is cut off.
        afterglow_dwells: Time constant of the scintillator [full pixel dwells]: part of a sample's
            electrons is seen in those that follow.
    """

    dose_electrons_per_px: float | tuple[float, float] | None = 100.0
    background_electrons_per_px: float = 0.0
    readout_std_electrons: float = 0.0
    gain: float | None = None
    offset: float = 0.0
    afterglow_dwells: float = 0.0

    def __post_init__(self) -> None:
        low, high = self._doses or (1.0, 1.0)
        if not 0 < low <= high < math.inf:
            raise ValueError(f"doses must be positive and rising, got {self.dose_electrons_per_px}")
        if self.gain is not None and not 0 < self.gain < math.inf:
            raise ValueError(f"gain must be positive, got {self.gain}")
        _check_not_negative(
            self,
            "background_electrons_per_px",
            "readout_std_electrons",
            "offset",
            "afterglow_dwells",
        )

    @property
    def _doses(self) -> tuple[float, float] | None:
        dose = self.dose_electrons_per_px
        return (dose, dose) if isinstance(dose, int | float) else dose

    @property
    def lowest_dose(self) -> float | None:
        """The lowest dose that an example can have; None without noise."""
        return None if self._doses is None else self._doses[0]

    def measure(
        self, intensity: Tensor, dwell: Tensor, keys: Tensor, least_dose: Tensor | None = None
    ) -> Tensor:
        """Measured intensities `[b, n]`, scaled back from the counts.

        Args:
            intensity: Of the specimen at each sample `[b, n]`, in [-1, 1].
            dwell: Of each sample `[b, n]` [full pixel dwells]; where it is 0, the result is
                arbitrary and finite.
            keys: Keys of the examples `[b]`.
            least_dose: Lower doses become it `[b, 1]`; None leaves them.
        """
        seen = intensity
        if self.afterglow_dwells:
            seen = follow(intensity, dwell, self.afterglow_dwells)
        if self._doses is None:
            return seen
        low, high = self._doses
        chance = random.uniform(random.fold_in(keys, _DOSE), (1,))
        dose = low * (high / low) ** chance
        if least_dose is not None:
            dose = dose.maximum(least_dose)
        full = dose * dwell
        background = self.background_electrons_per_px * dwell
        places = torch.arange(dwell.shape[1], device=dwell.device)[None]
        rate = full * (seen.clamp(min=-1) + 1) / 2 + background
        electrons = random.poisson_at(random.fold_in(keys, _ELECTRONS), rate, places)
        if self.readout_std_electrons:
            readout = random.normal_at(random.fold_in(keys, _READOUT), places)
            electrons = electrons + self.readout_std_electrons * readout
        if self.gain is not None:
            units = (electrons * self.gain + self.offset).round().clamp(min=0)
            electrons = (units - self.offset) / self.gain
        return torch.where(dwell > 0, 2 * (electrons - background) / full - 1, 0.0)


@dataclass(frozen=True)
class ScanHardware:
    """How the true positions of the probe differ from the nominal ones, and what gets lost.

    Attributes:
        coil_lag_dwells: Time constant of the scan coils [full pixel dwells], which follow the
            nominal path with a lag.
        blanked_jumps: Whether the beam is blanked until the coils have settled after a jump of more
            than 2 px. False: the lag smears jumps too, as at the start of the lines of a raster
            whose flyback is recorded.
        drift_px: How far the specimen moves while a full frame would be scanned [px], in a
            direction of its own in each example. The truth is its place at half of the scan.
        line_jitter_px: Standard deviation of the displacement of a line, which takes as long as a
            row of full pixel dwells [px].
        dead_fraction: Fraction of the samples that are lost.
    """

    coil_lag_dwells: float = 0.0
    blanked_jumps: bool = True
    drift_px: float = 0.0
    line_jitter_px: float = 0.0
    dead_fraction: float = 0.0

    def __post_init__(self) -> None:
        _check_not_negative(self, "coil_lag_dwells", "drift_px", "line_jitter_px", "dead_fraction")
        if self.dead_fraction >= 1:
            raise ValueError(f"dead_fraction must be below 1, got {self.dead_fraction}")

    def true_positions(
        self, positions: Tensor, dwell: Tensor, shape: tuple[int, int], keys: Tensor
    ) -> Tensor:
        """Where the probe was on the specimen `[b, n, 2]` [px].

        Args:
            positions: Nominal (x, y) in time order `[b, n, 2]` [px].
            dwell: Of each sample `[b, n]` [full pixel dwells].
            shape: (h, w) of the image [px].
            keys: Keys of the examples `[b]`.
        """
        true = positions
        if self.coil_lag_dwells:
            jumps = None
            if self.blanked_jumps:
                jumps = positions.diff(dim=1).square().sum(-1) > 4
            true = torch.stack(
                [follow(true[..., i], dwell, self.coil_lag_dwells, jumps) for i in range(2)], -1
            )
        time = dwell.cumsum(1)
        if self.drift_px:
            angle = 2 * math.pi * random.uniform(random.fold_in(keys, _DRIFT), (1, 1))
            direction = torch.cat([angle.cos(), angle.sin()], -1)
            frames = (time - time[:, -1:] / 2) / (shape[0] * shape[1])
            true = true + self.drift_px * frames[..., None] * direction
        if self.line_jitter_px:
            line = (time / shape[1]).long()
            key = random.fold_in(keys, _JITTER)
            moved = [random.normal_at(random.fold_in(key, i), line) for i in range(2)]
            true = true + self.line_jitter_px * torch.stack(moved, -1)
        return true

    def recorded_dwell(self, dwell: Tensor, keys: Tensor) -> Tensor:
        """Dwell `[b, n]` of the samples that are not lost, 0 of the others."""
        if not self.dead_fraction:
            return dwell
        chance = random.uniform(random.fold_in(keys, _DEAD), tuple(dwell.shape[1:]))
        return torch.where(chance < self.dead_fraction, 0.0, dwell)


def follow(
    signal: Tensor, dwell: Tensor, time_constant: float, starts_anew: Tensor | None = None
) -> Tensor:
    """`signal` [b, n] as something sees it that follows with an exponential lag.

    Args:
        signal: In time order `[b, n]`.
        dwell: Time of each sample `[b, n]`, in the unit of `time_constant`; their mean is taken.
        time_constant: After which 1/e of a step is still to come.
        starts_anew: Between which samples it does not remember what was before `[b, n - 1]`.
    """
    num = signal.shape[1]
    recorded = (dwell > 0).sum(1, keepdim=True).clamp(min=1)
    decay = torch.exp(-dwell.sum(1, keepdim=True) / recorded / time_constant)
    index = torch.arange(num, device=signal.device).expand(len(signal), -1)
    first = torch.zeros_like(index)
    if starts_anew is not None:
        begins = torch.where(starts_anew, index[:, 1:], 0)
        first = torch.nn.functional.pad(begins, (1, 0)).cummax(1).values
    # Recursive doubling: after k rounds each sample has seen 2^k of those before it.
    seen = (1 - decay) * signal
    reach = 1
    while reach < num:
        earlier = torch.nn.functional.pad(seen, (reach, 0))[:, :num]
        seen = seen + torch.where(index - reach >= first, decay**reach * earlier, 0)
        reach *= 2
    # Before it began, it was at rest where it began.
    return seen + decay ** (index - first + 1) * signal.gather(1, first)


def _check_not_negative(options: Detector | ScanHardware, *names: str) -> None:
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in names and not 0 <= value < math.inf:
            raise ValueError(f"{field.name} must not be negative, got {value}")
