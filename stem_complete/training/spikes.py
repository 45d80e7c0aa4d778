"""The examples that ALRC clipped hardest: which, when, and how far above the threshold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NUM_KEPT = 64
"""Of a run, in its checkpoints."""


class Spike(NamedTuple):
    """A loss that was clipped.

    Attributes:
        step: Steps taken before it; of a hard example that came again, before it came first.
        position: Of the example in the global batch, from which with the step follows how it was
            varied and scanned.
        example: Number of the example.
        name: Of the loss.
        loss: As measured.
        threshold: What it was clipped to.
    """

    step: int
    position: int
    example: int
    name: str
    loss: float
    threshold: float

    @property
    def ratio(self) -> float:
        """How many times the threshold it was."""
        return self.loss / max(self.threshold, 1e-30)


def hardest(spikes: Iterable[Spike], num: int = NUM_KEPT) -> tuple[Spike, ...]:
    """The `num` spikes highest above their thresholds, the hardest first; each only once."""
    return tuple(sorted(set(spikes), key=lambda spike: (-spike.ratio, spike))[:num])
