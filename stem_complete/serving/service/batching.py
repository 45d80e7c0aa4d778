"""Single calls -> batches of what goes together.

A batch is what waits while the one before is at work, so that nobody waits for a batch to fill. Ray
Serve's own batching knows no shapes, waits a fixed time, and was broken twice by clients that hung
up; here whoever hangs up before its batch begins is left out, and later changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Other = TypeVar("Other")


class Batched(NamedTuple, Generic[Result]):
    """What became of an item, the size of its batch, and how long it waited [s]."""

    result: Result
    batch_size: int
    waited_s: float


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    group: Hashable
    future: asyncio.Future[Batched[Result]]
    since_s: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Result]):
    """Hands items of one group to `work` together, one batch after the other, in a thread.

    Its methods are called from one event loop.

    Args:
        work: Returns a result for each item of a batch.
        max_size: Largest batch.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], max_size: int) -> None:
        assert max_size > 0
        self._work, self.max_size = work, max_size
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="completer")
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._since_s = 0.0

    @property
    def num_waiting(self) -> int:
        """Number of items that are in no batch yet."""
        return len(self._waiting)

    @property
    def busy_s(self) -> float:
        """How long the thread is at its work already [s], 0 if it has none."""
        return time.monotonic() - self._since_s if self._since_s else 0.0

    async def submit(self, item: Item, group: Hashable) -> Batched[Result]:
        """What `work` makes of an item, in a batch of its group.

        An error of a batch befalls only the items that fail alone, too.
        """
        waiting = _Waiting[Item, Result](item, group, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        # A task of its own, which goes on for the others when this caller is cancelled.
        task = asyncio.create_task(self._next_batch())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await waiting.future

    async def between(self, work: Callable[[], Other]) -> Other:
        """Does other work between two batches."""
        async with self._turn:
            return await self._in_thread(work)

    def run(self, work: Callable[[], Other]) -> Other:
        """Does other work in the thread, after the batch that is under way, and waits for it."""
        return self._thread.submit(work).result()

    async def close(self) -> None:
        """Waits for all batches, and ends the thread."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown()

    async def _next_batch(self) -> None:
        """Takes a turn; an earlier one may have done all."""
        async with self._turn:
            batch = self._take()
            if not batch:
                return
            began_s = time.monotonic()
            try:
                results = await self._in_thread(lambda: self._work([each.item for each in batch]))
            except Exception as error:
                if len(batch) == 1:
                    _fail(batch[0], error)
                    return
                for each in batch:
                    await self._alone(each)
                return
            for each, result in zip(batch, results, strict=True):
                _give(each, Batched(result, len(batch), began_s - each.since_s))

    async def _alone(self, waiting: _Waiting[Item, Result]) -> None:
        began_s = time.monotonic()
        try:
            (result,) = await self._in_thread(lambda: self._work([waiting.item]))
        except Exception as error:
            _fail(waiting, error)
        else:
            _give(waiting, Batched(result, 1, began_s - waiting.since_s))

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The oldest items of the oldest one's group; those that nobody waits for are dropped."""
        wanted = [each for each in self._waiting if not each.future.done()]
        batch = [each for each in wanted if each.group == wanted[0].group][: self.max_size]
        taken = set(map(id, batch))
        self._waiting = deque(each for each in wanted if id(each) not in taken)
        return batch

    async def _in_thread(self, work: Callable[[], Other]) -> Other:
        self._since_s = time.monotonic()
        try:
            # A caller that is cancelled has its turn end with the work, not before.
            running = asyncio.get_running_loop().run_in_executor(self._thread, work)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait([running])
                raise
        finally:
            self._since_s = 0.0


def _give(waiting: _Waiting[Item, Result], batched: Batched[Result]) -> None:
    if not waiting.future.done():
        waiting.future.set_result(batched)


def _fail(waiting: _Waiting[Item, Result], error: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
