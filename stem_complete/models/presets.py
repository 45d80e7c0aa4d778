"""Sizes of the networks as data, and the network built from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, Unpack

import torch

from stem_complete.models.folding import fold
from stem_complete.models.generator import InnerGenerator, OuterGenerator, TwoStageGenerator
from stem_complete.models.layers import LayerOptions
from stem_complete.models.trainer import AuxiliaryTrainer, TwoStageNetwork


@dataclass(frozen=True)
class Architecture:
    """Widths [channels] and numbers of residual blocks of a two-stage network.

    Attributes:
        inner_widths: At half size, quarter size, and so on.
        inner_blocks: At the coarsest of these.
        outer_widths: At full and at half size; the latter equals `inner_widths[0]`.
        outer_blocks: At half size.
    """

    inner_widths: tuple[int, ...]
    inner_blocks: int
    outer_widths: tuple[int, int]
    outer_blocks: int

    def __post_init__(self) -> None:
        if len(self.outer_widths) != 2 or not self.inner_widths:
            raise ValueError(f"expected one inner width or more and two outer ones, got {self}")
        if min(*self.inner_widths, *self.outer_widths) < 1:
            raise ValueError(f"widths must be positive, got {self}")
        if min(self.inner_blocks, self.outer_blocks) < 0:
            raise ValueError(f"numbers of blocks must not be negative, got {self}")
        if self.inner_widths[0] != self.outer_widths[1]:
            raise ValueError(f"inner_widths[0] must equal outer_widths[1], got {self}")

    @property
    def stride(self) -> int:
        """What height and width of an input must be multiples of [px]."""
        return int(2 ** len(self.inner_widths))

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Back from `to_dict`, or from JSON.

        Raises:
            ValueError: Keys are missing or unknown, or the sizes do not fit together.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(f"expected the keys {sorted(names)}, got {sorted(values)}")
        return cls(
            inner_widths=tuple(values["inner_widths"]),
            inner_blocks=values["inner_blocks"],
            outer_widths=tuple(values["outer_widths"]),
            outer_blocks=values["outer_blocks"],
        )


PRESETS = {
    # ALRC paper, fig. 5, widths from its code: 63.3 GMAC for a 512x512 scan.
    "paper": Architecture((64, 128, 256, 512, 768), 6, (32, 64), 3),
    # The same topology for CPUs.
    "compact": Architecture((16, 24, 32, 48, 64), 2, (8, 16), 1),
}

STRIDE = 32  # of both presets


def build_network(
    preset: str | Architecture,
    *,
    folded: bool = False,
    reference_layers: bool = False,
    **options: Unpack[LayerOptions],
) -> TwoStageNetwork:
    """The two-stage network of a preset's name or of an architecture.

    Args:
        preset: "paper", "compact" or sizes of one's own.
        folded: For inference, with the same structure and parameter names as `fold` gives and its
            memory uninitialised: load a state dict into it.
        reference_layers: The published code's exceptions, see `InnerGenerator` and
            `TwoStageGenerator`.
        options: `bias`, `leaky_slope`, `mean_norm_at_inference`, see `WeightNormConv2d`.

    Raises:
        ValueError: No preset has that name.
    """
    if isinstance(preset, str) and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    sizes = PRESETS[preset] if isinstance(preset, str) else preset
    if folded:
        with torch.device("meta"):
            network = build_network(sizes, reference_layers=reference_layers, **options)
        return fold(network).to_empty(device="cpu")
    inner = InnerGenerator(
        sizes.inner_widths, sizes.inner_blocks, reference_layers=reference_layers, **options
    )
    outer = OuterGenerator(
        sizes.outer_widths, sizes.outer_blocks, reference_layers=reference_layers, **options
    )
    generator = TwoStageGenerator(inner, outer, align_corners=reference_layers)
    return TwoStageNetwork(generator, AuxiliaryTrainer(sizes.inner_widths[0], **options))
