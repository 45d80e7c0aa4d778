"""Ends a worker that makes no headway, and says which worker holds up the others, and where.

A collective waits for all workers. If one is stopped, cut off or busy with something else, the
others hang, and what they say in the end ("connection closed by peer", a timeout) does not name
it. Here each worker says now and then which step and phase it is in, apart from the collectives.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import re
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

import torch.distributed as dist

from stem_complete.distributed.bulletin import Bulletin, Report, describe
from stem_complete.distributed.context import WorkerContext
from stem_complete.errors import CollectiveError

_log = logging.getLogger(__name__)

EXIT_CODE = 75
"""Exit code of a worker that its watchdog ends: EX_TEMPFAIL of sysexits.h, worth another try."""

LAST_WORDS_S = 30.0
"""A stuck worker ends after so long even if what it wants to say is stuck, too."""

INTERVAL_S = 1.0
"""Time between a worker's reports to the others, if its timeout is not very short."""


class _Beat(NamedTuple):
    step: int
    phase: str
    allowed_s: float


class Watchdog:
    """Watches one worker's headway while the block lasts.

        with Watchdog(context, timeout_s=300) as watchdog:
            for step in ...:
                watchdog.beat(step, "forward")
                ...
                watchdog.beat(step, "validation", allow_s=3600)

    If no beat comes for `timeout_s`, one line in the log says so and what the other workers last
    said, all Python stacks go to stderr, and the process ends with `EXIT_CODE`, so that the
    launcher starts the group again. (An exception would not do: a thread that waits in a collective
    does not see it.) Time in which the whole process was stopped does not count.

    A collective's own error that leaves the block becomes a CollectiveError with the same news. The
    process group's timeout should be longer than `timeout_s`, or NCCL ends the process first.

    Args:
        context: This worker.
        timeout_s: Time without a beat after which a worker counts as stuck.
    """

    def __init__(self, context: WorkerContext, timeout_s: float) -> None:
        self.context, self.timeout_s = context, timeout_s
        self.interval_s = min(INTERVAL_S, timeout_s / 10)
        self._beat = _Beat(0, "start", timeout_s)
        self._quiet_s = 0.0
        self._end, self._failed_at = "", ""
        self._thread_id = 0
        self._stop = threading.Event()
        self._bulletin: Bulletin | None = None

    def beat(self, step: int, phase: str, *, allow_s: float = 0.0) -> None:
        """Says that this worker begins a phase of a step; costs next to nothing.

        Args:
            step: The step.
            phase: What it does next, in a word.
            allow_s: How long that may take, if longer than the timeout. All workers that wait for
                one that takes its time need the same.
        """
        self._beat = _Beat(step, phase, max(self.timeout_s, allow_s))

    def __enter__(self) -> Self:
        self._thread_id = threading.get_ident()
        if self.context.world_size > 1 and "MASTER_PORT" in os.environ:
            self._bulletin = Bulletin(self.context, self._report, self.interval_s)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for frame, _ in traceback.walk_tb(trace):
            self._failed_at = _place(frame)
        try:
            if error is not None and is_collective_error(error):
                raise self.explain(error) from error
            self._end = f"stopped by {kind.__name__}: {error}" if kind else "finished"
        finally:
            if self._bulletin is not None:
                self._bulletin.close()

    def explain(self, error: BaseException) -> CollectiveError:
        """A collective's error with this worker's step and what the others last said."""
        # "[.../pair.cc:537] Read error [...]: Connection reset by peer. This is typically ..."
        text = re.sub(r"^\[\S+\] ", "", str(error).strip()).partition("\n")[0]
        return self._error("an answer from all workers", text.split(". ")[0])

    def _watch(self) -> None:
        """Body of the thread: measures the time since the last beat."""
        seen, before = self._beat, time.monotonic()
        while not self._stop.wait(self.interval_s):
            now = time.monotonic()
            if self._beat is seen:
                # A longer pause than asked for: the process was stopped (Ctrl-Z), not stuck.
                self._quiet_s += min(now - before, 2 * self.interval_s)
            else:
                seen, self._quiet_s = self._beat, 0.0
            before = now
            if self._quiet_s >= seen.allowed_s:
                self._end_process(seen)

    def _end_process(self, stuck: _Beat) -> None:
        """Says what is known and ends the process, unless a beat comes meanwhile."""
        # The stuck thread may hold the lock of the log or of stderr.
        deadline = threading.Timer(LAST_WORDS_S, os._exit, [EXIT_CODE])
        deadline.daemon = True
        deadline.start()
        error = self._error(
            f"the next phase within {stuck.allowed_s:.0f} s", f"none after {self._quiet_s:.0f} s"
        )
        if self._beat is not stuck or self._stop.is_set():
            deadline.cancel()
            return
        _log.error("%s", error)
        faulthandler.dump_traceback(file=2, all_threads=True)
        for reader in multiprocessing.active_children():
            reader.kill()
        time.sleep(self.interval_s)  # the line may still be on its way to the driver
        os._exit(EXIT_CODE)

    def _error(self, expected: str, found: str) -> CollectiveError:
        beat, place = self._beat, self._place()
        others = ""
        if self._bulletin is not None:
            others = describe(self._bulletin.news()) or "the others cannot be asked"
        return CollectiveError(
            expected=expected,
            found=f"{found}, in {place}" + (f" [{others}]" if others else ""),
            where=f"rank {self.context.rank} on {socket.gethostname()}, "
            f"step {beat.step} ({beat.phase})",
            fix="look at the worker named first; started again, the run goes on from its last "
            "checkpoint",
        )

    def _report(self) -> Report:
        beat = self._beat
        return Report(
            socket.gethostname(),
            time.time(),
            beat.step,
            beat.phase,
            round(self._quiet_s, 1),
            self._place(),
            self._end,
        )

    def _place(self) -> str:
        """Function and line that the watched thread is in, or failed in."""
        return self._failed_at or _place(sys._current_frames()[self._thread_id])  # noqa: SLF001


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def is_collective_error(error: BaseException) -> bool:
    """Whether an exception comes from a collective, because of the others and not of this one."""
    if isinstance(error, dist.DistError):
        return True
    # Gloo's errors are plain RuntimeErrors.
    return type(error) is RuntimeError and any(
        sign in str(error) for sign in ("gloo", "NCCL", "c10d")
    )
