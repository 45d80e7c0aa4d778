"""Sizes of the networks as data, and the network built from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch

from stem_complete.models.folding import fold_norms_
from stem_complete.models.generator import DetailedInnerGenerator, InnerGenerator, OuterGenerator
from stem_complete.models.layers import LayerOptions
from stem_complete.models.two_stage import AuxiliaryTrainer, TwoStageGenerator, TwoStageNetwork
from stem_complete.vocabulary import Norm


@dataclass(frozen=True)
class Architecture:
    """Widths [channels] and numbers of residual blocks of a two-stage network.

    Attributes:
        inner_widths: Channels at half size, quarter size, and so on.
        inner_blocks: Residual blocks at the coarsest of these sizes.
        outer_widths: Channels at full and at half size; the latter equals `inner_widths[0]`.
        outer_blocks: Residual blocks at half size.
        patch: See `TwoStageGenerator`; all sizes above are then `patch` times smaller [px].
        fine_blocks: Residual blocks at each finer scale of the inner generator, on the way up.
        spectral_blocks: Spectral blocks at the end of the inner generator.
        skips: Skips between the ways down and up, in both generators.
        gates: Number of input channels to choose among, see `TwoStageGenerator`.
        norm: Of all convolutions but the last, see `WeightNormConv2d`; without mean norm all have
            biases. Mean norm removes what is the same all over an image, such as its noise level.
    """

    inner_widths: tuple[int, ...]
    inner_blocks: int
    outer_widths: tuple[int, int]
    outer_blocks: int
    patch: int = 1
    fine_blocks: int = 0
    spectral_blocks: int = 0
    skips: bool = False
    gates: int = 0
    norm: Norm = "mean"

    def __post_init__(self) -> None:
        if len(self.outer_widths) != 2 or not self.inner_widths:
            raise ValueError(f"expected one inner width or more and two outer ones, got {self}")
        widest, positive = (
            self.inner_widths[0],
            (*self.inner_widths, *self.outer_widths, self.patch),
        )
        blocks = (self.inner_blocks, self.outer_blocks, self.fine_blocks, self.spectral_blocks)
        for holds, demand in (
            (min(positive) > 0, "widths and patch must be positive"),
            (min(*blocks, self.gates) >= 0, "numbers of blocks must not be negative"),
            (widest == self.outer_widths[1], "inner_widths[0] must equal outer_widths[1]"),
            (not (self.spectral_blocks and widest % 2), "spectral blocks need an even width"),
        ):
            if not holds:
                raise ValueError(f"{demand}, got {self}")

    @property
    def stride(self) -> int:
        """Height and width of inputs are multiples of it [px]."""
        return int(2 ** len(self.inner_widths) * self.patch)


PRESETS = {
    # ALRC paper, fig. 5, widths from its code: 63.3 GMAC for a 512x512 scan.
    "paper": Architecture((64, 128, 256, 512, 768), 6, (32, 64), 3),
    # The paper's topology for CPUs.
    "compact": Architecture((16, 24, 32, 48, 64), 2, (8, 16), 1),
    # For scans of any dose: the released model.
    "any-dose": Architecture(
        (32, 48, 64, 96),
        2,
        (24, 32),
        2,
        patch=2,
        fine_blocks=1,
        spectral_blocks=2,
        skips=True,
        gates=1,
        norm="none",
    ),
}


def build_network(
    preset: str | Architecture,
    *,
    in_channels: int = 2,
    folded: bool = False,
    reference_layers: bool = False,
    **options: Unpack[LayerOptions],
) -> TwoStageNetwork:
    """The two-stage network of a preset's name or of an architecture.

    Args:
        preset: Name in `PRESETS`, or an architecture.
        in_channels: Channels of the encoded scans, see `scan.NUM_CHANNELS`.
        folded: For inference, with the structure and parameter names that `fold_norms` gives, on
            the meta device: `load_state_dict(..., assign=True)` gives it its weights.
        reference_layers: Exceptions of the published code: `entry_weight_norm` is false in the
            `InnerGenerator`, `norm_per_input_channel` true in all layers and `align_corners` true
            in the `TwoStageGenerator`.
        options: `bias`, `leaky_slope`, `mean_norm_at_inference`, see `WeightNormConv2d`.

    Raises:
        ValueError: No preset has that name.
    """
    if isinstance(preset, str) and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    sizes = PRESETS[preset] if isinstance(preset, str) else preset
    if folded:
        with torch.device("meta"):
            network = build_network(
                sizes, in_channels=in_channels, reference_layers=reference_layers, **options
            )
        return fold_norms_(network)
    options["norm"] = sizes.norm
    if sizes.norm != "mean":
        options["bias"] = True
    options["norm_per_input_channel"] = reference_layers
    in_channels *= sizes.patch**2
    make_inner: Callable[..., InnerGenerator] = InnerGenerator
    if sizes.fine_blocks or sizes.spectral_blocks or sizes.skips:
        make_inner = partial(
            DetailedInnerGenerator,
            num_fine_blocks=sizes.fine_blocks,
            num_spectral_blocks=sizes.spectral_blocks,
            skips=sizes.skips,
        )
    inner = make_inner(
        sizes.inner_widths,
        sizes.inner_blocks,
        in_channels=in_channels,
        entry_weight_norm=not reference_layers,
        **options,
    )
    outer = OuterGenerator(
        sizes.outer_widths,
        sizes.outer_blocks,
        in_channels=in_channels,
        out_channels=(1 + sizes.gates) * sizes.patch**2,
        skips=sizes.skips,
        **options,
    )
    generator = TwoStageGenerator(
        inner, outer, align_corners=reference_layers, patch=sizes.patch, gates=sizes.gates
    )
    trainer = AuxiliaryTrainer(
        sizes.inner_widths[0], patch=sizes.patch, gates=sizes.gates, **options
    )
    return TwoStageNetwork(generator, trainer)
