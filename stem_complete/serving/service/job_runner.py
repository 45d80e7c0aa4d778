"""What works through jobs: the batch engine, with the service's completers as its workers.

Units travel to completers as places, and share them with single scans, one by one. A process runs
one job at a time; which one is decided by the claim of the job's output, so that several processes
share the queue, and take over what one of them left.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress

from stem_complete.errors import BusyError, Failure, StemCompleteError, failure_of
from stem_complete.inference.card import ModelCard
from stem_complete.serving.batch.run import complete_files
from stem_complete.serving.batch.units import AnyJob, R, U
from stem_complete.serving.batch.work_queue import WorkItem, WorkQueue
from stem_complete.serving.service.completing import Completing, DiedError
from stem_complete.serving.service.jobs import Job, Jobs
from stem_complete.serving.service.logs import LOG
from stem_complete.serving.service.metrics import Metrics
from stem_complete.serving.service.problems import Problem

log = logging.getLogger(LOG)

WIDTH = 2
"""Units that completers have at once: one at work, and the next one."""

_POLL_S, _SWEEP_S, _TELL_S = 0.5, 60.0, 0.5
_DIED = Failure(
    "its completer died twice: killed, out of memory, or lost with its node",
    "leave this scan out, or give completers more memory",
)


class _StoppedError(BaseException):
    """The job is not to go on, now or ever. No `Exception`, which would be one scan's failure."""


class CompletersPool:
    """Workers of the batch engine that are the service's completers; see `Pool`.

    Args:
        completing: The completers.
        card: Of their model.
        precision: In which they complete.
        loop: Where they are asked.
        is_wanted: Whether the work is to go on.
    """

    batch_size = 1

    def __init__(
        self,
        completing: Completing,
        card: ModelCard,
        precision: str,
        loop: asyncio.AbstractEventLoop,
        is_wanted: Callable[[], bool],
    ) -> None:
        self.completing, self.card, self.precision = completing, card, precision
        self._loop, self._is_wanted = loop, is_wanted

    def run(
        self, job: AnyJob[U, R], parcels: Sequence[tuple[U, ...]], timeout_s: float
    ) -> Iterator[tuple[tuple[U, ...], list[R]]]:
        """See `Workers`. A unit that does not end costs its completer its life, see `check_health`.

        Raises:
            StemCompleteError: The destination cannot be written.
        """
        queue = WorkQueue(job, parcels, timeout_s)
        asked: dict[Future[list[R]], WorkItem[U, R]] = {}
        while queue.num_left:
            while queue and len(asked) < WIDTH:
                (item,) = queue.take()
                work = self.completing.work(job, item.todo)
                asked[asyncio.run_coroutine_threadsafe(work, self._loop)] = item
            done, _ = wait(asked, _POLL_S, FIRST_COMPLETED)
            for future in done:
                item = asked.pop(future)
                try:
                    results = future.result()
                except DiedError:
                    yield from queue.fail([item], _DIED)
                except Problem:  # completers have too much to do, or there are none yet
                    queue.give_back([item])
                    time.sleep(_POLL_S)
                else:
                    yield from queue.finish(item, results)
            if not self._is_wanted():
                wait(asked)  # the output is held until nobody writes into it
                raise _StoppedError


class JobRunner:
    """Works through the queue, in a thread, until it is stopped.

    Args:
        jobs: All jobs.
        completing: The completers.
        precision: In which they complete.
        metrics: What is counted.
        sweep: Removes what nobody needs any more; called now and then.
    """

    def __init__(
        self,
        jobs: Jobs,
        completing: Completing,
        precision: str,
        metrics: Metrics,
        sweep: Callable[[], None],
    ) -> None:
        self.jobs, self.completing, self.precision = jobs, completing, precision
        self.metrics, self._sweep = metrics, sweep
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Tells that there is something in the queue."""
        self._news.set()

    async def stop(self) -> None:
        """Ends after the unit that is under way; its job goes on when the service is started."""
        self._stopping.set()
        self._news.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        swept_s = 0.0
        while not self._stopping.is_set():
            self._news.clear()
            if time.monotonic() - swept_s > _SWEEP_S:
                swept_s = time.monotonic()
                with suppress(OSError):
                    self._sweep()
            if not self._do_one():
                self._news.wait(_POLL_S)

    def _do_one(self) -> bool:
        """Does a job, the oldest that nobody else does; whether there was one."""
        queue = self.jobs.queue()
        self.metrics.jobs.labels("waiting").set(len(queue))
        for job in queue:
            try:
                self._do(job)
            except BusyError:  # another process does it
                continue
            except Problem:  # no completer is ready
                return False
            except _StoppedError:
                return True
            except Exception as error:
                told = failure_of(error)
                log.exception("job failed", extra={"fields": {"job": job.id}})
                if not isinstance(error, StemCompleteError | OSError):
                    told = Failure("an error in the service", "report the id of the job")
                job.end("failed", {"job": _without(str(told), job)}, {})
            return True
        return False

    def _do(self, job: Job) -> None:
        """Completes the scans of a job, but those that are completed already.

        Raises:
            BusyError: Another process does.
            StemCompleteError: It cannot be done.
        """

        def is_wanted() -> bool:
            return not (self._stopping.is_set() or job.is_cancelled) and job.folder.exists()

        card = asyncio.run_coroutine_threadsafe(self.completing.card(), self._loop).result()
        pool = CompletersPool(self.completing, card, self.precision, self._loop, is_wanted)
        outputs = job.outputs
        if card.calibration is None:  # as of a single completion
            outputs = outputs._replace(error_map=False)
        told_s = 0.0

        def progress(num_settled: int, num: int) -> None:
            nonlocal told_s
            if not is_wanted():
                raise _StoppedError
            if num_settled == num or time.monotonic() - told_s > _TELL_S:
                told_s = time.monotonic()
                job.tell_progress(num_settled, num)

        report = complete_files(
            [job.begin(card)],
            pool,
            job.output,
            options=job.options,
            outputs=outputs,
            file_format=job.file_format,
            progress=progress,
        )
        failed = {scan: _without(why, job) for scan, why in report.failed.items()}
        notes = {scan: _without(note, job) for scan, note in report.notes.items()}
        job.end("done", failed, notes)


def _without(text: str, job: Job) -> str:
    """A text without the paths of this machine."""
    return text.replace(f"{job.folder}/scans/", "").replace(f"{job.folder}/", "")
