"""Units of work, one output file or one shard each, and what becomes of them.

Only these travel between processes: places of scans, hashes and figures, never pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from stem_complete.errors import Failure
from stem_complete.inference.card import ModelCard
from stem_complete.inference.completer import CompletedScan, Completer
from stem_complete.inference.image_files import Outputs
from stem_complete.serving.batch.sources import Source
from stem_complete.storage.manifest import Record
from stem_complete.storage.paths import FileContent

MOST_SCANS = 256
"""In a shard, unless the user says how many."""

MadeFrom = dict[str, str]
"""Hashes of what a completion follows from, by name."""


class Unit(NamedTuple):
    """What one worker completes and writes as a whole.

    Attributes:
        name: Of what is written, below the destination.
        scans: Where its scans are read from.
        rows: Of shards, the place of each scan in it.
        shape: Of shards, the (h, w) of each scan [px].
        before: What the manifest says of it, None if nothing.
        trusted: Scans whose files have not changed since, by their stamps.
        is_trial: Whether it is only completed, to see whether a worker survives that, not written.
        lost: By place, results of scans that no worker survives: these are left out.
    """

    name: str
    scans: tuple[Source, ...]
    rows: tuple[int, ...] = (0,)
    shape: tuple[int, int] | None = None
    before: Record | None = None
    trusted: frozenset[int] = frozenset()
    is_trial: bool = False
    lost: tuple[tuple[int, ScanResult], ...] = ()

    def absolute(self) -> Unit:
        """The same for a process with another working folder."""
        return self._replace(scans=tuple(source.absolute() for source in self.scans))

    def trial(self, place: int) -> Unit:
        """A unit of one of the scans, of which nothing is written."""
        return self._replace(
            scans=(self.scans[place],),
            rows=(self.rows[place],),
            trusted=frozenset({0} if place in self.trusted else ()),
            is_trial=True,
        )


def before(unit: Unit, place: int) -> Record:
    """What the manifest says of a scan of a unit; empty if nothing."""
    scans = (unit.before or {}).get("scans", [])
    return next((scan for scan in scans if scan["row"] == unit.rows[place]), {})


class ScanResult(NamedTuple):
    """What became of a scan, or of all scans of a file.

    Attributes:
        state: Completed now, kept as it was, or failed.
        made_from: Hashes of its files.
        stamp: Of these files before they were read, see `Reader.stamp`.
        note: What to tell of it.
        failure: Why it failed.
        misfit: Error of held-out measurements in units of their deviation; None if unknown.
    """

    state: Literal["done", "kept", "failed"]
    made_from: MadeFrom
    stamp: str = ""
    note: str = ""
    failure: Failure | None = None
    misfit: float | None = None


class Outcome(NamedTuple):
    """What became of a unit.

    Attributes:
        results: Of each scan of it.
        files: What was written or is kept, by name below the destination.
        worker: Who did it.
    """

    results: tuple[ScanResult, ...]
    files: dict[str, FileContent]
    worker: str = ""


class Destination(Protocol):
    """Where completions go. It can be pickled."""

    @property
    def folder(self) -> str:
        """Path or URL of what is written below."""

    @property
    def outputs(self) -> Outputs:
        """What is written of a scan."""

    def why_again(self, unit: Unit, place: int, made_from: MadeFrom) -> str | None:
        """Why a scan of a unit is to be completed; "" if it never was, None if it need not be."""

    def write(
        self,
        unit: Unit,
        completed: Mapping[int, Sequence[CompletedScan]],
        results: Sequence[ScanResult],
    ) -> dict[str, FileContent]:
        """Writes a unit.

        Args:
            unit: The unit.
            completed: By place in the unit, the completions of what was completed now.
            results: Of all of its scans.

        Returns:
            Every file of it, by name below the destination.
        """

    def image(self, unit: Unit, place: int) -> NDArray[np.float32]:
        """A completion [h, w] that was written."""


class AnyUnit(Protocol):
    """A unit of any work. It can be pickled."""

    def absolute(self) -> Self:
        """The same for a process with another working folder."""


U = TypeVar("U", bound=AnyUnit)
R = TypeVar("R")
UnitIn = TypeVar("UnitIn", bound=AnyUnit, contravariant=True)


class AnyWorker(Protocol[UnitIn, R]):
    """Does units of any work, in its process."""

    def complete(self, parcel: tuple[UnitIn, ...]) -> list[R]:
        """What becomes of each unit.

        Raises:
            StemCompleteError: Nothing more can be done.
            OSError: Likewise.
        """

    def close(self) -> None:
        """Tidies up."""


class Apart(NamedTuple, Generic[U, R]):
    """A unit taken apart, to find which of its parts kills or outlasts workers.

    Attributes:
        parts: Units, each of one part, that leave nothing behind.
        without: Gives the unit without the parts that are lost, whose results it takes by their
            places.
    """

    parts: Sequence[U]
    without: Callable[[Mapping[int, R]], U]


class AnyJob(Protocol[U, R]):
    """What is the same for all units of any work. It can be pickled."""

    def absolute(self) -> Self:
        """The same for processes with other working folders."""

    def worker(self, completer: Completer | None) -> AnyWorker[U, R]:
        """What does units in this process, with the model if the workers have one."""

    def apart(self, unit: U) -> Apart[U, R] | None:
        """A unit taken apart; None if it is done as a whole or not at all."""

    def lost(self, unit: U, failure: Failure) -> R:
        """What became of a unit, or a part of one, that no worker survived."""


Parcel = tuple[Unit, ...]
"""Units that a worker gets together, so that a GPU completes their scans together."""


class Workers(Protocol):
    """Whoever does units."""

    def run(
        self, job: AnyJob[U, R], parcels: Sequence[tuple[U, ...]], timeout_s: float
    ) -> Iterable[tuple[tuple[U, ...], list[R]]]:
        """Works through all parcels, in any order.

        Each unit comes back once, with its parcel, or by itself if the parcel killed or outlasted
        its workers.

        Args:
            job: What all have in common.
            parcels: The work.
            timeout_s: Longest time that a unit may take [s].

        Raises:
            StemCompleteError: The destination cannot be written, or there are no workers.
        """


class Pool(Workers, Protocol):
    """Workers with a model."""

    card: ModelCard
    precision: str
    batch_size: int
