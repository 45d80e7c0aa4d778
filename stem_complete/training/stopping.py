"""Asking a run to stop early, with a checkpoint: preemption, Ctrl-C, a cluster that changes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Asks for a stop after the current step; may come from any thread or a signal handler.

    One worker's request is enough: it travels with the statistics of the next step, and all workers
    stop after the same one.

    Attributes:
        reason: Why, in words; None while nobody has asked.
        signal: The signal that asked, if it was one.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.signal: signal.Signals | None = None

    def __call__(self, reason: str) -> None:
        """Asks; the first reason counts."""
        if self.reason is None:
            self.reason = reason

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: asks at the first signal, and interrupts at once at a second Ctrl-C."""
        received = signal.Signals(number)
        if self.signal is not None and received == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or received
        self(f"{received.name} was received")


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A request that SIGTERM (preemption, `ray job stop`) and SIGINT (Ctrl-C) make in the block.

    Only the main thread receives signals; elsewhere nothing is installed.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.signal(number, stop.on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
