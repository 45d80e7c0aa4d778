"""Previews of live scans: each state is completed once, whoever asks for it and how often."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from stem_complete.serving.service.completing import Done, How, Task
from stem_complete.serving.service.limits import Limits
from stem_complete.serving.service.live import LiveScan
from stem_complete.serving.service.problems import problem_of

_KEPT = 8  # of a few megabytes each


class Preview(NamedTuple):
    """A live scan as far as it was there.

    Attributes:
        version: Number of its chunks.
        done: Its completion.
        seconds: Time that this took.
    """

    version: int
    done: Done
    seconds: float


class Previews:
    """The last previews.

    Args:
        complete: Completes a scan.
        limits: What is taken.
    """

    def __init__(self, complete: Callable[[Task], Awaitable[Done]], limits: Limits) -> None:
        self._complete, self._limits = complete, limits
        self._kept: OrderedDict[tuple[str, How], Preview] = OrderedDict()
        self._under_way: dict[tuple[str, How], asyncio.Task[Preview]] = {}

    async def newest(self, scan: LiveScan, how: How) -> Preview:
        """The preview of what is there now.

        Raises:
            Problem: Too little is there.
        """
        while True:
            kept = self._kept.get((scan.id, how))
            if kept is not None and kept.version == await asyncio.to_thread(scan.version):
                return kept
            key = scan.id, how
            task = self._under_way.get(key)
            if task is None:
                task = asyncio.create_task(self._make(scan, how))
                self._under_way[key] = task
                task.add_done_callback(partial(self._forget, key))
                # Begun after the question, it has all that was there.
                return await asyncio.shield(task)
            await asyncio.wait([task])  # begun before; what it has may be too old

    def _forget(self, key: tuple[str, How], _task: asyncio.Task[Preview]) -> None:
        self._under_way.pop(key, None)

    async def _make(self, scan: LiveScan, how: How) -> Preview:
        began_s = time.monotonic()
        try:
            version, raster = await asyncio.to_thread(scan.scan, self._limits)
            done = await self._complete(Task(raster, how))
        except Exception as error:
            raise problem_of(error, "chunks") from error
        preview = Preview(version, done, time.monotonic() - began_s)
        self._kept[scan.id, how] = preview
        self._kept.move_to_end((scan.id, how))
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return preview
