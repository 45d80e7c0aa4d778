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

Of runs side by side each has a thread of the driver and a request of its own, which is part of the
main thread's; `launch.side_by_side` raises when all of them have ended.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType


class StopRequest:
    """Asks for a stop after the current step; may come from any thread or a signal handler.

    One worker's request is enough: it travels with the statistics of the next step, and all workers
    stop after the same one.

    Args:
        whole: The request of what this is a part of, as a run is of a sweep. What asks that to stop
            asks this, too.
    """

    def __init__(self, whole: StopRequest | None = None) -> None:
        self._whole = whole
        self._reason: str | None = None
        self._signal: Signals | None = None
        self._at_once = False

    @property
    def reason(self) -> str | None:
        """Why, in words; None while nobody has asked."""
        return self._reason or (self._whole.reason if self._whole else None)

    @property
    def signal(self) -> Signals | None:
        """The signal that asked, if it was one."""
        return self._signal or (self._whole.signal if self._whole else None)

    @property
    def at_once(self) -> bool:
        """Whether Ctrl-C was pressed again: to stop without a checkpoint."""
        return self._at_once or (self._whole is not None and self._whole.at_once)

    def __call__(self, reason: str) -> None:
        """Asks; the first reason counts."""
        if self._reason is None:
            self._reason = reason

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Signal handler: asks at the first signal, and interrupts at once at a second Ctrl-C."""
        received = Signals(number)
        if self._signal is not None and received == signal.SIGINT:
            self._at_once = True
            raise KeyboardInterrupt
        self._signal = self._signal or received
        self(f"{received.name} was received")

    def exit(self) -> KeyboardInterrupt | SystemExit:
        """What ends this process as the signal that asked does, or as SIGTERM if none did."""
        if self.signal == signal.SIGINT:
            return KeyboardInterrupt()
        return SystemExit(128 + signal.SIGTERM)


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
