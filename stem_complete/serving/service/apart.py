"""A process apart, for what may crash, never end, or take all memory, as damaged HDF5 makes HDF5.

Two bytes that differ in a file of HyperSpy have HDF5 2.0 look for a text for ever, holding Python's
lock. Only a process can be ended then.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

_CLOCK = 4.0
"""Time that may pass for a second of CPU. Beside other work a process waits for its processor, so
that its CPU time tells a loop without end; what waits for ever without any is told by this."""

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
            limit_s: CPU time that it may use [s], rounded up to whole seconds; four times as much
                may pass by the clock.
            limit_bytes: Memory that it may take.

        Raises:
            EndedError: It crashed, or took more.
        """
        with self._lock:
            child = self._child = self._child or _begun()
            question = (function, arguments, math.ceil(limit_s), limit_bytes)
            try:
                answer = _answer(child.line, question, _CLOCK * limit_s)
            except (OSError, EOFError) as error:
                self._child = None
                raise EndedError(_ended(child, error, limit_s)) from None
        if answer.error is not None:
            raise answer.error
        result: T = answer.result
        return result


def _answer(line: Connection, question: tuple[Any, ...], limit_s: float) -> _Answer:
    """What a process answers.

    Raises:
        OSError: It is no more, or EOFError, or TimeoutError if it takes longer.
    """
    line.send(question)
    if not line.poll(limit_s):
        raise TimeoutError
    answer: _Answer = line.recv()
    return answer


def _ended(child: _Child, error: Exception, limit_s: float) -> str:
    """Why a process was ended, or ended itself; it has ended after this."""
    if isinstance(error, TimeoutError):
        child.process.kill()
    child.process.join()
    child.line.close()
    used_up = child.process.exitcode == -getattr(signal, "SIGXCPU", 0)
    if used_up or isinstance(error, TimeoutError):
        return f"one whose reader takes more than {limit_s:g} s"
    return "one that crashes its reader"


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
            function, arguments, limit_s, limit_bytes = line.recv()
            _limit(limit_s, limit_bytes)
            try:
                answer = _Answer(function(*arguments), None)
            except Exception as error:
                answer = _Answer(None, error)
            line.send(answer)


def _limit(cpu_s: int, num_bytes: int) -> None:
    """Lets this process use so much more than it has until now, where the system counts that."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # which Windows, of many microscopes' computers, has not

        used = math.ceil(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + cpu_s, resource.RLIM_INFINITY))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
