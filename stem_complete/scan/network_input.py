"""What a network gets of a partial scan, and the units and bounds of what it makes of it."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Bound(NamedTuple):
    """What bounds a completion, whatever the network says.

    Attributes:
        reach: Share of its correction that the network may add to each pixel `[b, 1, h, w]`: 1
            near measurements, falling to 0 where nothing was measured near.
        lowest: Smallest intensity `[b, 1, 1, 1]`.
        highest: Largest intensity `[b, 1, 1, 1]`.
    """

    reach: Tensor
    lowest: Tensor
    highest: Tensor


class NetworkInput(NamedTuple):
    """A batch for the network.

    Attributes:
        x: Encoded scan and dwell map `[b, c, h, w]`, with c from `NUM_CHANNELS`.
        offset: Mean of the scan `[b, 1, 1, 1]`, or the first completion `[b, 1, h, w]` that the
            network corrects, in intensity units.
        scale: Unit of the network's output `[b, 1, 1, 1]` in intensity units.
        bound: Of completions; None: there is none.
    """

    x: Tensor
    offset: Tensor
    scale: Tensor
    bound: Bound | None = None

    def at_half_size(self) -> NetworkInput:
        """The same for completions at half size."""
        offset, bound = self.offset, self.bound
        if offset.shape[-1] > 1:
            offset = F.avg_pool2d(offset, 2)
        if bound is not None:
            bound = bound._replace(reach=F.avg_pool2d(bound.reach, 2))
        return self._replace(offset=offset, bound=bound)
