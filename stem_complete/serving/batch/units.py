"""Units of work, one output file or one shard each, and what becomes of them.

Only these travel between processes: places of scans, hashes and figures, never pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.scan_options import ScanOptions
from stem_complete.inference.card import ModelCard
from stem_complete.inference.completer import CompletedScan
from stem_complete.inference.image_files import Outputs
from stem_complete.serving.batch.sources import Source
from stem_complete.training.claim import Claim
from stem_complete.training.storage import FileContent

MadeFrom = dict[str, str]
"""Hashes of what a completion follows from, by name."""

Record = dict[str, Any]
"""What the manifest says of a unit, see `manifest`."""


class GivenUp(NamedTuple):
    """A scan that no worker survives.

    Attributes:
        place: In its unit.
        reason: What befell its workers, in one line.
        fix: What can be done about that.
    """

    place: int
    reason: str
    fix: str


class Unit(NamedTuple):
    """What one worker completes and writes as a whole.

    Attributes:
        name: Of what is written, below the destination.
        scans: Where its scans are read from.
        rows: Of shards, the place of each scan in it.
        shape: Of shards, the (h, w) of each scan [px].
        before: What the manifest says of it, None if nothing.
        trusted: Scans whose files have not changed since, by their stamps.
        given_up: Scans that are not tried.
    """

    name: str
    scans: tuple[Source, ...]
    rows: tuple[int, ...] = (0,)
    shape: tuple[int, int] | None = None
    before: Record | None = None
    trusted: frozenset[int] = frozenset()
    given_up: tuple[GivenUp, ...] = ()


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
        reason: Why it failed, in one line.
        fix: What can be done about that.
        misfit: Error of held-out measurements in units of their deviation; None if unknown.
    """

    state: Literal["done", "kept", "failed"]
    made_from: MadeFrom
    stamp: str = ""
    note: str = ""
    reason: str = ""
    fix: str = ""
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


class Job(NamedTuple):
    """What is the same for all units of a batch.

    Attributes:
        destination: Where completions go.
        options: What files do not say.
        published: Whether they are encoded as partial-STEM's examples.
        made_from: Hashes of model and options.
        batch_size: Largest number of scans in one pass of the network.
        claim: Of the destination, which a worker looks at before it writes.
    """

    destination: Destination
    options: ScanOptions
    published: bool
    made_from: MadeFrom
    batch_size: int
    claim: Claim | None = None


Parcel = tuple[Unit, ...]
"""Units that a worker gets together, so that a GPU completes their scans together."""


class Pool(Protocol):
    """Workers."""

    card: ModelCard
    precision: str
    batch_size: int

    def run(
        self, job: Job, parcels: Sequence[Parcel], timeout_s: float
    ) -> Iterable[tuple[Parcel, list[Outcome]]]:
        """Works through all parcels, in any order; each comes back once.

        Args:
            job: What all have in common.
            parcels: The work.
            timeout_s: Longest time that a unit may take [s].

        Raises:
            StemCompleteError: The destination cannot be written, or there are no workers.
        """


def places_of(parcel: Parcel) -> list[tuple[int, int]]:
    """The scans of a parcel: the unit of each, and its place in that."""
    return [
        (number, place) for number, unit in enumerate(parcel) for place in range(len(unit.scans))
    ]


def without(parcel: Parcel, given_up: Iterable[tuple[int, GivenUp]]) -> Parcel:
    """A parcel of which some scans are not tried, each beside the number of its unit."""
    found = list(given_up)
    return tuple(
        unit._replace(given_up=tuple(each for of, each in found if of == number))
        for number, unit in enumerate(parcel)
    )


def lost(parcel: Parcel, reason: str, fix: str) -> list[Outcome]:
    """Outcomes of a parcel that no worker survived."""
    return [
        Outcome(tuple(ScanResult("failed", {}, reason=reason, fix=fix) for _ in unit.scans), {})
        for unit in parcel
    ]
