"""Paths of the probe: positions and dwell times, in time order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stem_complete.scan.raster import check_path, deposit


@dataclass(frozen=True, eq=False)
class ScanPath:
    """A path of the probe over an image.

    Attributes:
        positions: (x, y) in time order `[n, 2]` float64 [px]; pixel centres are whole numbers.
        dwell: Time spent at each position `[n]` float32 [full pixel dwells], >= 0.
        shape: (h, w) of the image [px].

    Raises:
        ValueError: The shapes do not fit together, or a value is not finite or negative.
    """

    positions: Tensor
    dwell: Tensor
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", torch.as_tensor(self.positions).double())
        object.__setattr__(self, "dwell", torch.as_tensor(self.dwell).float())
        check_path(self.positions, self.dwell, self.shape)
        object.__setattr__(self, "shape", (int(self.shape[0]), int(self.shape[1])))
        if not self.positions.isfinite().all():
            raise ValueError("positions must be finite, got NaN or infinite ones")
        if not (self.dwell.isfinite() & (self.dwell >= 0)).all():
            raise ValueError("dwell must be finite and not negative")

    @property
    def coverage(self) -> float:
        """True coverage: mean of the dwell map."""
        return float(self.dwell_map().double().mean())

    def dwell_map(self) -> Tensor:
        """Dwell map `[h, w]` float32 [full pixel dwells]; positions outside are ignored."""
        return deposit(self.positions, self.dwell, self.shape)
