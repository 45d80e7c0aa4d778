"""Heartbeats of all ranks, readable when collectives hang.

They lie in the TCP store at which the process group met: torchrun's launcher keeps it, or under Ray
rank 0. The store works while a collective hangs, but its process may be stopped or gone. So only
daemon threads talk to it, and callers wait for them a few seconds at most.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from stem_complete.distributed.context import WorkerContext

_CONNECT_TIMEOUT = timedelta(seconds=10)


class Heartbeat(NamedTuple):
    """Where a rank is.

    Attributes:
        host: Name of its machine.
        time_s: When it was sent, by its host's clock, in seconds since 1970.
        step: Training step.
        phase: Phase of the step.
        quiet_s: Time since the phase began [s].
        end: How the rank ended; empty while it runs.
        silent: Whether no newer heartbeat came although one was due.
    """

    host: str
    time_s: float
    step: int
    phase: str
    quiet_s: float
    end: str = ""
    silent: bool = False

    @property
    def age_s(self) -> float:
        """Time since the rank last did something [s], as far as the hosts' clocks agree."""
        return max(time.time() - self.time_s, 0.0) if self.silent else self.quiet_s

    def __str__(self) -> str:
        state = f"last heartbeat {self.age_s:.0f} s ago" if self.silent else f"{self.age_s:.0f} s"
        return f"on {self.host}: step {self.step} ({self.phase}), {self.end or state}"


class Heartbeats:
    """Sends this rank's heartbeat to the store, and reads those of the others.

    Args:
        context: This worker, one of several.
        current: Makes a heartbeat; called on another thread.
        interval_s: Time between heartbeats [s].
    """

    def __init__(
        self, context: WorkerContext, current: Callable[[], Heartbeat], interval_s: float
    ) -> None:
        self._context, self._current, self._interval_s = context, current, interval_s
        self._of_rank_0: Heartbeat | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send, name="heartbeat", daemon=True)
        self._thread.start()

    def others(self) -> dict[int, Heartbeat]:
        """Last heartbeats of the other ranks; takes two intervals, or up to four and 2 s.

        Ranks that never sent one are missing. Only rank 0 is there if the store does not answer.
        """
        found: dict[int, Heartbeat] = {}
        thread = threading.Thread(target=self._read_twice, args=(found,), daemon=True)
        thread.start()
        thread.join(4 * self._interval_s + 2)
        if not found and self._of_rank_0 is not None:
            # Under Ray rank 0 keeps the store, so it is the one that is stopped or gone.
            return {0: self._of_rank_0._replace(silent=True)}
        return dict(found)

    def close(self) -> None:
        """Sends a last heartbeat."""
        self._closing.set()
        self._thread.join(self._interval_s)

    def _send(self) -> None:
        with suppress(RuntimeError, OSError):  # the store is gone: no rank is left to read
            store, closing = _connect(), False
            while not closing:
                closing = self._closing.is_set()
                store.set(_key(self._context.rank), json.dumps(self._current()))
                if self._context.rank != 0 and not closing:
                    self._of_rank_0 = _read(store, [0]).get(0)
                self._closing.wait(self._interval_s)

    def _read_twice(self, found: dict[int, Heartbeat]) -> None:
        others = [rank for rank in range(self._context.world_size) if rank != self._context.rank]
        with suppress(RuntimeError, OSError):
            store = _connect()
            before = _read(store, others)
            time.sleep(2 * self._interval_s)
            for rank, heartbeat in _read(store, others).items():
                found[rank] = heartbeat._replace(silent=heartbeat == before.get(rank))


def describe(heartbeats: Mapping[int, Heartbeat], num_shown: int = 8) -> str:
    """Heartbeats in words: ended ranks, silent ones, then the rest; the oldest of each first."""
    order = sorted(
        heartbeats.items(),
        key=lambda item: (not item[1].end, not item[1].silent, item[1].step, -item[1].age_s),
    )
    texts = [f"rank {rank} {heartbeat}" for rank, heartbeat in order[:num_shown]]
    if len(order) > num_shown:
        texts.append(f"and {len(order) - num_shown} more")
    return "; ".join(texts)


def _connect() -> TCPStore:
    """A connection of its own: the process group's may be waiting for an answer."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_CONNECT_TIMEOUT)


def _read(store: TCPStore, ranks: Iterable[int]) -> dict[int, Heartbeat]:
    present = [rank for rank in ranks if store.check([_key(rank)])]
    texts = store.multi_get([_key(rank) for rank in present]) if present else []
    return {rank: Heartbeat(*json.loads(text)) for rank, text in zip(present, texts, strict=True)}


def _key(rank: int) -> str:
    return f"stem_complete/heartbeats/{rank}"
