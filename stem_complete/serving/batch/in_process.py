"""Batches in this process, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from stem_complete.console import format_seconds
from stem_complete.inference.complete import GPU_BATCH_SIZE
from stem_complete.inference.completer import Completer
from stem_complete.serving.batch.units import AnyJob, AnyWorker, R, U
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
        self, job: AnyJob[U, R], parcels: Sequence[tuple[U, ...]], timeout_s: float
    ) -> Iterator[tuple[tuple[U, ...], list[R]]]:
        """See `Workers`."""
        with closing(job.worker(self.completer)) as worker:
            for parcel in parcels:
                yield parcel, _complete(job, worker, parcel, timeout_s * len(parcel))


def _complete(
    job: AnyJob[U, R], worker: AnyWorker[U, R], parcel: tuple[U, ...], limit_s: float
) -> list[R]:
    for _ in range(TRIES):
        try:
            with time_limit(limit_s):
                return worker.complete(parcel)
        except OutOfTimeError:
            pass
    reason = f"it took longer than {format_seconds(limit_s)}, {TRIES} times"
    return [job.lost(unit, reason, TOO_LONG) for unit in parcel]
