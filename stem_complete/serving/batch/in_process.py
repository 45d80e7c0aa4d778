"""Batches in this process, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from stem_complete.console import format_seconds
from stem_complete.inference.complete import GPU_BATCH_SIZE
from stem_complete.inference.completer import Completer
from stem_complete.serving.batch.units import Job, Outcome, Parcel, lost
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
                yield parcel, _complete(worker, parcel, timeout_s * len(parcel))


def _complete(worker: Worker, parcel: Parcel, limit_s: float) -> list[Outcome]:
    for _ in range(TRIES):
        try:
            with time_limit(limit_s):
                return worker.complete(parcel)
        except OutOfTimeError:
            pass
    reason = f"it took longer than {format_seconds(limit_s)}, {TRIES} times"
    return lost(parcel, reason, TOO_LONG)
