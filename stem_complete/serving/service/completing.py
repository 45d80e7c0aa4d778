"""What the service asks of whoever completes scans, and who does it in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from stem_complete.data.scans import RasterScan
from stem_complete.inference.card import ModelCard
from stem_complete.inference.complete import complete_scans, unfamiliar
from stem_complete.inference.completer import CompletedScan, Completer
from stem_complete.serving.batch.units import AnyJob, R, U
from stem_complete.serving.service.batching import Batcher


class How(NamedTuple):
    """What is to be found of a scan.

    Attributes:
        error_map: Whether to estimate the error of each pixel.
        self_check: Whether to predict held-out parts of the scan.
        keep_measured: Whether to blend measured pixels back.
    """

    error_map: bool = True
    self_check: bool = True
    keep_measured: bool = False


class Task(NamedTuple):
    """A scan that is to be completed."""

    scan: RasterScan
    how: How = How()

    @property
    def group(self) -> tuple[object, ...]:
        """Tasks of one group can be completed together."""
        return (self.scan.shape, self.how)


class Done(NamedTuple):
    """What became of a task.

    Attributes:
        completed: The completion.
        batch_size: Number of scans that were completed with it.
        waited_s: Time that it waited for others [s].
    """

    completed: CompletedScan
    batch_size: int
    waited_s: float

    @property
    def notes(self) -> list[str]:
        """What to know of it: how the scan was read, how far the model fits, its self-check."""
        check = self.completed.check
        notes = [*self.completed.scan.notes, unfamiliar(self.completed)]
        return [*dict.fromkeys(filter(None, notes)), *([check.note] if check else [])]


class DiedError(Exception):
    """A completer died of, or during, what it was asked."""


class Completing(Protocol):
    """Whoever completes scans: this process, or replicas on Ray Serve."""

    async def complete(self, task: Task) -> Done:
        """Completes a scan; a caller that is cancelled takes its task back.

        Raises:
            StemCompleteError: The scan cannot be completed.
        """

    async def work(self, job: AnyJob[U, R], parcel: tuple[U, ...]) -> list[R]:
        """Does units of the batch engine, between other tasks.

        Raises:
            StemCompleteError: Nothing more can be done.
            OSError: Likewise.
            DiedError: The completer died.
        """

    async def card(self) -> ModelCard:
        """The card of the model that is used now; an error if nobody is ready."""


class Desk:
    """A completer whose scans come one by one, and are completed in batches of one shape.

    All of it, batches and units of jobs, is done by one thread: the cores are the network's. It
    loads the model, too: a second thread that computes makes OpenMP put the threads of both to
    sleep after each operation, and completions take 1.5 times as long.

    Args:
        load: Loads the model.
        batch_size: Largest number of scans that are completed together.
    """

    def __init__(self, load: Callable[[], Completer], batch_size: int) -> None:
        self._batcher: Batcher[Task, CompletedScan] = Batcher(self._complete, batch_size)
        self.completer = self._batcher.run(load)

    async def complete(self, task: Task) -> Done:
        """See `Completing`."""
        batched = await self._batcher.submit(task, task.group)
        return Done(batched.result, batched.batch_size, batched.waited_s)

    async def work(self, job: AnyJob[U, R], parcel: tuple[U, ...]) -> list[R]:
        """See `Completing`."""

        def units() -> list[R]:
            worker = job.worker(self.completer)
            try:
                return worker.complete(parcel)
            finally:
                worker.close()

        return await self._batcher.between(units)

    async def card(self) -> ModelCard:
        """See `Completing`."""
        return self.completer.card

    def exchange(self, load: Callable[[], Completer]) -> None:
        """Takes another model from the next batch on, and waits for it."""
        self.completer = self._batcher.run(load)

    @property
    def busy_s(self) -> float:
        """How long the batch that is under way takes already [s], 0 if there is none."""
        return self._batcher.busy_s

    async def close(self) -> None:
        """Finishes what has begun, and ends the thread."""
        await asyncio.shield(self._batcher.close())

    def _complete(self, tasks: Sequence[Task]) -> list[CompletedScan]:
        scans, how = [task.scan for task in tasks], tasks[0].how
        return list(complete_scans(self.completer, scans, **how._asdict(), batch_size=len(scans)))
