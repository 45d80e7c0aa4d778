"""The scan simulation that a config describes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from stem_complete.config import (
    AugmentationConfig,
    Config,
    NoiseConfig,
    NoNoiseConfig,
    ReferenceNoiseConfig,
)
from stem_complete.config.curriculum import CurriculumConfig
from stem_complete.config.schedules import in_steps
from stem_complete.data.formats.scans import read_path
from stem_complete.errors import ConfigError
from stem_complete.scan import (
    GEOMETRIES,
    Augmentation,
    Curriculum,
    Detection,
    Detector,
    NoNoise,
    ReferenceNoise,
    ScanHardware,
    ScanPath,
    ScanSimulator,
    custom,
    falling,
)


def build_simulator(
    config: Config,
    crop_shape: tuple[int, int],
    *,
    augment: bool,
    seed: int,
    easier_first: bool = False,
) -> ScanSimulator:
    """The scan simulation that a config describes.

    Args:
        config: The run.
        crop_shape: (h, w) of the micrographs [px].
        augment: Vary the scans as for training.
        seed: Seed of everything random.
        easier_first: With the curriculum of `augment`, if the config has one.

    Raises:
        ConfigError: A geometry cannot have a coverage, or a curriculum eases nothing.
    """
    scan, varied = config.scan, config.augmentation if augment else None
    simulator = partial(
        ScanSimulator,
        seed=seed,
        hardware=ScanHardware(**scan.hardware.model_dump()),
        blur_sigma_px=scan.blur_sigma_px,
        sample=scan.sample,
    )
    if varied is None:
        return simulator(
            _paths((scan.geometry,), (scan.coverage,), crop_shape), build_detection(scan.noise)
        )
    shape = crop_shape if varied.crop_px is None else (varied.crop_px, varied.crop_px)
    geometries = (scan.geometry, *varied.geometries)
    coverages = (scan.coverage, *varied.coverages)
    curriculum = None
    if easier_first and varied.curriculum is not None:
        curriculum = _curriculum(config, varied, varied.curriculum, shape)
    return simulator(
        _paths(geometries, coverages, shape),
        [build_detection(noise) for noise in (scan.noise, *varied.noises)],
        augmentation=Augmentation(
            varied.max_zoom,
            varied.crop_px,
            varied.contrast,
            varied.sharp_fraction,
            varied.overlay,
            varied.smooth_fraction,
        ),
        noisy_fraction=varied.noisy_fraction,
        curriculum=curriculum,
    )


def _curriculum(
    config: Config, varied: AugmentationConfig, eased: CurriculumConfig, shape: tuple[int, int]
) -> Curriculum:
    """Stand-ins for all paths whose coverage is below a level's least one, and least doses."""
    geometries = (config.scan.geometry, *varied.geometries)
    coverages = (config.scan.coverage, *varied.coverages)
    noises = (build_detection(noise) for noise in (config.scan.noise, *varied.noises))
    lowest = min(
        (n.lowest_dose for n in noises if isinstance(n, Detector) and n.lowest_dose), default=None
    )
    _check_eased("coverage", eased.coverage, min(coverages))
    _check_eased("dose_electrons_per_px", eased.dose_electrons_per_px, lowest)
    if eased.noisy_fraction is not None:
        _check_eased("noisy_fraction", -eased.noisy_fraction, -varied.noisy_fraction)

    levels = range(eased.levels)
    least = [min(coverages)] * eased.levels
    paths: list[ScanPath] = []
    if eased.coverage is not None:
        least = falling(eased.coverage, min(coverages), eased.levels)
        paths = _paths(geometries, least, shape)
    own = [(place, coverage) for place in range(len(geometries)) for coverage in coverages]
    return Curriculum(
        in_steps(eased.until, config.training.steps),
        paths,
        [
            [
                number if coverage >= least[level] else len(own) + place * eased.levels + level
                for number, (place, coverage) in enumerate(own)
            ]
            for level in levels
        ],
        falling(eased.dose_electrons_per_px, lowest, eased.levels)
        if eased.dose_electrons_per_px and lowest
        else [],
        falling(eased.noisy_fraction, varied.noisy_fraction, eased.levels, by_ratio=False)
        if eased.noisy_fraction is not None
        else [],
    )


def _check_eased(key: str, easy: float | None, hard: float | None) -> None:
    if easy is not None and (hard is None or easy <= hard):
        raise ConfigError(
            expected=f"an augmentation.curriculum.{key} that is easier than the config's own",
            found=f"{abs(easy):g}, and {'no such noise' if hard is None else f'{abs(hard):g}'}",
            where="augmentation.curriculum",
            fix="begin with a higher coverage or dose, or fewer noisy scans; or leave it out",
        )


def build_detection(config: NoiseConfig) -> Detection:
    """The detection that a config describes."""
    if isinstance(config, NoNoiseConfig):
        return NoNoise()
    if isinstance(config, ReferenceNoiseConfig):
        return ReferenceNoise()
    return Detector(**config.model_dump(exclude={"kind"}))


def make_path(geometry: str, shape: tuple[int, int], coverage: float, seed: int) -> ScanPath:
    """The path of a geometry's name, or of a file, whose dwell is scaled to the coverage.

    Args:
        geometry: Name in `scan.GEOMETRIES`, or file.
        shape: (h, w) [px].
        coverage: Mean dwell.
        seed: Chooses among the paths of a random geometry.

    Raises:
        ValueError: The geometry cannot have the coverage.
        ConfigError: The file's path is over another shape.
        DataError: The file cannot be read.
    """
    if geometry in GEOMETRIES:
        return GEOMETRIES[geometry](shape, coverage, seed=seed)
    path = read_path(geometry)
    if path.shape != shape:
        raise ConfigError(
            expected=f"a path over an image of {shape[0]} x {shape[1]} px (h x w)",
            found=f"one over {path.shape[0]} x {path.shape[1]} px",
            where=geometry,
            fix="write it for this shape",
        )
    return custom(path.positions, shape, dwell=path.dwell, coverage=coverage)


def _paths(
    geometries: Sequence[str], coverages: Sequence[float], shape: tuple[int, int]
) -> list[ScanPath]:
    """A path for each geometry and coverage; a random geometry that is named again has others."""
    try:
        return [
            make_path(name, shape, coverage, geometries[:place].count(name))
            for place, name in enumerate(geometries)
            for coverage in coverages
        ]
    except ValueError as error:
        raise ConfigError(
            expected="coverages that every geometry can have",
            found=str(error),
            where="scan",
            fix="choose another scan.coverage or another scan.geometry",
        ) from None
