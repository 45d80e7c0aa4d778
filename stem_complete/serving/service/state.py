"""What all requests of one process share."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from anyio import CapacityLimiter
from starlette.requests import Request

from stem_complete.inference.card import ModelCard
from stem_complete.serving.service.completing import Completing, Done, Task
from stem_complete.serving.service.job_runner import JobRunner
from stem_complete.serving.service.jobs import Jobs
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.live import LiveScans
from stem_complete.serving.service.metrics import Metrics
from stem_complete.serving.service.previews import Previews
from stem_complete.serving.service.problems import Problem, too_busy

T = TypeVar("T")
INCOMING = "incoming"
_LEFT_S = 3600.0
_MEASURE_S, _CARD_S = 10.0, 2.0


class HungUpError(Exception):
    """The client does not wait for its answer any more."""


@dataclass
class State:
    """What all requests of one process share.

    Attributes:
        completing: Who completes scans.
        storage: Folder of jobs and live scans.
        limits: What is taken.
        metrics: What is counted.
        num_waiting: Scans that wait for completion.
        num_pixels: Of these.
        stopping: Set when the service is to end, and streams with it.
        runner: Works through jobs, while the application runs.
        jobs: All jobs.
        live: All live scans.
        previews: Of live scans.
        readers: Places for those who read bodies and encode answers, in threads.
    """

    completing: Completing
    storage: Path
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    num_waiting: int = 0
    num_pixels: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    runner: JobRunner | None = None

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.storage, self.limits)
        self.live = LiveScans(self.storage, self.limits)
        self.previews = Previews(self.complete, self.limits)
        self._news = asyncio.Event()
        self.readers = CapacityLimiter(self.limits.readers)
        self._stored: tuple[float, int] = (-math.inf, 0)
        self._card: tuple[float, ModelCard] | None = None

    async def card(self) -> ModelCard:
        """The card of the model; of one that was used a moment ago, if completers are at work.

        A question would wait behind all scans, and they show that completers live.

        Raises:
            Problem: 503, if there is no completer.
        """
        now = time.monotonic()
        if self._card is not None and (now - self._card[0] < _CARD_S or self.num_pixels):
            return self._card[1]
        try:
            card = await self.completing.card()
        except Exception as error:
            self._card = None
            raise too_busy("a completer that is ready", "none yet", 2) from error
        self._card = now, card
        return card

    def look(self) -> None:
        """Tells whoever works through jobs that there is one."""
        if self.runner is not None:
            self.runner.look()

    @property
    def news(self) -> asyncio.Event:
        """Set when the next chunk of a live scan comes to this process."""
        return self._news

    def tell_news(self) -> None:
        """Tells whoever waits for chunks that one came."""
        self._news.set()
        self._news = asyncio.Event()

    async def check_room(self) -> None:
        """Refuses more to store than there is room for.

        Raises:
            Problem: 507, if there is none.
        """
        measured_s, num_bytes = self._stored
        if time.monotonic() - measured_s > _MEASURE_S:
            num_bytes = await asyncio.to_thread(_size_of, self.storage)
            self._stored = time.monotonic(), num_bytes
        if num_bytes > self.limits.stored_bytes:
            raise Problem(
                HTTPStatus.INSUFFICIENT_STORAGE,
                expected="room for what is sent",
                found="none",
                fix="delete jobs and live scans that are done, or wait until they expire",
                retry_after_s=600,
            )

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place among the scans that wait, from before its body is read: memory is limited, too.

        Raises:
            Problem: 503, if there is none.
        """
        if self.num_waiting >= self.limits.waiting:
            raise _too_many(self.limits.waiting, "scans", 5)
        self.num_waiting += 1
        self.metrics.waiting.set(self.num_waiting)
        try:
            yield
        finally:
            self.num_waiting -= 1
            self.metrics.waiting.set(self.num_waiting)

    async def complete(self, task: Task) -> Done:
        """Completes a scan, and counts it.

        Raises:
            Problem: 503, if those that wait have too many pixels with this one.
        """
        height, width = task.scan.shape
        if self.num_pixels and self.num_pixels + height * width > self.limits.waiting_pixels:
            raise _too_many(self.limits.waiting_pixels, "pixels", 10)
        self.num_pixels += height * width
        try:
            done = await self.completing.complete(task)
        finally:
            self.num_pixels -= height * width
        self.metrics.completed(done)
        self._card = time.monotonic(), done.completed.model
        return done

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A folder for the files of one request: on the disk that has room for bodies."""
        place = self.storage / INCOMING
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place) as folder:
            yield Path(folder)

    def sweep(self) -> None:
        """Removes what nobody touched for long, and what killed processes left."""
        self.jobs.sweep()
        self.live.sweep()
        place = self.storage / INCOMING
        for folder in place.iterdir() if place.is_dir() else ():
            with suppress(OSError):
                if folder.stat().st_mtime + self.limits.body_s < time.time() - _LEFT_S:
                    shutil.rmtree(folder, ignore_errors=True)


def state_of(request: Request) -> State:
    """The state of the application that a request came to."""
    state: State = request.app.state.service
    return state


async def unless_hung_up(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client hangs up. Its body was read before.

    Raises:
        HungUpError: It did.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HungUpError
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


def _too_many(most: int, what: str, retry_after_s: float) -> Problem:
    return too_busy(
        f"at most {most} {what} that wait for completion",
        "more",
        retry_after_s,
        "try again later, or send the scans as one job",
    )


def _size_of(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it is being removed
                total += Path(root, name).stat().st_size
    return total


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
