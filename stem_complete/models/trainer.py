"""The auxiliary trainer, and the network that is trained: generator and trainer together."""

from __future__ import annotations

from typing import NamedTuple, Unpack

from torch import Tensor, nn

from stem_complete.models.generator import (
    TwoStageGenerator,
    from_patches,
    image_layer,
    open_gates,
)
from stem_complete.models.layers import LayerOptions, WeightNormConv2d


class Completions(NamedTuple):
    """What the losses compare with the truth."""

    full: Tensor  # [b, 1, h, w]
    half: Tensor  # [b, 1, h/2, w/2]


class AuxiliaryTrainer(nn.Module):
    """A half-size completion from the inner features: a short way for gradients to reach them.

    ALRC paper, section IV. Only training needs it.

    Args:
        width: Channels of the inner features.
        patch: As the generator's, p.
        gates: As the generator's.
        options: What all convolutions share, see `WeightNormConv2d`.
    """

    def __init__(
        self, width: int = 64, *, patch: int = 1, gates: int = 0, **options: Unpack[LayerOptions]
    ) -> None:
        super().__init__()
        self.patch = patch
        self.refine = WeightNormConv2d(width, width, **options)
        self.image = image_layer(width, (1 + gates) * patch**2, **options)

    def forward(self, inner_features: Tensor) -> Tensor:
        """Maps `[b, 1 + gates, h/2, w/2]` of features `[b, width, h/2/p, w/2/p]`.

        Without gates that is the half-size completion; with them see `open_gates`.
        """
        return from_patches(self.image(self.refine(inner_features)), self.patch)


class TwoStageNetwork(nn.Module):
    """Full- and half-size completions from one pass through the inner generator.

    The sum of both losses gives each part exactly its gradient: the outer generator sees only
    `full`, the trainer only `half`, the inner generator both.
    """

    def __init__(self, generator: TwoStageGenerator, trainer: AuxiliaryTrainer) -> None:
        super().__init__()
        self.generator, self.trainer = generator, trainer

    def forward(self, x: Tensor) -> Completions:
        """Completions of `x` `[b, in_channels, h, w]`; h, w multiples of `generator.stride`."""
        features = self.generator.inner_features(x)
        full, half = self.generator.complete(x, features), self.trainer(features)
        gates = self.generator.gates
        # The paper's network has none, and needs no half-size scan here.
        return Completions(
            full, open_gates(half, self.generator.halve(x), gates) if gates else half
        )
