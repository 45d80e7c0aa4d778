"""The units that wait for workers, and what is done about those that kill or outlast their workers.

    several parcels           each is tried by itself
    parcel of several units   each becomes a parcel of its own
    unit with parts           each part is tried by itself, then the unit is done without those
                              that failed again
    anything else             is lost

Each but the first comes after two tries, so that workers that die by chance cost nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic

from stem_complete.console import format_seconds
from stem_complete.errors import Failure
from stem_complete.serving.batch.units import AnyJob, Apart, R, U

TRIES = 2
"""How often a parcel is tried that hangs, or that costs its worker its life."""

Settled = list[tuple[tuple[U, ...], list[R]]]
"""Units that are settled together, with what became of each; empty if none are yet."""

_TOO_LONG_FIX = "look at the scan, or give more time with --timeout"


@dataclass(eq=False)
class WorkItem(Generic[U, R]):
    """A parcel that waits for a worker, or that a worker has.

    Attributes:
        parcel: Units as they come back.
        todo: The same units as a worker gets them, perhaps without some of their parts.
        num_tries_left: How often it may still fail.
        divisible: Whether the unit may still be taken apart.
        part_of: The unit of which this is a part, and its place among the parts; such an item is
            only tried, and does not come back.
        alone: Whether no other is given with it, as it may be what a worker died of.
    """

    parcel: tuple[U, ...]
    todo: tuple[U, ...]
    num_tries_left: int = TRIES
    divisible: bool = True
    part_of: tuple[_Trial[U, R], int] | None = None
    alone: bool = False


@dataclass(eq=False)
class _Trial(Generic[U, R]):
    """A unit whose parts are tried by themselves: how many are left, and what failed."""

    unit: U
    apart: Apart[U, R]
    num_left: int
    lost: dict[int, R] = field(default_factory=dict)


class WorkQueue(Generic[U, R]):
    """What workers have not done yet.

    Args:
        job: What all units have in common.
        parcels: The work.
        timeout_s: Longest time that a unit may take [s].

    Attributes:
        num_left: Number of units that have not come back.
    """

    def __init__(
        self, job: AnyJob[U, R], parcels: Sequence[tuple[U, ...]], timeout_s: float
    ) -> None:
        self._job, self._timeout_s = job, timeout_s
        self._waiting = deque(WorkItem[U, R](parcel, parcel) for parcel in parcels)
        self.num_left = sum(map(len, parcels))

    def __len__(self) -> int:
        """Number of items that wait for a worker."""
        return len(self._waiting)

    def take(self, most: int = 1) -> list[WorkItem[U, R]]:
        """What is to be done next, one or up to `most`."""
        items = [self._waiting.popleft()]
        while (
            len(items) < most and self._waiting and not (items[0].alone or self._waiting[0].alone)
        ):
            items.append(self._waiting.popleft())
        return items

    def give_back(self, items: Sequence[WorkItem[U, R]]) -> None:
        """Takes items back that were not begun."""
        self._waiting.extendleft(reversed(items))

    def limit_s(self, item: WorkItem[U, R]) -> float:
        """Longest time that an item may take [s]."""
        return self._timeout_s * len(item.parcel)

    def finish(self, item: WorkItem[U, R], results: list[R]) -> Settled[U, R]:
        """Notes that an item is done; returns what comes back, which is nothing of a part."""
        if item.part_of is not None:
            self._end_trial(item.part_of[0])
            return []
        self.num_left -= len(item.parcel)
        return [(item.parcel, results)]

    def time_out(self, items: Sequence[WorkItem[U, R]]) -> Settled[U, R]:
        """Notes that one of these items took longer than its limit; see `fail`."""
        limit = format_seconds(self.limit_s(items[0]))
        reason = f"it took longer than {limit}, {TRIES} times"
        return self.fail(items, Failure(reason, _TOO_LONG_FIX))

    def fail(self, items: Sequence[WorkItem[U, R]], failure: Failure) -> Settled[U, R]:
        """Notes that a worker did not survive one of these items; returns what comes back as lost.

        Args:
            items: What a worker had at once; one alone is tried again, or taken apart.
            failure: What befell its workers, should it be lost.
        """
        if len(items) > 1:
            self._put(items)
            return []
        (item,) = items
        item.num_tries_left -= 1
        if item.num_tries_left:
            self._put([item])
            return []
        if len(item.parcel) > 1:
            self._put([WorkItem((unit,), (unit,)) for unit in item.parcel])
            return []
        (unit,) = item.parcel
        if item.part_of is not None:
            trial, place = item.part_of
            trial.lost[place] = self._job.lost(unit, failure)
            self._end_trial(trial)
            return []
        if item.divisible and (apart := self._job.apart(unit)) is not None:
            self._try_parts(unit, apart)
            return []
        return self.finish(item, [self._job.lost(unit, failure)])

    def _try_parts(self, unit: U, apart: Apart[U, R]) -> None:
        trial = _Trial(unit, apart, len(apart.parts))
        self._put(
            [
                WorkItem((part,), (part,), part_of=(trial, place))
                for place, part in enumerate(apart.parts)
            ]
        )

    def _end_trial(self, trial: _Trial[U, R]) -> None:
        """Once all parts are tried, gives the unit a last try without those that failed."""
        trial.num_left -= 1
        if not trial.num_left:
            rest = trial.apart.without(trial.lost)
            self._put([WorkItem((trial.unit,), (rest,), num_tries_left=1, divisible=False)])

    def _put(self, items: Sequence[WorkItem[U, R]]) -> None:
        """Has items done next, each by itself."""
        for item in items:
            item.alone = True
        self._waiting.extendleft(reversed(items))
