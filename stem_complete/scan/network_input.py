"""What a network gets of a partial scan, and how its output becomes a completion."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LIMIT = 5.0
"""Largest correction of a pixel, in units of what the first completion is likely to err: one in a
thousand pixels of validation scans needs more than 4."""

RMS_LIMIT = 1.5
"""Largest root mean square correction of an image, in the same units."""


class NetworkInput(NamedTuple):
    """A batch for the network.

    Attributes:
        x: Encoded scan and dwell map `[b, c, h, w]`, with c from `NUM_CHANNELS`.
        offset: Mean of the scan `[b, 1, 1, 1]`, or the first completion `[b, 1, h, w]` that the
            network corrects, in intensity units.
        scale: Unit of the network's output `[b, 1, 1, 1]` in intensity units.
        reach: Share of its correction that the network may add to each pixel `[b, 1, h, w]`: 1
            near measurements, falling to 0 where nothing was measured near. None: no bound.
        lowest: Smallest intensity of a completion `[b, 1, 1, 1]`; None: no bound.
        highest: Largest intensity of a completion.
    """

    x: Tensor
    offset: Tensor
    scale: Tensor
    reach: Tensor | None = None
    lowest: Tensor | None = None
    highest: Tensor | None = None

    def completion(self, output: Tensor) -> Tensor:
        """Completion `[b, 1, h, w]` in intensity units of the network's output, which it bounds."""
        if self.reach is None:
            return self.offset + self.scale * output
        bounded = LIMIT * torch.tanh(output / LIMIT)
        # The smallest square keeps the gradient finite where there is nothing to correct.
        square = bounded.square().mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
        bounded = bounded * (RMS_LIMIT / square.sqrt()).clamp(max=1)
        completion = self.offset + self.scale * self.reach * bounded
        return completion.maximum(self.lowest).minimum(self.highest)

    def at_half_size(self) -> NetworkInput:
        """The same for completions at half size."""
        halves = [
            torch.nn.functional.avg_pool2d(image, 2) if image is not None and image.shape[-1] > 1
            else image
            for image in (self.offset, self.reach)
        ]
        return self._replace(offset=halves[0], reach=halves[1])
