"""Methods that complete scans, under one signature: classical baselines and models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stem_complete.data.scans import RasterScan
from stem_complete.errors import ConfigError
from stem_complete.evaluation.baselines import BASELINES
from stem_complete.evaluation.known_scans import KnownScan
from stem_complete.evaluation.report import FIRST, MODEL
from stem_complete.evaluation.tuned import DENOISERS, dose_of, parameters
from stem_complete.extras import require
from stem_complete.inference import Completer, Completion
from stem_complete.scan import CORRECTED

PROTOCOL_BASELINES = (
    "nearest",
    "normalised_convolution",
    "spline",
    "adaptive_spline",
    "non_local_means",
)
"""Those of the protocol: fast ones. Splines become membranes where these are better."""

DEFAULT_BASELINES = tuple(
    name for name in BASELINES if name not in ("biharmonic", *DENOISERS)
)  # these take minutes, or suit few scans

Method = Callable[[KnownScan], Completion]


@dataclass(frozen=True)
class Baseline:
    """A classical method; with no parameters given, those that were tuned to the kind of scan."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def suits(self, geometry: str, coverage: str, noise: str) -> bool:
        """Whether it is for such scans: denoisers are for dense and noisy ones."""
        tuned = parameters(self.name, geometry, coverage, noise)
        return self.name not in DENOISERS or bool(self.parameters or tuned)

    def __call__(self, scan: KnownScan) -> Completion:
        """The scan's completion."""
        labels = scan.geometry, scan.coverage, scan.noise
        options = self.parameters or parameters(self.name, *labels) or {}
        if self.name in DENOISERS:
            options = {"dose_electrons_per_px": dose_of(scan.noise) or _MANY} | options
        return Completion(BASELINES[self.name](scan.partial, **options))


_MANY = 1e4  # electrons: next to no noise


@dataclass(frozen=True)
class Model:
    """A model, with its error map if it is calibrated."""

    completer: Completer

    def __call__(self, scan: KnownScan) -> Completion:
        """The scan's completion."""
        return self.completer.complete_scan(scan.partial)


def baseline_methods(names: Iterable[str] = PROTOCOL_BASELINES) -> dict[str, Method]:
    """Classical methods by name, with the parameters that were tuned to kinds of scans.

    Raises:
        ConfigError: A name is not in `BASELINES`.
        MissingPackageError: A method needs a package that is not installed.
    """
    names = list(names)
    if "bm3d" in names:
        require("bm3d", purpose="the baseline bm3d")
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ConfigError(
            expected=f"baselines among {', '.join(BASELINES)}",
            found=", ".join(map(repr, unknown)),
            where="baselines",
            fix="choose some of these",
        )
    return {name: Baseline(name) for name in names}


def suiting(methods: Mapping[str, Method], labels: tuple[str, str, str]) -> dict[str, Method]:
    """Those of the methods that are for such scans; most are for all.

    Args:
        methods: By name.
        labels: Geometry, coverage and noise, as reports name them.
    """

    def suits(method: Method) -> bool:
        judge = getattr(method, "suits", None)
        return judge is None or judge(*labels)

    return {name: method for name, method in methods.items() if suits(method)}


@dataclass(frozen=True)
class First:
    """What a model's network corrects."""

    completer: Completer

    def __call__(self, scan: KnownScan) -> Completion:
        """The scan's first completion."""
        # By the measured range, as earlier reports have it: to the last bit the same.
        measured = RasterScan(scan.partial.intensity, scan.partial.dwell)
        image = self.completer.first_completion(measured)
        assert image is not None
        return Completion(image)


def model_methods(completer: Completer) -> dict[str, Method]:
    """`MODEL`, and before it `FIRST` if the model's network corrects a first completion."""
    # That of the encoding `adaptive` is a baseline of its own.
    shown = completer.card.encoding in CORRECTED and completer.card.encoding != "adaptive"
    methods: dict[str, Method] = {FIRST: First(completer)} if shown else {}
    return methods | {MODEL: Model(completer)}
