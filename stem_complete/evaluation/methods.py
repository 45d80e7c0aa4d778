"""Methods that complete scans, under one signature: classical baselines and models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from stem_complete.data.scans import RasterScan
from stem_complete.errors import ConfigError
from stem_complete.evaluation.baselines import BASELINES, NOISY
from stem_complete.evaluation.ground_truth import KnownScan
from stem_complete.evaluation.report import FIRST, MODEL
from stem_complete.inference import Completer, Completion
from stem_complete.scan import CORRECTED

DEFAULT_BASELINES = tuple(name for name in BASELINES if name != "biharmonic")  # takes minutes
PROTOCOL_BASELINES = tuple(name for name in DEFAULT_BASELINES if name != "linear")

Method = Callable[[KnownScan], Completion]


@dataclass(frozen=True)
class Baseline:
    """A classical method; with no parameters given, those that were tuned to the scan's noise."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def __call__(self, scan: KnownScan) -> Completion:
        """The scan's completion."""
        tuned = NOISY.get(self.name, {}) if scan.is_noisy else {}
        complete = BASELINES[self.name]
        return Completion(complete(scan.partial, **(self.parameters or tuned)))


@dataclass(frozen=True)
class Model:
    """A model, with its error map if it is calibrated."""

    completer: Completer

    def __call__(self, scan: KnownScan) -> Completion:
        """The scan's completion."""
        return self.completer.complete_scan(scan.partial)


def baseline_methods(names: Iterable[str] = PROTOCOL_BASELINES) -> dict[str, Method]:
    """Classical methods by name, with the parameters that were tuned to the scans' noise.

    Raises:
        ConfigError: A name is not in `BASELINES`.
    """
    names = list(names)
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ConfigError(
            expected=f"baselines among {', '.join(BASELINES)}",
            found=", ".join(map(repr, unknown)),
            where="baselines",
        )
    return {name: Baseline(name) for name in names}


def model_methods(completer: Completer) -> dict[str, Method]:
    """`MODEL`, and before it `FIRST` if the model's network corrects a first completion."""

    def first(scan: KnownScan) -> Completion:
        # By the measured range, as earlier reports have it: to the last bit the same.
        measured = RasterScan(scan.partial.intensity, scan.partial.dwell)
        image = completer.first_completion(measured)
        assert image is not None
        return Completion(image)

    methods: dict[str, Method] = {FIRST: first} if completer.card.encoding in CORRECTED else {}
    return methods | {MODEL: Model(completer)}
