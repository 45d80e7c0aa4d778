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
from stem_complete.models.mean_norm import (
    MeanNorm,
    commit_means,
    freeze_mean_norm,
    mean_norm_layers,
    pending_means,
)
from stem_complete.models.output import to_completion
from stem_complete.models.presets import PRESETS, Architecture, build_network
from stem_complete.models.resnet import ResNet18
from stem_complete.models.supersampling import SupersamplingNetwork
from stem_complete.models.two_stage import (
    TwoStageGenerator,
    TwoStageNetwork,
)

__all__ = [
    "PRESETS",
    "Architecture",
    "DetailedInnerGenerator",
    "InnerGenerator",
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
    "commit_means",
    "fold_norms",
    "freeze_mean_norm",
    "initialise",
    "mean_norm_layers",
    "pending_means",
    "to_completion",
]
