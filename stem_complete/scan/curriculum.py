"""Easier scans first: denser and less noisy ones, up to a step of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stem_complete.scan.path import ScanPath


@dataclass(frozen=True)
class Curriculum:
    """Easier scans before `steps`; then those of a simulator without it, to the bit.

    Up to then the run has levels of equal length. Ease falls from level to level: of coverages and
    doses in equal ratios, of the noisy fraction in equal steps.

    Attributes:
        steps: How long it lasts.
        paths: Denser paths, beyond those of the simulator.
        stand_ins: Number of the path that stands in for each of the simulator's, `[levels, p]`;
            those of `paths` are counted on from p.
        doses: The least dose of each level [electrons for a full pixel dwell]; empty: any.
        noisy_fractions: Fraction of the examples with noise, by level; empty: the simulator's.
    """

    steps: int
    paths: Sequence[ScanPath]
    stand_ins: Sequence[Sequence[int]]
    doses: Sequence[float] = ()
    noisy_fractions: Sequence[float] = ()

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.stand_ins)


def level_of(curriculum: Curriculum, step: int | Tensor, examples: Tensor) -> Tensor:
    """The level of each of `examples` [b, ...], [b]; beyond all levels from `curriculum.steps` on.

    Args:
        curriculum: The levels.
        step: Step of the run, or that of each example [b].
        examples: What is seen in it.
    """
    # Filled on the device: neither a copy from the host nor a wait would go into a CUDA graph.
    number = step if isinstance(step, Tensor) else torch.full((), step, device=examples.device)
    level = number.long() * curriculum.num_levels // curriculum.steps
    return level.clamp(max=curriculum.num_levels).expand(len(examples))


def falling(start: float, end: float, num: int, *, by_ratio: bool = True) -> list[float]:
    """`num` values from `start` on, of which one more would be `end`, by equal ratios or steps."""
    shares = [level / num for level in range(num)]
    if by_ratio:
        return [start * (end / start) ** share for share in shares]
    return [start + (end - start) * share for share in shares]
