"""What a loop trains on: numbered examples in splits."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Examples(Protocol):
    """Examples [...] of one shape, numbered from 0, each in one split.

    `store.store.MicrographStore` is one. Objects are pickled to the processes that read ahead, so
    they open files where they first read.
    """

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Numbers of the examples of a split, ascending."""
        ...

    def read(self, indices: ArrayLike) -> NDArray[Any]:
        """Examples [b, ...] by number, as the task takes them.

        Raises:
            StemCompleteError: One cannot be read.
        """
        ...

    def fingerprint(self) -> str:
        """Hash of the examples and their splits, by which workers know that theirs are the same."""
        ...
