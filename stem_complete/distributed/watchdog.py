"""Terminates a stuck worker and reports which rank blocks the others, at what step and phase.

A collective waits for all ranks. If one is stopped, cut off or stuck elsewhere, the others hang,
and the errors that they get in the end ("connection closed by peer", a timeout) do not name it.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import re
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from stem_complete.distributed.context import WorkerContext
from stem_complete.distributed.heartbeat import Heartbeat, Heartbeats, describe
from stem_complete.errors import CollectiveError

_log = logging.getLogger(__name__)

EXIT_CODE = 75
"""Exit code of a worker that its watchdog ends: EX_TEMPFAIL of sysexits.h, worth another try."""

LAST_WORDS_S = 30.0
"""A stuck worker ends after this time even if its report gets stuck, too [s]."""

INTERVAL_S = 1.0
"""Time between heartbeats, unless the timeout is very short [s]."""

_TRACES = ("_dump_nccl_trace", "_dump_fr_trace")
"""Torch's flight recorders of NCCL, where torch is built with it, and of other backends."""


class _Beat(NamedTuple):
    step: int
    phase: str
    allowed_s: float


class Watchdog:
    """Watches one worker's progress while the block lasts.

        with Watchdog(context, timeout_s=300) as watchdog:
            for step in ...:
                watchdog.beat(step, "forward")
                ...
                watchdog.beat(step, "validation", allow_s=3600)

    If no beat comes for `timeout_s`, it logs one line with the last heartbeats of the other ranks,
    writes all Python stacks to stderr and torch's trace of collectives to a file, and ends the
    process with `EXIT_CODE`, so that the launcher starts the group again. (A thread that waits in a
    collective would not see an exception.) Time in which the whole process was stopped does not
    count.

    A collective's own error that leaves the block becomes a CollectiveError with the same
    heartbeats. The process group's timeout should be longer than `timeout_s`, or NCCL ends the
    process first.

    Args:
        context: This worker.
        timeout_s: Time without a beat after which a worker counts as stuck [s].
    """

    def __init__(self, context: WorkerContext, timeout_s: float) -> None:
        self.context, self.timeout_s = context, timeout_s
        self.interval_s = min(INTERVAL_S, timeout_s / 10)
        self._beat = _Beat(0, "start", timeout_s)
        self._quiet_s = 0.0
        self._end = ""
        self._stop = threading.Event()
        self._heartbeats: Heartbeats | None = None

    def beat(self, step: int, phase: str, *, allow_s: float = 0.0) -> None:
        """Notes that this worker begins a phase of a step; costs next to nothing.

        Args:
            step: The step.
            phase: The phase, in a word.
            allow_s: How long it may take, if longer than the timeout [s]. All ranks that wait for
                a slow one need the same.
        """
        self._beat = _Beat(step, phase, max(self.timeout_s, allow_s))

    def __enter__(self) -> Self:
        if self.context.world_size > 1 and "MASTER_PORT" in os.environ:
            self._heartbeats = Heartbeats(self.context, self._heartbeat, self.interval_s)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        try:
            if error is not None and is_collective_error(error):
                raise self._error("an answer from all workers", _in_short(error)) from error
            self._end = f"ended by {kind.__name__}: {error}" if kind else "finished"
        finally:
            if self._heartbeats is not None:
                self._heartbeats.close()

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
        """Reports and ends the process, unless a beat comes meanwhile."""
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
        if self.context.world_size > 1:
            with suppress(OSError):  # a full disk
                _log.error("trace of its collectives: %s", _write_trace(self.context.rank))
        for reader in multiprocessing.active_children():
            reader.kill()
        time.sleep(self.interval_s)  # the lines may still be on their way to the driver
        os._exit(EXIT_CODE)

    def _error(self, expected: str, found: str) -> CollectiveError:
        beat, others = self._beat, ""
        if self._heartbeats is not None:
            others = describe(self._heartbeats.others()) or "heartbeats of others cannot be read"
        return CollectiveError(
            expected=expected,
            found=found + (f" [{others}]" if others else ""),
            where=f"rank {self.context.rank} on {socket.gethostname()}, "
            f"step {beat.step} ({beat.phase})",
            fix="look at the rank named first; started again, the run goes on from its last "
            "checkpoint",
        )

    def _heartbeat(self) -> Heartbeat:
        step, phase, _ = self._beat
        quiet_s = round(self._quiet_s, 1)
        return Heartbeat(socket.gethostname(), time.time(), step, phase, quiet_s, self._end)


def is_collective_error(error: BaseException) -> bool:
    """Whether an exception comes from a collective, because of another rank and not of this one."""
    if isinstance(error, dist.DistError):
        return True
    # Gloo's errors are plain RuntimeErrors.
    return type(error) is RuntimeError and any(
        sign in str(error) for sign in ("gloo", "NCCL", "c10d")
    )


def _in_short(error: BaseException) -> str:
    """First sentence of a collective's error, without the place in torch's sources."""
    # "[.../pair.cc:537] Read error [...]: Connection reset by peer. This is typically ..."
    line = re.sub(r"^\[\S+\] ", "", str(error).strip()).partition("\n")[0]
    return line.split(". ")[0]


def _write_trace(rank: int) -> Path:
    """Writes torch's flight recorder: the last 2,000 collectives of this rank.

    `torchfrtrace --prefix comm_lib_trace_rank_ FOLDER` compares the files of all ranks. By itself
    NCCL writes them at the process group's timeout only, which comes after the watchdog's.
    """
    prefix = f"{tempfile.gettempdir()}/comm_lib_trace_rank_"
    path = Path(f"{os.environ.get('TORCH_FR_DUMP_TEMP_FILE', prefix)}{rank}")
    dump = next(getattr(c10d, name) for name in _TRACES if hasattr(c10d, name))
    path.write_bytes(dump())
    return path
