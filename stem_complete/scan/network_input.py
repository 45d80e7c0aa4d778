"""What a network gets of a partial scan, and the units and bounds of what it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from stem_complete.scan.parts import Parts


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


WHOLE = slice(None)


@dataclass(frozen=True)
class Analysis:
    """What an encoding finds in whole scans, and makes the network's input of, window by window.

    All that a pixel's input depends on beyond itself is in the maps: range, noise and lattice are
    those of the whole scan in every window, and no border of a window is seen.

    Attributes:
        maps: Images `[b, 1, h, w]`, far fewer than the channels and bounds of the input.
        compose: The input of a window from the maps there, pixel by pixel.
        parts: What the scans consist of, if the encoding takes them apart.
    """

    maps: tuple[Tensor, ...]
    compose: Callable[..., NetworkInput]
    parts: Parts | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the scans [px]."""
        height, width = self.maps[0].shape[-2:]
        return height, width

    def window(self, rows: slice = WHOLE, columns: slice = WHOLE) -> NetworkInput:
        """The network's input in these rows and columns."""
        return self.compose(*(each[..., rows, columns] for each in self.maps))
