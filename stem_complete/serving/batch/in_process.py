"""Batches in this process, without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from stem_complete.inference.complete import GPU_BATCH_SIZE
from stem_complete.inference.completer import Completer
from stem_complete.serving.batch.units import AnyJob, R, U
from stem_complete.serving.batch.work_queue import WorkQueue
from stem_complete.time_limit import OutOfTimeError, time_limit


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
        queue = WorkQueue(job, parcels, timeout_s)
        with closing(job.worker(self.completer)) as worker:
            while queue.num_left:
                (item,) = queue.take()
                try:
                    with time_limit(queue.limit_s(item)):
                        results = worker.complete(item.todo)
                except OutOfTimeError:
                    yield from queue.time_out([item])
                else:
                    yield from queue.finish(item, results)
