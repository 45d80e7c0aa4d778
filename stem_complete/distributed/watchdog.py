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
from typing import NamedTuple, Self

import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from stem_complete.distributed import heartbeat
from stem_complete.distributed.context import WorkerContext
from stem_complete.distributed.heartbeat import Heartbeat
from stem_complete.errors import CollectiveError

_log = logging.getLogger(__name__)

EXIT_CODE = 75
"""Exit code of a worker that its watchdog ends: EX_TEMPFAIL of sysexits.h, worth another try."""

LAST_WORDS_S = 30.0
"""A stuck worker ends after this time even if its report gets stuck, too [s]."""

INTERVAL_S = 1.0
"""Time between heartbeats, unless the timeout is very short [s]."""


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

    If no beat comes for `timeout_s` [s], it logs one line with the last heartbeats of other ranks,
    writes all Python stacks to stderr and torch's trace of collectives to a file, and ends the
    process with `EXIT_CODE`, so that the launcher starts the group again. (A thread that waits in a
    collective would not see an exception.) Time in which the whole process was stopped does not
    count.

    A collective's own error that leaves the block becomes a CollectiveError with the same
    heartbeats. The process group's timeout should be longer than `timeout_s`, or NCCL ends the
    process first.
    """

    def __init__(self, context: WorkerContext, timeout_s: float) -> None:
        self.context, self.timeout_s = context, timeout_s
        self.interval_s = min(INTERVAL_S, timeout_s / 10)
        self._beat = _Beat(0, "start", timeout_s)
        self._quiet_s, self._end = 0.0, ""
        self._stop, self._closing = threading.Event(), threading.Event()
        self._has_others = context.world_size > 1 and "MASTER_PORT" in os.environ
        self._talker = threading.Thread(target=self._talk, name="heartbeat", daemon=True)
        self._heard: dict[int, tuple[Heartbeat, float]] = {}  # of each rank, and when it came [s]
        self._hears_all = False

    def beat(self, step: int, phase: str, *, allow_s: float = 0.0) -> None:
        """Notes that this worker begins a phase of a step; costs next to nothing.

        The phase may take `allow_s` if that is longer than the timeout. All ranks that wait for a
        slow one need the same.
        """
        self._beat = _Beat(step, phase, max(self.timeout_s, allow_s))

    def __enter__(self) -> Self:
        if self._has_others:
            self._talker.start()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._stop.set()
        try:
            if error is not None and is_collective_error(error):
                # "[.../pair.cc:537] Read error [...]: Connection reset by peer. This is ..."
                line = re.sub(r"^\[\S+\] ", "", str(error).strip()).partition("\n")[0]
                raise self._error("an answer from all workers", line.split(". ")[0]) from error
            ended = f"ended by {type(error).__name__}: {error}"
            self._end = "finished" if error is None else ended
        finally:
            self._closing.set()
            if self._has_others:
                self._talker.join(self.interval_s)

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
        beat = self._beat
        if self._has_others:
            others = heartbeat.describe(self._others()) or "heartbeats of others cannot be read"
            found += f" [{others}]"
        return CollectiveError(
            expected=expected,
            found=found,
            where=f"rank {self.context.rank} on {socket.gethostname()}, "
            f"step {beat.step} ({beat.phase})",
            fix="look at the rank named first; started again, the run goes on from its last "
            "checkpoint",
        )

    def _talk(self) -> None:
        """Body of the thread that sends heartbeats, a last one at the end, and hears the others."""
        others = [rank for rank in range(self.context.world_size) if rank != self.context.rank]
        with suppress(RuntimeError, OSError):  # the store is gone: no rank is left to read
            store, closing = heartbeat.connect(), False
            while not closing:
                closing = self._closing.is_set()
                (step, phase, _), quiet_s = self._beat, round(self._quiet_s, 1)
                own = Heartbeat(socket.gethostname(), time.time(), step, phase, quiet_s, self._end)
                heartbeat.send(store, self.context.rank, own)
                # Always rank 0, which is stopped or gone itself if a store of its own is silent.
                asked = others if self._hears_all else others[:1]
                for rank, sent in heartbeat.read(store, asked).items():
                    if rank not in self._heard or self._heard[rank][0] != sent:
                        self._heard[rank] = sent, time.monotonic()
                self._closing.wait(self.interval_s)

    def _others(self) -> dict[int, Heartbeat]:
        """Last heartbeats of the other ranks; takes some intervals.

        Ranks that never sent one are missing, and perhaps all but rank 0 if no store answers.
        """
        self._hears_all = True
        time.sleep(3.5 * self.interval_s)
        self._hears_all = False
        oldest_s = time.monotonic() - 2 * self.interval_s
        return {
            rank: sent._replace(silent=heard_s < oldest_s)
            for rank, (sent, heard_s) in self._heard.copy().items()
        }


def is_collective_error(error: BaseException) -> bool:
    """Whether an exception comes from a collective, because of another rank and not of this one."""
    # Gloo's errors are plain RuntimeErrors.
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and re.search("gloo|NCCL|c10d", str(error)) is not None
    )


def _write_trace(rank: int) -> Path:
    """Writes torch's flight recorder: the last 2,000 collectives of this rank.

    `torchfrtrace --prefix comm_lib_trace_rank_ FOLDER` compares the files of all ranks. By itself
    NCCL writes them at the process group's timeout only, which comes after the watchdog's.
    """
    prefix = f"{tempfile.gettempdir()}/comm_lib_trace_rank_"
    path = Path(f"{os.environ.get('TORCH_FR_DUMP_TEMP_FILE', prefix)}{rank}")
    # NCCL has a recorder of its own, where torch is built with it.
    names = [name for name in ("_dump_nccl_trace", "_dump_fr_trace") if hasattr(c10d, name)]
    path.write_bytes(getattr(c10d, names[0])())
    return path
