"""Batches in this process, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

from stem_complete.console import format_seconds
from stem_complete.inference.complete import GPU_BATCH_SIZE
from stem_complete.inference.completer import Completer
from stem_complete.serving.batch.units import (
    GivenUp,
    Job,
    Outcome,
    Parcel,
    lost,
    places_of,
    without,
)
from stem_complete.serving.batch.worker import Worker
from stem_complete.time_limit import OutOfTimeError, time_limit

TRIES = 2
"""How often a unit is tried that hangs, or that costs its worker its life."""

TOO_LONG = "look at the scan, or give more time with --timeout"


class InProcess:
    """This process as the only worker.

    Args:
        completer: The model.
        batch_size: Largest number of scans in one pass of the network; None: 8 on a GPU, else 1.
    """

    def __init__(self, completer: Completer, batch_size: int | None = None) -> None:
        self.completer = completer
        self.card, self.precision = completer.card, completer.precision
        on_gpu = completer.device.type == "cuda"
        self.batch_size = batch_size or (GPU_BATCH_SIZE if on_gpu else 1)

    def run(
        self, job: Job, parcels: Sequence[Parcel], timeout_s: float
    ) -> Iterator[tuple[Parcel, list[Outcome]]]:
        """See `Pool`."""
        with closing(Worker(self.completer, job)) as worker:
            for parcel in parcels:
                yield parcel, _complete(worker, parcel, timeout_s)


def _complete(worker: Worker, parcel: Parcel, timeout_s: float) -> list[Outcome]:
    limit_s = timeout_s * len(parcel)
    for _ in range(TRIES):
        with suppress(OutOfTimeError), time_limit(limit_s):
            return worker.complete(parcel)
    places = places_of(parcel)
    if len(places) > 1 and (found := _too_slow(worker, parcel, timeout_s)):
        with suppress(OutOfTimeError), time_limit(limit_s):
            return worker.complete(without(parcel, found))
    reason = f"it took longer than {format_seconds(limit_s)}, {TRIES} times"
    return lost(parcel, reason, TOO_LONG)


def _too_slow(worker: Worker, parcel: Parcel, timeout_s: float) -> list[tuple[int, GivenUp]]:
    """The scans that take too long by themselves, each beside the number of its unit."""
    found = []
    for number, place in places_of(parcel):
        try:
            with time_limit(timeout_s):
                worker.try_scan(parcel[number], place)
        except OutOfTimeError:
            reason = f"it took longer than {format_seconds(timeout_s)} by itself"
            found.append((number, GivenUp(place, reason, TOO_LONG)))
    return found
