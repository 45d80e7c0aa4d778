"""When a run on a cluster stops to grow, and whether several have room at the same time.

Nothing here waits or knows Ray. The driver says what happened and asks what to do, so that tests
can turn the clock by hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping

from stem_complete.config.schema import ScalingConfig

ROOM_LASTS_S = 21.0
"""Room for more workers is used once it is older than this: Ray Train looks for new nodes every
20 s, and places no worker on them before."""

Clock = Callable[[], float]
"""Seconds since any moment; never falls."""


def resources_per_worker(scaling: ScalingConfig) -> dict[str, float]:
    """Resources that a worker takes, by Ray's names."""
    gpu = {"GPU": 1.0} if scaling.use_gpu else {}
    return {"CPU": float(scaling.cpus_per_worker)} | gpu


def have_places(runs: Iterable[ScalingConfig], nodes: Iterable[Mapping[str, float]]) -> bool:
    """Whether the workers of all runs together have places on nodes with such resources."""
    left = [dict(node) for node in nodes]
    for scaling in runs:
        each = resources_per_worker(scaling)
        for _ in range(scaling.num_workers):
            for node in left:
                if all(node.get(kind, 0) >= number for kind, number in each.items()):
                    node |= {kind: node[kind] - number for kind, number in each.items()}
                    break
            else:
                return False
    return True


class ClusterPolicy:
    """When the worker groups of one run make way for larger ones.

    Attributes:
        num_workers: Workers of the latest group that trained; 0 before the first.
        look_every_s: Pause between looks for free resources [s]. It doubles each time that a run
            stopped to grow and did not, since other jobs took the room.
    """

    def __init__(self, scaling: ScalingConfig, clock: Clock = time.monotonic) -> None:
        self.scaling, self.clock = scaling, clock
        self.num_workers = 0
        self.look_every_s = scaling.resize_every_s
        self._next_look_s = math.inf
        self._room_since_s: float | None = None

    def group_starts(self) -> None:
        """Notes that a worker group was asked for. It does not train yet."""
        self._room_since_s, self._next_look_s = None, math.inf

    def group_trains(self, num_workers: int) -> None:
        """Notes that a group of so many workers trains."""
        has_grown = num_workers > self.num_workers
        self.look_every_s = self.scaling.resize_every_s if has_grown else 2 * self.look_every_s
        self.num_workers = num_workers
        self._room_since_s = None
        self._next_look_s = self.clock() + self.look_every_s

    def has_room_for_more(self, free: Callable[[], Mapping[str, float]]) -> bool:
        """Whether a run that is smaller than it may be could have grown for some time.

        `free` returns the cluster's free resources, and is called only when it is time to look.
        """
        now = self.clock()
        is_whole = self.num_workers >= self.scaling.num_workers
        if self.scaling.min_workers is None or is_whole or now < self._next_look_s:
            return False
        available, needed = free(), resources_per_worker(self.scaling)
        if any(available.get(kind, 0) < number for kind, number in needed.items()):
            self._room_since_s, self._next_look_s = None, now + self.look_every_s
            return False
        if self._room_since_s is None:
            self._room_since_s = now
        return now - self._room_since_s > ROOM_LASTS_S

    def forget_room(self) -> None:
        """Forgets free resources seen so far, which may be those of workers to be replaced."""
        self._room_since_s = None
