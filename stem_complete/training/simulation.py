"""The scan simulation that a config describes."""

from __future__ import annotations

from stem_complete.config import (
    Config,
    NoiseConfig,
    NoNoiseConfig,
    ReferenceNoiseConfig,
    ScanConfig,
)
from stem_complete.errors import ConfigError
from stem_complete.scan import (
    GEOMETRIES,
    DetectorNoise,
    NoiseModel,
    NoNoise,
    ReferenceNoise,
    ScanPath,
    ScanSimulator,
    archimedean,
)


def build_simulator(
    config: Config, crop_shape: tuple[int, int], *, augment: bool, seed: int
) -> ScanSimulator:
    """The scan simulation that a config describes."""
    scan = config.scan
    return ScanSimulator(
        _paths(scan, crop_shape, of_training=augment),
        build_noise(scan.noise),
        augment=augment,
        blur_sigma_px=scan.blur_sigma_px,
        sample=scan.sample,
        seed=seed,
        contrast=scan.contrast and augment,
        noisy_fraction=scan.noisy_fraction if augment else 1.0,
    )


def build_noise(config: NoiseConfig) -> NoiseModel:
    """The noise model that a config describes."""
    if isinstance(config, NoNoiseConfig):
        return NoNoise()
    if isinstance(config, ReferenceNoiseConfig):
        return ReferenceNoise()
    return DetectorNoise(config.dose_electrons_per_px, config.readout_std_electrons)


def _paths(scan: ScanConfig, shape: tuple[int, int], *, of_training: bool) -> list[ScanPath]:
    coverages = [scan.coverage, *(scan.more_coverages if of_training else ())]
    if scan.coverage_definition == "nominal":
        return [archimedean(shape, coverage, "nominal") for coverage in coverages]
    geometries = [scan.geometry, *(scan.more_geometries if of_training else ())]
    try:
        return [GEOMETRIES[name](shape, coverage) for name in geometries for coverage in coverages]
    except ValueError as error:
        raise ConfigError(
            expected="coverages that every geometry can have", found=str(error), where="scan"
        ) from None
