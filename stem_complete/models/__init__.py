"""Networks: weight-normalised layers, the two-stage generator, its trainer, presets."""

from stem_complete.models.blocks import ResidualBlock, SpectralBlock
from stem_complete.models.folding import fold_norms
from stem_complete.models.generator import (
    DetailedInnerGenerator,
    InnerGenerator,
    OuterGenerator,
)
from stem_complete.models.initialisation import initialise
from stem_complete.models.layers import LayerOptions, WeightNormConv2d, count_weights
from stem_complete.models.mean_norm import (
    MeanNorm,
    commit_means,
    freeze_mean_norm,
    mean_norm_layers,
    pending_means,
)
from stem_complete.models.presets import PRESETS, STRIDE, Architecture, build_network
from stem_complete.models.two_stage import (
    AuxiliaryTrainer,
    NetworkOutput,
    TwoStageGenerator,
    TwoStageNetwork,
)

__all__ = [
    "PRESETS",
    "STRIDE",
    "Architecture",
    "AuxiliaryTrainer",
    "DetailedInnerGenerator",
    "InnerGenerator",
    "LayerOptions",
    "MeanNorm",
    "NetworkOutput",
    "OuterGenerator",
    "ResidualBlock",
    "SpectralBlock",
    "TwoStageGenerator",
    "TwoStageNetwork",
    "WeightNormConv2d",
    "build_network",
    "commit_means",
    "count_weights",
    "fold_norms",
    "freeze_mean_norm",
    "initialise",
    "mean_norm_layers",
    "pending_means",
]
