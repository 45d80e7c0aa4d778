"""A limit on the time that a block of the main thread may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTimeError(BaseException):
    """The block took too long. No `Exception`, after any of which libraries such as Ray go on."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends a block that takes longer; without effect on other threads, which hear no signals.

    Raises:
        OutOfTimeError: The time is up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
