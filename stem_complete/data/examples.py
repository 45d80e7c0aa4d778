"""What a loop trains on: numbered examples in splits."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_complete.console import counted
from stem_complete.errors import ConfigError
from stem_complete.extras import program

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Examples(Protocol):
    """Examples [...] of one shape, numbered from 0, each in one split.

    `store.store.MicrographStore` is one. Objects are pickled to the processes that read ahead, so
    they open files where they first read.
    """

    def __len__(self) -> int:
        """How many there are, in all splits."""
        ...

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Numbers of the examples of a split, ascending."""
        ...

    def read(self, indices: ArrayLike) -> NDArray[Any]:
        """Examples [b, ...] by number, as the task takes them.

        Raises:
            StemCompleteError: One cannot be read.
        """
        ...

    def first(self, count: int) -> Self:
        """The first `count` examples alone, as they were before others were appended."""
        ...

    def fingerprint(self) -> str:
        """Hash of the examples and their splits, by which a run knows its own again."""
        ...


class ExamplesRecord(NamedTuple):
    """Which examples a run is trained on, as its checkpoints record it.

    Attributes:
        num: How many, in all splits.
        fingerprint: Hash of these.
    """

    num: int
    fingerprint: str


def record_of(examples: Examples) -> ExamplesRecord:
    """What a run that is trained on all of `examples` records."""
    return ExamplesRecord(len(examples), examples.fingerprint())


def check_trainable(examples: Examples, where: object) -> None:
    """Checks that there is something to train on.

    Raises:
        ConfigError: There is not.
    """
    if not len(examples.indices("train")):
        raise ConfigError(
            expected="examples in the training split",
            found="none",
            where=where,
            fix=f"ingest more images with `{program()} ingest`",
        )


def check_recorded(examples: Examples, record: ExamplesRecord, where: object) -> None:
    """Checks that `examples` begin with those of a record; more may have been appended since.

    Args:
        examples: As they are now.
        record: Of a run.
        where: What was trained on the record's examples.

    Raises:
        ConfigError: They are others.
    """
    if len(examples) < record.num:
        found = f"a store of {len(examples):,}"
    elif (now := examples.first(record.num).fingerprint()) != record.fingerprint:
        found = f"others ({now[:12]})"
    else:
        return
    raise ConfigError(
        expected=f"the {counted(record.num, 'example')} that this run began with "
        f"({record.fingerprint[:12]})",
        found=found,
        where=where,
        fix="set data.store to the store that it began with, wherever that lies now, or train "
        "under another name",
    )
