"""The inner and the outer generator: large-scale features at half size, completion at full size.

Ede and Beanland 2020 (the ALRC paper), section IV and fig. 5; widths from its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

from torch import Tensor, nn

from stem_complete.models.blocks import ResidualBlock, SpectralBlock
from stem_complete.models.layers import LayerOptions, WeightNormConv2d


class InnerGenerator(nn.Module):
    """Large-scale features of a half-size partial scan: down, residual blocks, up again.

    Args:
        widths: Channels at each scale, the half-size one first.
        num_blocks: Residual blocks at the coarsest scale.
        in_channels: Channels of the encoded scan.
        entry_weight_norm: Whether the first layer has weight norm. The published code's has none.
        options: Arguments that all convolutions share, see `WeightNormConv2d`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512, 768),
        num_blocks: int = 6,
        *,
        in_channels: int = 2,
        entry_weight_norm: bool = True,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths must name the channels of at least one scale")
        self.stride = 2 ** (len(widths) - 1)
        self.in_channels = in_channels
        self.entry = WeightNormConv2d(
            in_channels, widths[0], 5, weight_norm=entry_weight_norm, **options
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
            *(upsampling(coarse, fine, **options) for coarse, fine in pairwise(reversed(widths)))
        )

    @property
    def whole_image_blocks(self) -> Sequence[nn.Module]:
        """Its last blocks, in which each pixel depends on all others."""
        return ()

    def forward(self, x: Tensor) -> Tensor:
        """Features `[b, widths[0], h, w]` of `x` `[b, c, h, w]`; h, w multiples of `stride`."""
        features = self.local_features(x)
        for block in self.whole_image_blocks:
            features = block(features)
        return features

    def local_features(self, x: Tensor) -> Tensor:
        """Features before `whole_image_blocks`, of the same shape."""
        check_input(x, self.in_channels, self.stride)
        features: Tensor = self.up(self.blocks(self.down(self.entry(x))))
        return features


class DetailedInnerGenerator(InnerGenerator):
    """The inner generator with skips, residual blocks at all scales and spectral blocks. Ours.

    Args:
        widths: See `InnerGenerator` for this and the arguments that are not listed.
        num_blocks: Residual blocks at the coarsest scale.
        num_fine_blocks: Residual blocks at each finer scale, on the way up.
        num_spectral_blocks: Spectral blocks at the finest scale, after all others.
        skips: On the way up, add the features of the way down (Ronneberger et al. 2015,
            arXiv:1505.04597, with sums).
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_blocks: int,
        *,
        in_channels: int = 2,
        entry_weight_norm: bool = True,
        num_fine_blocks: int = 0,
        num_spectral_blocks: int = 0,
        skips: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
            widths,
            num_blocks,
            in_channels=in_channels,
            entry_weight_norm=entry_weight_norm,
            **options,
        )
        self.skips = skips
        for layer in self.up:
            assert isinstance(layer, WeightNormConv2d)
            layer.ends_branch = skips
        self.fine_blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width, **options) for _ in range(num_fine_blocks)))
            for width in reversed(widths[:-1])
        )
        self.spectral_blocks = nn.Sequential(
            *(SpectralBlock(widths[0], **options) for _ in range(num_spectral_blocks))
        )

    @property
    def whole_image_blocks(self) -> Sequence[nn.Module]:
        """The spectral blocks."""
        return tuple(self.spectral_blocks)

    def local_features(self, x: Tensor) -> Tensor:
        """Features before the spectral blocks, of the same shape."""
        check_input(x, self.in_channels, self.stride)
        features: Tensor = self.entry(x)
        finer = []
        for down in self.down:
            finer.append(features)
            features = down(features)
        features = self.blocks(features)
        for up, blocks in zip(self.up, self.fine_blocks, strict=True):
            features = up(features)
            if self.skips:
                features = features + finer.pop()
            features = blocks(features)
        return features


class OuterGenerator(nn.Module):
    """Completes a partial scan at full size, from the scan and the inner features.

    Args:
        widths: Channels at full and at half size; the inner features have as many as the latter.
        num_blocks: Residual blocks at half size.
        in_channels: Channels of the encoded scan.
        out_channels: Channels of the completion.
        skips: Add the full-size features of the way down on the way up.
        options: Arguments that all convolutions share, see `WeightNormConv2d`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64),
        num_blocks: int = 3,
        *,
        in_channels: int = 2,
        out_channels: int = 1,
        skips: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__()
        full, half = widths
        self.in_channels, self.skips = in_channels, skips
        self.entry = WeightNormConv2d(in_channels, full, 5, **options)
        self.down = WeightNormConv2d(full, half, stride=2, **options)
        self.blocks = nn.Sequential(*(ResidualBlock(half, **options) for _ in range(num_blocks)))
        self.up = upsampling(half, full, **options)
        self.up.ends_branch = skips
        self.refine = WeightNormConv2d(full, full, **options)
        self.image = image_layer(full, out_channels, **options)

    def forward(self, x: Tensor, inner_features: Tensor) -> Tensor:
        """Completion `[b, out_channels, h, w]` of `x` `[b, in_channels, h, w]`; h and w even.

        `inner_features` is `[b, widths[1], h/2, w/2]`.
        """
        check_input(x, self.in_channels, 2)
        fine = self.entry(x)
        features = self.up(self.blocks(self.down(fine) + inner_features))
        if self.skips:
            features = features + fine
        completion: Tensor = self.image(self.refine(features))
        return completion


def upsampling(
    in_channels: int, out_channels: int, **options: Unpack[LayerOptions]
) -> WeightNormConv2d:
    """Transposed convolution that doubles height and width."""
    return WeightNormConv2d(in_channels, out_channels, stride=2, transposed=True, **options)


def image_layer(
    in_channels: int, out_channels: int = 1, **options: Unpack[LayerOptions]
) -> WeightNormConv2d:
    """The last convolution of a branch, without norm and activation."""
    bias = options.get("bias", False)
    return WeightNormConv2d(in_channels, out_channels, norm="none", bias=bias, leaky_slope=None)


def check_input(x: Tensor, num_channels: int, multiple: int) -> None:
    """Raises ValueError unless `x` is `[b, num_channels, h, w]` with h and w such multiples."""
    fits = x.ndim == 4 and x.shape[1] == num_channels
    if not fits or x.shape[2] % multiple or x.shape[3] % multiple or 0 in x.shape:
        raise ValueError(
            f"expected [b, {num_channels}, h, w] with h and w multiples of {multiple}, "
            f"got {list(x.shape)}"
        )
