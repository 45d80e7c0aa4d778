"""Processes that read crops ahead, into memory that they share with the one that asks.

torch's DataLoader takes new shared memory for every batch, and the system hands out and takes back
each of its pages: for one crop a batch that costs more than reading it. Here each process has its
memory once, and only numbers go through pipes. The processes import no torch.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterable
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import DataError

# Asked of each process at a time: two requests, one that it reads and one that is read and waits,
# or as many as make so many crops. With fewer, both sides wait for each other to be scheduled.
_REQUESTS_AHEAD, _CROPS_AHEAD = 2, 16
_END_TIMEOUT_S = 5.0


def read_ahead(
    store: MicrographStore,
    requests: Iterable[NDArray[np.int64]],
    num_processes: int,
    request_size: int,
) -> Generator[NDArray[np.float32]]:
    """Crops [b, h, w] in [-1, 1] of each request, in order; each is lost when the next is taken.

    Args:
        store: Where the crops are.
        requests: Numbers of the crops [b] of each request.
        num_processes: Processes that read.
        request_size: Crops that a request asks for at most.

    Raises:
        StoreError: The store is damaged there.
        DataError: A process was killed.
    """
    num_ahead = max(_REQUESTS_AHEAD, _CROPS_AHEAD // request_size)
    readers = [_Reader(store, num_ahead, request_size) for _ in range(num_processes)]
    try:
        asked: deque[_Reader] = deque()
        for reader, request in zip(cycle(readers), requests, strict=False):
            if len(asked) == num_ahead * num_processes:
                yield asked.popleft().answer()
            # By now whoever took that answer is done with it, and its memory is free.
            reader.ask(request)
            asked.append(reader)
        while asked:
            yield asked.popleft().answer()
    finally:
        for reader in readers:
            reader.end()


class _Reader:
    """A process that answers requests in order."""

    def __init__(self, store: MicrographStore, num_ahead: int, request_size: int) -> None:
        # A forked process would share the locks of whatever threads run here.
        context = multiprocessing.get_context("spawn")
        shape = (num_ahead, request_size, store.crop_size, store.crop_size)
        memory = context.RawArray(ctypes.c_float, int(np.prod(shape)))
        self._where = store.path
        self._answers = cycle(_arrays(memory, shape))
        self._num_crops: deque[int] = deque()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_answer, args=(store, memory, shape, theirs), daemon=True
        )
        self._process.start()
        theirs.close()  # so that theirs is the only one, and we notice when they are gone

    def ask(self, crops: NDArray[np.int64]) -> None:
        try:
            self._connection.send(crops)
        except BrokenPipeError as error:
            raise self._killed() from error
        self._num_crops.append(len(crops))

    def answer(self) -> NDArray[np.float32]:
        try:
            error = self._connection.recv()
        except (EOFError, ConnectionResetError) as lost:
            raise self._killed() from lost
        if error is not None:
            raise error
        return next(self._answers)[: self._num_crops.popleft()]

    def end(self) -> None:
        self._connection.close()  # which ends it
        self._process.join(_END_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()

    def _killed(self) -> DataError:
        self._process.join(_END_TIMEOUT_S)
        return DataError(
            expected="processes that read crops",
            found=f"one that ended with exit code {self._process.exitcode}",
            where=self._where,
            fix="if memory ran out, use fewer data.loader_workers",
        )


def _answer(
    store: MicrographStore, memory: Any, shape: tuple[int, ...], connection: Connection[Any, Any]
) -> None:
    """Reads what is asked for, until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    for images in cycle(_arrays(memory, shape)):
        try:
            crops = connection.recv()
            error: Exception | None = None
            try:
                store.read(crops, out=images[: len(crops)])
            except Exception as failed:  # raised where it was asked for
                error = failed
            connection.send(error)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _arrays(memory: Any, shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
    return list(np.frombuffer(memory, np.float32).reshape(shape))
