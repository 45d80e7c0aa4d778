"""A process apart, for what may crash, never end, or take all memory, as damaged HDF5 makes HDF5.

Two bytes that differ in a file of HyperSpy have HDF5 2.0 look for a text for ever, holding Python's
lock. Only a process can be ended then.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class EndedError(Exception):
    """The process crashed, or took too long."""


class _Answer(NamedTuple):
    result: Any
    error: Exception | None


class _Child(NamedTuple):
    process: BaseProcess
    line: Connection


class Apart:
    """A process that calls functions for this one; it is begun when it is needed, and stays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def call(
        self, function: Callable[..., T], *arguments: Any, limit_s: float, limit_bytes: int
    ) -> T:
        """What the function returns, or raises; both must be what can be pickled.

        Args:
            function: One of a module.
            arguments: Its arguments.
            limit_s: Time that it may take [s].
            limit_bytes: Memory that it may take.

        Raises:
            EndedError: It crashed, or took longer.
        """
        with self._lock:
            child = self._child = self._child or _begun()
            answer = _answer(child.line, (function, arguments, limit_bytes), limit_s)
            if answer is None:
                self._child = None
                child.process.kill()
                child.process.join()
                child.line.close()
                raise EndedError(f"one that crashes its reader, or takes more than {limit_s:g} s")
        if answer.error is not None:
            raise answer.error
        result: T = answer.result
        return result


def _answer(line: Connection, question: tuple[Any, ...], limit_s: float) -> _Answer | None:
    """What a process answers; None if it does not."""
    with suppress(OSError, EOFError):
        line.send(question)
        if line.poll(limit_s):
            answer: _Answer = line.recv()
            return answer
    return None


def _begun() -> _Child:
    # Fork would copy locks that other threads hold.
    spawning = multiprocessing.get_context("spawn")
    own, its = spawning.Pipe()
    process = spawning.Process(target=_serve, args=[its], name="apart", daemon=True)
    process.start()
    its.close()
    return _Child(process, own)


def _serve(line: Connection) -> None:
    """Calls functions until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which also ends the other one
    with suppress(EOFError):
        while True:
            function, arguments, limit_bytes = line.recv()
            _limit_memory(limit_bytes)
            try:
                answer = _Answer(function(*arguments), None)
            except Exception as error:
                answer = _Answer(None, error)
            line.send(answer)


def _limit_memory(num_bytes: int) -> None:
    """Lets this process have so much more than it has now, where the system tells that."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # which Windows, of many microscopes' computers, has not

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
