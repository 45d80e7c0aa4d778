"""Config of a training run: schema, defaults, loading."""

from stem_complete.config.loading import (
    BUNDLED,
    expand_sweep,
    find_config,
    load_config,
    validate_config,
)
from stem_complete.config.schema import (
    ALRCConfig,
    Config,
    DetectorNoise,
    LossConfig,
    ModelConfig,
    Noise,
    NoNoise,
    OptimizerConfig,
    ReferenceNoise,
    ScanConfig,
    parse_coverage,
)

__all__ = [
    "BUNDLED",
    "ALRCConfig",
    "Config",
    "DetectorNoise",
    "LossConfig",
    "ModelConfig",
    "NoNoise",
    "Noise",
    "OptimizerConfig",
    "ReferenceNoise",
    "ScanConfig",
    "expand_sweep",
    "find_config",
    "load_config",
    "parse_coverage",
    "validate_config",
]
