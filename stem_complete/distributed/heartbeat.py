"""Heartbeats of all ranks, readable when collectives hang.

They lie in the TCP store at which the process group met: torchrun's launcher keeps it, or under Ray
rank 0. The store works while a collective hangs, but its process may be stopped or gone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple

from torch.distributed import TCPStore  # type: ignore[attr-defined]

_KEY = "stem_complete/heartbeats/{}"


class Heartbeat(NamedTuple):
    """Where a rank is; times in seconds."""

    host: str
    time_s: float  # when it was sent, by its host's clock, since 1970
    step: int
    phase: str
    quiet_s: float  # since the phase began
    end: str = ""  # how the rank ended
    silent: bool = False  # no newer heartbeat came although one was due

    @property
    def age_s(self) -> float:
        """Time since the rank last did something [s], as far as the hosts' clocks agree."""
        return max(time.time() - self.time_s, 0.0) if self.silent else self.quiet_s

    def __str__(self) -> str:
        state = f"last heartbeat {self.age_s:.0f} s ago" if self.silent else f"{self.age_s:.0f} s"
        return f"on {self.host}: step {self.step} ({self.phase}), {self.end or state}"


def describe(heartbeats: Mapping[int, Heartbeat], num_shown: int = 8) -> str:
    """Heartbeats in words: ended ranks, silent ones, then the rest; the oldest of each first."""
    order = sorted(
        heartbeats.items(),
        key=lambda item: (not item[1].end, not item[1].silent, item[1].step, -item[1].age_s),
    )
    texts = [f"rank {rank} {heartbeat}" for rank, heartbeat in order[:num_shown]]
    more = [f"and {len(order) - num_shown} more"] if len(order) > num_shown else []
    return "; ".join(texts + more)


def connect() -> TCPStore:
    """A connection of its own: the process group's may be waiting for an answer."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=10)
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)


def send(store: TCPStore, rank: int, heartbeat: Heartbeat) -> None:
    """Replaces the heartbeat of a rank."""
    store.set(_KEY.format(rank), json.dumps(heartbeat))


def read(store: TCPStore, ranks: Iterable[int]) -> dict[int, Heartbeat]:
    """Heartbeats of those of the ranks that sent one."""
    keys = {rank: _KEY.format(rank) for rank in ranks}
    if not store.check([*keys.values()]):  # one question as a rule, and not one for each rank
        keys = {rank: key for rank, key in keys.items() if store.check([key])}
    texts = store.multi_get([*keys.values()]) if keys else []
    return {rank: Heartbeat(*json.loads(text)) for rank, text in zip(keys, texts, strict=True)}
