"""Asking a run to stop early, with a checkpoint: preemption, Ctrl-C, a cluster that changes.

The way of a wish to stop, from a signal to the exit code:

1. SIGINT or SIGTERM calls `StopRequest.on_signal` of this process, set by `stop_on_signals`.
2. With Ray, this process is the driver. `launch.driver` sees the request, and its group leaves it
   in the `launch.mailbox`; there a thread of the first worker finds it and calls the worker's own
   `StopRequest`. SIGTERM to a worker, a notice of preemption, and room for more workers end there,
   too.
3. `training.step` sends the request to all ranks with the statistics of the next step, so that all
   stop after the same one.
4. `training.loop` writes a checkpoint and returns a `TrainingResult` that is not `finished`.
5. The driver starts another group if nobody asked this process to stop. Else `launch.runs` raises
   KeyboardInterrupt or SystemExit(143), and `cli.main` ends with exit code 130 or 143.
"""

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
def stop_on_signals(stop: StopRequest | None = None) -> Iterator[StopRequest]:
    """A request that SIGTERM (preemption, `ray job stop`) and SIGINT (Ctrl-C) make in the block.

    Only the main thread receives signals; elsewhere nothing is installed.
    """
    stop = stop or StopRequest()
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


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit(143) in the block, so that what the process holds is given back.

    Only the main thread receives signals; elsewhere nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
