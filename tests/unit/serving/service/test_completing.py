"""A completer's model is loaded by the thread that completes with it."""

import asyncio
import threading
from types import SimpleNamespace

from stem_complete.serving.service.completing import Desk


class Job:
    """Work that tells which thread loaded the model, and which one works."""

    def worker(self, completer):
        return SimpleNamespace(
            complete=lambda _: [completer, threading.get_ident()], close=lambda: None
        )


def test_one_thread_loads_exchanges_and_works():
    async def run():
        desk = Desk(threading.get_ident, 1)
        first = await desk.work(Job(), ())
        desk.exchange(threading.get_ident)
        second = await desk.work(Job(), ())
        await desk.close()
        return {*first, *second}

    (thread,) = asyncio.run(run())
    assert thread != threading.get_ident()
