"""The two-stage generator: large-scale features at half size, completed at full size.

Ede and Beanland 2020 (the ALRC paper), section IV and fig. 5; widths from its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from stem_complete.models.layers import LayerOptions, WeightNormConv2d

IN_CHANNELS = 2  # encoded intensities and dwell


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions and one skip over them all; nothing after the sum."""

    def __init__(self, width: int, **options: Unpack[LayerOptions]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(WeightNormConv2d(width, width, **options) for _ in range(3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x` plus what three convolutions make of it, `[b, width, h, w]`."""
        residual: Tensor = self.layers(x)
        return x + residual


class InnerGenerator(nn.Module):
    """Large-scale features of a half-size partial scan: down, residual blocks, up again.

    Args:
        widths: Channels at each scale, the half-size one first.
        num_blocks: Residual blocks at the coarsest scale.
        reference_layers: As in the published code: no weight norm in the first layer, transposed
            kernels normalised per input channel.
        options: What all convolutions share, see `WeightNormConv2d`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 768),
        num_blocks: int = 6,
        *,
        reference_layers: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths must name the channels of at least one scale")
        self.stride = 2 ** (len(widths) - 1)
        self.entry = WeightNormConv2d(
            IN_CHANNELS, widths[0], 5, weight_norm=not reference_layers, **options
        )
        self.down = nn.Sequential(
            *(
                WeightNormConv2d(fine, coarse, stride=2, **options)
                for fine, coarse in pairwise(widths)
            )
        )
        self.blocks = nn.Sequential(
            *(ResidualBlock(widths[-1], **options) for _ in range(num_blocks))
        )
        self.up = nn.Sequential(
            *(
                upsampling(coarse, fine, reference_layers=reference_layers, **options)
                for coarse, fine in pairwise(reversed(widths))
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features `[b, widths[0], h, w]` of `x` `[b, 2, h, w]`; h, w multiples of `stride`."""
        check_input(x, IN_CHANNELS, self.stride)
        features: Tensor = self.up(self.blocks(self.down(self.entry(x))))
        return features


class OuterGenerator(nn.Module):
    """Completion of a partial scan at full size, from the scan and the inner features.

    Args:
        widths: Channels at full and at half size; the latter is the inner features' too.
        num_blocks: Residual blocks at half size.
        reference_layers: Transposed kernels normalised per input channel.
        options: What all convolutions share, see `WeightNormConv2d`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64),
        num_blocks: int = 3,
        *,
        reference_layers: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__()
        full, half = widths
        self.entry = WeightNormConv2d(IN_CHANNELS, full, 5, **options)
        self.down = WeightNormConv2d(full, half, stride=2, **options)
        self.blocks = nn.Sequential(*(ResidualBlock(half, **options) for _ in range(num_blocks)))
        self.up = upsampling(half, full, reference_layers=reference_layers, **options)
        self.refine = WeightNormConv2d(full, full, **options)
        self.image = image_layer(full, **options)

    def forward(self, x: Tensor, inner_features: Tensor) -> Tensor:
        """Completion `[b, 1, h, w]` of `x` `[b, 2, h, w]`; h and w even.

        `inner_features` is `[b, widths[1], h/2, w/2]`.
        """
        check_input(x, IN_CHANNELS, 2)
        features = self.down(self.entry(x)) + inner_features
        completion: Tensor = self.image(self.refine(self.up(self.blocks(features))))
        return completion


class TwoStageGenerator(nn.Module):
    """Both generators: the scan at half size feeds the inner one, which feeds the outer one.

    Args:
        inner: Its first width must equal the outer generator's width at half size.
        outer: See `OuterGenerator`.
        align_corners: How the scan is halved. True as in the published code (bilinear, corner
            pixels kept in place, which shifts others by up to half a pixel); False takes 2x2 means,
            which is bilinear interpolation at the half-size pixels' own centres.
    """

    def __init__(
        self, inner: InnerGenerator, outer: OuterGenerator, *, align_corners: bool = False
    ) -> None:
        super().__init__()
        inner_width, outer_width = inner.entry.out_channels, outer.down.out_channels
        if inner_width != outer_width:
            raise ValueError(
                f"the inner generator's {inner_width} features cannot be added to the outer "
                f"generator's {outer_width}"
            )
        self.inner, self.outer, self.align_corners = inner, outer, align_corners
        self.stride = 2 * inner.stride

    def inner_features(self, x: Tensor) -> Tensor:
        """The inner generator's features `[b, c, h/2, w/2]` of the full-size `x` `[b, 2, h, w]`."""
        check_input(x, IN_CHANNELS, self.stride)
        if self.align_corners:
            half = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True)
        else:
            half = F.avg_pool2d(x, 2)
        features: Tensor = self.inner(half)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Completion `[b, 1, h, w]` of `x` `[b, 2, h, w]`; h, w multiples of `stride`.

        Raises:
            ValueError: `x` has another shape.
        """
        completion: Tensor = self.outer(x, self.inner_features(x))
        return completion


def upsampling(
    in_channels: int,
    out_channels: int,
    *,
    reference_layers: bool,
    **options: Unpack[LayerOptions],
) -> WeightNormConv2d:
    """Transposed convolution that doubles height and width."""
    return WeightNormConv2d(
        in_channels,
        out_channels,
        stride=2,
        transposed=True,
        norm_per_input_channel=reference_layers,
        **options,
    )


def image_layer(in_channels: int, **options: Unpack[LayerOptions]) -> WeightNormConv2d:
    """The last convolution of a branch: to one channel, without mean norm and activation."""
    return WeightNormConv2d(
        in_channels, 1, mean_norm=False, bias=options.get("bias", False), leaky_slope=None
    )


def check_input(x: Tensor, num_channels: int, multiple: int) -> None:
    """Raises ValueError unless `x` is `[b, num_channels, h, w]`, h and w such multiples."""
    fits = x.ndim == 4 and x.shape[1] == num_channels
    if not fits or x.shape[2] % multiple or x.shape[3] % multiple or 0 in x.shape:
        raise ValueError(
            f"expected [b, {num_channels}, h, w] with h and w multiples of {multiple}, "
            f"got {list(x.shape)}"
        )
