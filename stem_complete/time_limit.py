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
    """Ends a block that takes longer.

    Without effect on other threads, which hear no signals, and on Windows, which has none of these.

    Raises:
        OutOfTimeError: The time is up.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "SIGALRM"):
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
