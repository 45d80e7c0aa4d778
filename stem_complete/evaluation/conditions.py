"""Conditions under which known micrographs are scanned."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from stem_complete.config import NoiseConfig, PathFile, validate_config
from stem_complete.errors import ConfigError
from stem_complete.inference.card import ModelCard
from stem_complete.scan import ScanSimulator
from stem_complete.training.simulation import build_simulator
from stem_complete.vocabulary import Geometry, Sample, format_coverage, parse_coverage

_DEFAULTS = {"data": {"store": "."}}  # the store has no default


class Condition(NamedTuple):
    """How micrographs are scanned, and the truth that completions are compared with.

    Attributes:
        geometry: Path of the probe, a name in `scan.GEOMETRIES` or a file of positions.
        coverage: Mean dwell.
        noise: How the detector sees the specimen.
        sample: Whether the probe measures the original micrograph or the blurred one.
        blur_sigma_px: Width of the 5x5 Gaussian that blurs the truth, as in the papers' losses.
    """

    geometry: Geometry | PathFile
    coverage: float
    noise: NoiseConfig
    sample: Sample = "original"
    blur_sigma_px: float = 2.5

    @property
    def labels(self) -> tuple[str, str, str]:
        """Geometry, coverage and noise as reports name them."""
        return self.geometry, format_coverage(self.coverage), self.noise.kind

    def simulator(self, shape: tuple[int, int], seed: int) -> ScanSimulator:
        """Simulates such scans of micrographs of `shape`, without augmentation."""
        config = validate_config(_DEFAULTS | {"scan": self._asdict()}, where="condition")
        return build_simulator(config, shape, augment=False, seed=seed)


def conditions_of(
    card: ModelCard | None,
    coverages: Iterable[float | str | Fraction] = (),
    noise: NoiseConfig | None = None,
) -> list[Condition]:
    """The conditions that a model was trained for, or others that differ in coverage and noise.

    Args:
        card: Card of the model; None for the default config.
        coverages: Mean dwells such as "1/20"; empty for the config's own.
        noise: None for the config's own.

    Raises:
        ConfigError: A coverage is not valid.
    """
    values, where = (card.config, f"config of {card.name}") if card else (_DEFAULTS, "defaults")
    scan = validate_config(values, where=where).scan
    return [
        Condition(scan.geometry, coverage, noise or scan.noise, scan.sample, scan.blur_sigma_px)
        for coverage in dict.fromkeys(map(_coverage, coverages or (scan.coverage,)))
    ]


def _coverage(value: float | str | Fraction) -> float:
    try:
        return parse_coverage(value)
    except ValueError as error:
        raise ConfigError(
            expected="coverages like 0.05 or 1/20", found=str(error), where="coverages"
        ) from None
