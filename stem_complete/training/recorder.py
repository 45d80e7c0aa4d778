"""Where a run sends its metrics and pictures while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Recorder(Protocol):
    """Takes the curves and pictures of a run: MLflow, a progress bar, a test."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes values of metrics after `step` steps."""

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Takes a greyscale picture, [h, w]."""

    def close(self) -> None:
        """Delivers what is left."""


class Recorders:
    """Several recorders as one; with none, a recorder that forgets."""

    def __init__(self, recorders: Sequence[Recorder] = ()) -> None:
        self.recorders = list(recorders)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Passes values on."""
        for recorder in self.recorders:
            recorder.scalars(step, values)

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Passes a picture on."""
        for recorder in self.recorders:
            recorder.picture(step, name, image)

    def close(self) -> None:
        """Closes all."""
        for recorder in self.recorders:
            recorder.close()
