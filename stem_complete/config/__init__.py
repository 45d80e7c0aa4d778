"""Config of a training run: schema, defaults, loading."""

from stem_complete.config.differences import differences, flatten, in_lines
from stem_complete.config.loading import (
    BUNDLED,
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    expand_sweep,
    find_config,
    load_config,
    shortened,
    validate_config,
)
from stem_complete.config.optimization import GradientClippingConfig, OptimizerConfig
from stem_complete.config.schema import (
    ALRCConfig,
    AugmentationConfig,
    Config,
    DetectorNoiseConfig,
    ModelConfig,
    NoiseConfig,
    NoNoiseConfig,
    PathFile,
    ReferenceNoiseConfig,
    ScanConfig,
)

__all__ = [
    "BUNDLED",
    "CHECKPOINTS_FOLDER",
    "CONFIG_FILE",
    "ALRCConfig",
    "AugmentationConfig",
    "Config",
    "DetectorNoiseConfig",
    "GradientClippingConfig",
    "ModelConfig",
    "NoNoiseConfig",
    "NoiseConfig",
    "OptimizerConfig",
    "PathFile",
    "ReferenceNoiseConfig",
    "ScanConfig",
    "differences",
    "expand_sweep",
    "find_config",
    "flatten",
    "in_lines",
    "load_config",
    "shortened",
    "validate_config",
]
