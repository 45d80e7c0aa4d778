"""What all requests of one process share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from stem_complete.serving.service.completing import Completing, Done, Task
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.metrics import Metrics
from stem_complete.serving.service.problems import Problem

T = TypeVar("T")


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
    """

    completing: Completing
    storage: Path
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    num_waiting: int = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place among the scans that wait, from before its body is read: memory is limited, too.

        Raises:
            Problem: 503, if there is none.
        """
        if self.num_waiting >= self.limits.waiting:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                expected=f"at most {self.limits.waiting} scans that wait for completion",
                found="more",
                fix="try again later, or send them as one job",
                retry_after_s=5,
            )
        self.num_waiting += 1
        self.metrics.waiting.set(self.num_waiting)
        try:
            yield
        finally:
            self.num_waiting -= 1
            self.metrics.waiting.set(self.num_waiting)

    async def complete(self, task: Task) -> Done:
        """Completes a scan, and counts it."""
        done = await self.completing.complete(task)
        self.metrics.completed(done)
        return done


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


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
