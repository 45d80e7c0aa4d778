"""What a worker does with units: reads their scans, completes them, writes them."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from stem_complete.data.scan_options import ScanOptions
from stem_complete.data.scans import RasterScan
from stem_complete.errors import DataError, Failure
from stem_complete.inference.complete import complete_scans, unfamiliar
from stem_complete.inference.completer import CompletedScan, Completer
from stem_complete.serving.batch.reading import Reader
from stem_complete.serving.batch.sources import absolute
from stem_complete.serving.batch.units import (
    Apart,
    Destination,
    MadeFrom,
    Outcome,
    Parcel,
    ScanResult,
    Unit,
    before,
)
from stem_complete.storage.claim import Claim

CHECK_S = 1.0
"""Age at which a look at the claim is too old: others take over after much more."""

_Place = tuple[int, int]
"""Of a scan: its unit in the parcel, and its place in that."""


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

    def absolute(self) -> Job:
        """See `AnyJob`."""
        destination: Any = self.destination
        return self._replace(destination=destination._replace(folder=absolute(destination.folder)))

    def worker(self, completer: Completer | None) -> Worker:
        """See `AnyJob`."""
        assert completer is not None
        return Worker(completer, self)

    def apart(self, unit: Unit) -> Apart[Unit, Outcome] | None:
        """See `AnyJob`. The scans of a shard are its parts."""
        if len(unit.scans) == 1:
            return None

        def without(lost: Mapping[int, Outcome]) -> Unit:
            return unit._replace(
                lost=tuple((place, outcome.results[0]) for place, outcome in lost.items())
            )

        return Apart([unit.trial(place) for place in range(len(unit.scans))], without)

    def lost(self, unit: Unit, failure: Failure) -> Outcome:
        """See `AnyJob`."""
        failed = ScanResult("failed", {}, failure=failure)
        return Outcome(tuple(failed for _ in unit.scans), {})


class Worker:
    """Completes units of one job, in this process.

    Args:
        completer: The model.
        job: What all units have in common.
    """

    def __init__(self, completer: Completer, job: Job) -> None:
        self.completer, self.job = completer, job
        self.reader = Reader(job.options, published=job.published)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._checked_s = -math.inf

    def close(self) -> None:
        """Removes what was fetched from object stores."""
        self.reader.close()

    def complete(self, parcel: Parcel) -> list[Outcome]:
        """Completes units, those apart that are there already.

        A scan that cannot be read or completed fails alone.

        Raises:
            StemCompleteError: The destination cannot be written, or another process took it over.
        """
        results: dict[_Place, ScanResult] = {}
        completed: dict[_Place, list[CompletedScan]] = {}
        for place, stack in self._completed(parcel, results):
            completed[place] = stack
            notes = [results[place].note, *(note for each in stack for note in each.scan.notes)]
            notes += map(unfamiliar, stack)
            notes += [each.check.note for each in stack if each.check]
            note = "; ".join(dict.fromkeys(filter(None, notes)))
            results[place] = results[place]._replace(note=note, misfit=_misfit(stack))
        return [self._written(unit, i, results, completed) for i, unit in enumerate(parcel)]

    def _completed(
        self, parcel: Parcel, results: dict[_Place, ScanResult]
    ) -> Iterator[tuple[_Place, list[CompletedScan]]]:
        """Scans as they are completed; `results` takes what becomes of each."""
        begun: list[tuple[_Place, list[RasterScan]]] = []

        def unfinished() -> Iterator[RasterScan]:
            for i, unit in enumerate(parcel):
                for j in range(len(unit.scans)):
                    result, rasters = self._begin(unit, j)
                    results[i, j] = result
                    if rasters:
                        begun.append(((i, j), rasters))
                        yield from rasters

        scans = unfinished()
        num_done = 0
        while True:
            try:
                completions = self._complete(scans, self.job.batch_size)
                for first in completions:
                    place, rasters = begun[num_done]
                    rest = [next(completions) for _ in rasters[1:]]
                    num_done += 1
                    yield place, [first, *rest]
            except Exception:
                # One scan of a batch spoils it: those that are under way are tried one by one.
                for place, rasters in begun[num_done:]:
                    try:
                        stack = list(self._complete(iter(rasters), 1))
                    except Exception as error:
                        results[place] = self._failed(error, results[place].made_from)
                    else:
                        yield place, stack
                num_done = len(begun)
            else:
                return

    def _begin(self, unit: Unit, place: int) -> tuple[ScanResult, list[RasterScan]]:
        """Reads a scan, unless it need not or cannot be completed."""
        if (lost := dict(unit.lost).get(place)) is not None:
            return lost, []
        source, made_from = unit.scans[place], dict[str, str]()
        try:
            known = before(unit, place)
            if place in unit.trusted:
                made_from, stamp = known["made_from"], known["stamp"]
            else:
                stamp = self.reader.stamp(source)
                made_from = self.reader.made_from(source)
            made_from = {**made_from, **self.job.made_from}
            why = self.job.destination.why_again(unit, place, made_from)
            if why is None:
                note, misfit = known.get("note", ""), known.get("misfit")
                return ScanResult("kept", made_from, stamp, note, misfit=misfit), []
            rasters = self.reader.read(source)
            _check_shape(unit, rasters)
        except Exception as error:  # damaged files make readers fail in any way
            return self._failed(error, made_from), []
        return ScanResult("done", made_from, stamp, why), rasters

    def _failed(self, error: Exception, made_from: MadeFrom) -> ScanResult:
        return ScanResult("failed", made_from, failure=self.reader.failure(error))

    def _complete(self, scans: Iterator[RasterScan], batch_size: int) -> Iterator[CompletedScan]:
        outputs = self.job.destination.outputs
        return complete_scans(
            self.completer,
            scans,
            error_map=outputs.error_map,
            self_check=outputs.self_check,
            keep_measured=outputs.keep_measured,
            batch_size=batch_size,
        )

    def _check_claim(self, claim: Claim) -> None:
        if time.monotonic() - self._checked_s > CHECK_S:
            claim.check()
            self._checked_s = time.monotonic()

    def _written(
        self,
        unit: Unit,
        i: int,
        results: dict[_Place, ScanResult],
        completed: dict[_Place, list[CompletedScan]],
    ) -> Outcome:
        own = [results[i, j] for j in range(len(unit.scans))]
        stacks = {j: completed[i, j] for j in range(len(own)) if (i, j) in completed}
        files = {}
        if not unit.is_trial and any(result.state != "failed" for result in own):
            if stacks and self.job.claim is not None:
                self._check_claim(self.job.claim)
            files = self.job.destination.write(unit, stacks, own)
        return Outcome(tuple(own), files, self.name)


def _check_shape(unit: Unit, rasters: Sequence[RasterScan]) -> None:
    for raster in rasters:
        if unit.shape is not None and (raster.shape != unit.shape or len(rasters) != 1):
            raise DataError(
                expected=f"one scan of {unit.shape} px",
                found=f"{len(rasters)} of {raster.shape}",
                where=raster.where,
                fix="leave the file as it is while its scans are completed, and start again",
            )


def _misfit(stack: Sequence[CompletedScan]) -> float | None:
    """Error of held-out measurements in units of their deviation, of the worst of a stack."""
    checks = [each.check for each in stack if each.check is not None and each.check.deviation > 0]
    return max((check.error / check.deviation for check in checks), default=None)
