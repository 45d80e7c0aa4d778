"""Rules for a run on a cluster: when it grows, how long it waits for nodes, when it gives up.

Nothing here waits or knows Ray. The driver says what happened and asks what to do, so that tests
can turn the clock by hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from stem_complete.config.schema import ScalingConfig

SILENCE_S = 15.0
"""Workers silent for longer than this are missing: the user is told what the cluster has."""

NOTICE_EVERY_S = 4 * SILENCE_S

ROOM_LASTS_S = 21.0
"""Room for more workers is used once it is older than this: Ray Train looks for new nodes every
20 s, and places no worker on them before."""

Clock = Callable[[], float]
"""Seconds since any moment; never falls."""


def resources_per_worker(scaling: ScalingConfig) -> dict[str, float]:
    """Resources that a worker takes, by Ray's names."""
    gpu = {"GPU": 1.0} if scaling.use_gpu else {}
    return {"CPU": float(scaling.cpus_per_worker)} | gpu


class ClusterPolicy:
    """What to do about the worker groups of one run.

    Args:
        scaling: The run's section `scaling`.
        clock: Of this process.

    Attributes:
        num_workers: Workers of the latest group that trained; 0 before the first.
        look_every_s: Pause between looks for free resources [s]. It doubles each time that a run
            stopped to grow and did not, since other jobs took the room.
    """

    def __init__(self, scaling: ScalingConfig, clock: Clock = time.monotonic) -> None:
        self.scaling, self.clock = scaling, clock
        self.num_workers = 0
        self.look_every_s = scaling.resize_every_s
        self._num_controllers_lost = 0
        self._next_look_s = self._next_notice_s = math.inf
        self._room_since_s: float | None = None

    def group_starts(self) -> None:
        """Notes that a worker group was asked for. It does not train yet."""
        self._room_since_s, self._next_look_s = None, math.inf
        self._next_notice_s = self.clock() + SILENCE_S

    def group_trains(self, num_workers: int) -> None:
        """Notes that a group of so many workers trains."""
        if 0 < num_workers <= self.num_workers:
            self.look_every_s *= 2
        else:
            self.look_every_s = self.scaling.resize_every_s
        self.num_workers = num_workers
        self._room_since_s = None
        self._next_look_s = self.clock() + self.look_every_s

    def has_room_for_more(self, free: Callable[[], Mapping[str, float]]) -> bool:
        """Whether a run that is smaller than it may be could have grown for some time.

        Args:
            free: Returns the cluster's free resources; called only when it is time to look.
        """
        now = self.clock()
        if self.scaling.min_workers is None or self.num_workers >= self.scaling.num_workers:
            return False
        if now < self._next_look_s:
            return False
        available = free()
        needed = resources_per_worker(self.scaling)
        if any(available.get(kind, 0) < number for kind, number in needed.items()):
            self._room_since_s, self._next_look_s = None, now + self.look_every_s
            return False
        if self._room_since_s is None:
            self._room_since_s = now
        return now - self._room_since_s > ROOM_LASTS_S

    def forget_room(self) -> None:
        """Forgets free resources seen so far, which may be those of workers to be replaced."""
        self._room_since_s = None

    def are_missing(self, silent_s: float) -> bool:
        """Whether workers silent for so long are taken for missing."""
        return silent_s > SILENCE_S

    def waited_too_long(self, silent_s: float) -> bool:
        """Whether to give up waiting for workers."""
        return silent_s > self.scaling.wait_for_nodes_s

    def is_notice_due(self) -> bool:
        """Whether to tell the user again that workers are missing; counts as told."""
        if self.clock() < self._next_notice_s:
            return False
        self._next_notice_s = self.clock() + NOTICE_EVERY_S
        return True

    def may_replace_controller(self) -> bool:
        """Whether to replace a controller that died: up to `scaling.max_failures` times."""
        self._num_controllers_lost += 1
        limit = self.scaling.max_failures
        return limit < 0 or self._num_controllers_lost <= limit
