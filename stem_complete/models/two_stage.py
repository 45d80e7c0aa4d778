"""The two-stage network: both generators, and the auxiliary trainer that only training needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stem_complete.models.generator import (
    InnerGenerator,
    OuterGenerator,
    check_input,
    image_layer,
)
from stem_complete.models.layers import LayerOptions, WeightNormConv2d


class TwoStageGenerator(nn.Module):
    """Both generators: the scan at half size goes into the inner one, its features into the outer.

    Args:
        inner: Inner generator; its first width must equal the outer generator's at half size.
        outer: Outer generator.
        align_corners: How the scan is halved. True as in the published code (bilinear, corner
            pixels kept in place, which shifts others by up to half a pixel); False takes 2x2 means,
            which is bilinear interpolation at the half-size pixels' own centres.
        patch: Side of the squares of pixels that become channels of one pixel before both
            generators, which then convolve smaller images (pixel unshuffle; Shi et al. 2016,
            arXiv:1609.05158). 1 in the paper.
        gates: Number of last input channels that are added to the completion, each times an output
            map of the outer generator, which so chooses among first completions pixel by pixel.
            0 in the paper.
    """

    def __init__(
        self,
        inner: InnerGenerator,
        outer: OuterGenerator,
        *,
        align_corners: bool = False,
        patch: int = 1,
        gates: int = 0,
    ) -> None:
        super().__init__()
        inner_width, outer_width = inner.entry.out_channels, outer.down.out_channels
        if inner_width != outer_width:
            raise ValueError(
                f"the inner generator's {inner_width} features cannot be added to the outer "
                f"generator's {outer_width}"
            )
        self.inner, self.outer, self.align_corners, self.patch = inner, outer, align_corners, patch
        self.gates = gates
        self.in_channels = outer.in_channels // patch**2
        self.stride = 2 * inner.stride * patch

    def inner_features(self, x: Tensor) -> Tensor:
        """The inner generator's features of the full-size `x` `[b, in_channels, h, w]`.

        They are `[b, widths[0], h/2/patch, w/2/patch]`.
        """
        features: Tensor = self.inner(to_patches(self.halve(x), self.patch))
        return features

    def local_features(self, x: Tensor) -> Tensor:
        """Inner features before `whole_image_blocks`, of the same shape."""
        return self.inner.local_features(to_patches(self.halve(x), self.patch))

    @property
    def whole_image_blocks(self) -> Sequence[nn.Module]:
        """The inner generator's last blocks, in which each pixel depends on all others."""
        return self.inner.whole_image_blocks

    @property
    def feature_scale(self) -> int:
        """Sides of `x` in units of its inner features'."""
        return 2 * self.patch

    def halve(self, x: Tensor) -> Tensor:
        """The half-size scan `[b, in_channels, h/2, w/2]` of the full-size one."""
        check_input(x, self.in_channels, self.stride)
        if self.align_corners:
            return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True)
        return F.avg_pool2d(x, 2)

    def complete(self, x: Tensor, inner_features: Tensor) -> Tensor:
        """Completion `[b, 1, h, w]` of `x` `[b, in_channels, h, w]` and its inner features."""
        maps = from_patches(self.outer(to_patches(x, self.patch), inner_features), self.patch)
        return open_gates(maps, x, self.gates)

    def forward(self, x: Tensor) -> Tensor:
        """Completion `[b, 1, h, w]` of `x` `[b, in_channels, h, w]`; h, w multiples of `stride`.

        Raises:
            ValueError: `x` has another shape.
        """
        return self.complete(x, self.inner_features(x))


class NetworkOutput(NamedTuple):
    """Completions in units of the network, which the losses compare with the truth."""

    full: Tensor  # [b, 1, h, w]
    half: Tensor  # [b, 1, h/2, w/2]


class AuxiliaryTrainer(nn.Module):
    """Completes at half size from the inner features, to give them a short path of gradients.

    ALRC paper, section IV. Only training needs it.

    Args:
        width: Channels of the inner features.
        patch: The same as the generator's, p.
        gates: The same as the generator's.
        options: Arguments that all convolutions share, see `WeightNormConv2d`.
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

        Without gates they are the half-size completion; `open_gates` applies gates.
        """
        return from_patches(self.image(self.refine(inner_features)), self.patch)


class TwoStageNetwork(nn.Module):
    """Full- and half-size completions from one pass through the inner generator.

    The gradient of the sum of both losses is that of `full` in the outer generator, that of `half`
    in the trainer, and the sum of both in the inner generator.
    """

    def __init__(self, generator: TwoStageGenerator, trainer: AuxiliaryTrainer) -> None:
        super().__init__()
        self.generator, self.trainer = generator, trainer

    def forward(self, x: Tensor) -> NetworkOutput:
        """Completions of `x` `[b, in_channels, h, w]`; h, w multiples of `generator.stride`."""
        features = self.generator.inner_features(x)
        full, half = self.generator.complete(x, features), self.trainer(features)
        gates = self.generator.gates
        # The paper's network has none, and needs no half-size scan here.
        return NetworkOutput(
            full, open_gates(half, self.generator.halve(x), gates) if gates else half
        )


def to_patches(images: Tensor, patch: int) -> Tensor:
    """`[b, c patch^2, h/patch, w/patch]` of images `[b, c, h, w]`: squares become channels."""
    if patch == 1:
        return images
    # `pixel_unshuffle` loses the memory format, which convolutions on CPUs need.
    return F.pixel_unshuffle(images, patch).contiguous(memory_format=torch.channels_last)


def from_patches(images: Tensor, patch: int) -> Tensor:
    """Inverse of `to_patches`."""
    return images if patch == 1 else F.pixel_shuffle(images, patch)


def open_gates(maps: Tensor, x: Tensor, gates: int) -> Tensor:
    """The first of `maps` `[b, 1 + gates, h, w]` plus the others times the last channels of `x`."""
    if not gates:
        return maps
    chosen = (maps[:, 1:] * x[:, -gates:]).sum(1, keepdim=True)
    return maps[:, :1] + chosen
