"""Networks: weight-normalised layers, the two-stage generator, its trainer, presets, outputs."""

from stem_complete.models.blocks import ResidualBlock, SpectralBlock
from stem_complete.models.folding import fold_norms
from stem_complete.models.generator import (
    DetailedInnerGenerator,
    InnerGenerator,
    OuterGenerator,
)
from stem_complete.models.initialisation import initialise
from stem_complete.models.layers import WeightNormConv2d
from stem_complete.models.mean_norm import MeanNorm
from stem_complete.models.norms import BatchNorm, LayerNorm
from stem_complete.models.output import to_completion
from stem_complete.models.presets import PRESETS, Architecture, build_network
from stem_complete.models.resnet import ResNet18
from stem_complete.models.running import (
    commit_statistics,
    freeze_norms,
    pending_statistics,
    running_norms,
)
from stem_complete.models.supersampling import SupersamplingNetwork
from stem_complete.models.two_stage import (
    TwoStageGenerator,
    TwoStageNetwork,
)

__all__ = [
    "PRESETS",
    "Architecture",
    "BatchNorm",
    "DetailedInnerGenerator",
    "InnerGenerator",
    "LayerNorm",
    "MeanNorm",
    "OuterGenerator",
    "ResNet18",
    "ResidualBlock",
    "SpectralBlock",
    "SupersamplingNetwork",
    "TwoStageGenerator",
    "TwoStageNetwork",
    "WeightNormConv2d",
    "build_network",
    "commit_statistics",
    "fold_norms",
    "freeze_norms",
    "initialise",
    "pending_statistics",
    "running_norms",
    "to_completion",
]
