"""Conditions under which known micrographs are scanned."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import NamedTuple

from stem_complete.config import (
    DetectorNoiseConfig,
    NoiseConfig,
    NoNoiseConfig,
    PathFile,
    ReferenceNoiseConfig,
    validate_config,
)
from stem_complete.errors import ConfigError
from stem_complete.files import sha256
from stem_complete.inference.card import ModelCard
from stem_complete.scan import GEOMETRIES, ScanSimulator
from stem_complete.training.simulation import build_detection, make_path
from stem_complete.vocabulary import Geometry, Sample, format_coverage, parse_coverage

NO_NOISE, NO_NOISE_BY_PIXELS, PUBLISHED_NOISE = "none", "none by pixels", "published"

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
        geometry = Path(self.geometry).name  # of a file without its folder
        return geometry, format_coverage(self.coverage), noise_label(self.noise)

    @property
    def path_sha256(self) -> str | None:
        """Hash of the file of positions; None of a named geometry."""
        return None if self.geometry in GEOMETRIES else sha256(Path(self.geometry))

    def simulator(
        self, shape: tuple[int, int], seed: int = 0, *, path_seed: int = 0
    ) -> ScanSimulator:
        """Simulates such scans of micrographs of `shape`, without augmentation.

        Args:
            shape: (h, w) [px].
            seed: Of the noise.
            path_seed: Chooses among the paths of a random geometry.

        Raises:
            ConfigError: The geometry cannot have the coverage.
        """
        try:
            path = make_path(self.geometry, shape, self.coverage, path_seed)
        except ValueError as error:
            raise ConfigError(
                expected="a coverage that the geometry can have",
                found=str(error),
                where="condition",
                fix="choose another coverage or another geometry",
            ) from None
        return ScanSimulator(
            path,
            build_detection(self.noise),
            seed,
            blur_sigma_px=self.blur_sigma_px,
            sample=self.sample,
        )


def noise_label(noise: NoiseConfig) -> str:
    """Noise as reports name it: `none`, `none by pixels`, `published`, `dose 100`.

    `none` is a detector that measures samples without counting noise. Of other options of the
    detector, those that are not at rest are named too.
    """
    if isinstance(noise, NoNoiseConfig):
        return NO_NOISE_BY_PIXELS
    if isinstance(noise, ReferenceNoiseConfig):
        return PUBLISHED_NOISE
    doses = noise.dose_electrons_per_px
    label = NO_NOISE
    if doses is not None:
        each = doses if isinstance(doses, tuple) else (doses,)
        label = "dose " + " to ".join(f"{dose:g}" for dose in dict.fromkeys(each))
    at_rest = DetectorNoiseConfig().model_dump()
    changed = {
        name.split("_")[0]: value
        for name, value in noise.model_dump().items()
        if name != "dose_electrons_per_px" and value != at_rest[name]
    }
    return ", ".join([label, *(f"{name} {value:g}" for name, value in changed.items())])


def conditions_of(
    card: ModelCard | None,
    coverages: Iterable[float | str | Fraction] = (),
    noises: Iterable[NoiseConfig] = (),
    geometries: Iterable[str] = (),
) -> list[Condition]:
    """The conditions that a model was trained for, or all combinations of others.

    Args:
        card: Card of the model; None for the default config.
        coverages: Mean dwells such as "1/20"; empty for the config's own.
        noises: Empty for the config's own.
        geometries: Names or files of paths; empty for the config's own.

    Raises:
        ConfigError: A coverage or geometry is not valid.
    """
    values, where = (card.config, f"config of {card.name}") if card else (_DEFAULTS, "defaults")
    scan = validate_config(values, where=where).scan
    chosen = product(
        dict.fromkeys(map(_geometry, tuple(geometries) or (scan.geometry,))),
        dict.fromkeys(tuple(noises) or (scan.noise,)),
        dict.fromkeys(map(_coverage, tuple(coverages) or (scan.coverage,))),
    )
    return [
        Condition(geometry, coverage, noise, scan.sample, scan.blur_sigma_px)
        for geometry, noise, coverage in chosen
    ]


def _geometry(name: str) -> Geometry | PathFile:
    values = _DEFAULTS | {"scan": {"geometry": name}}
    return validate_config(values, where="geometries").scan.geometry


def _coverage(value: float | str | Fraction) -> float:
    try:
        return parse_coverage(value)
    except ValueError as error:
        raise ConfigError(
            expected="coverages like 0.05 or 1/20",
            found=str(error),
            where="coverages",
            fix="give fractions of the dose, more than 0 and at most 1",
        ) from None
