"""The driver of a run on a cluster: follows worker groups until training ends. It knows no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from stem_complete.config import Config
from stem_complete.console import TrainingProgress, counted, format_seconds, say
from stem_complete.errors import TrainingError
from stem_complete.launch.messages import POLL_S, GroupStarted, Message, Metrics
from stem_complete.launch.policy import Clock, ClusterPolicy, resources_per_worker
from stem_complete.training import StopRequest, TrainingResult

SILENCE_S = 15.0
"""Workers silent for longer than this are missing: the user is told what the cluster has."""

NOTICE_EVERY_S = 4 * SILENCE_S


class WorkersFailedError(Exception):
    """Workers failed more often than they may."""


class ControllerLostError(WorkersFailedError):
    """The process that controls a worker group died; another group may go on."""


class Group(Protocol):
    """A worker group that was started."""

    def has_ended_within(self, seconds: float) -> bool:
        """Waits for its end, at most so long."""

    def take_messages(self) -> tuple[list[Message], float]:
        """Messages since the last call, and for how long all workers were silent [s]."""

    def ask_to_stop(self, reason: str) -> None:
        """Asks its workers to stop with a checkpoint."""

    def free_resources(self) -> Mapping[str, float]:
        """What its cluster has free, by Ray's names."""

    def all_resources(self) -> Mapping[str, float]:
        """What its cluster has, free or not."""

    def has_places(self) -> bool:
        """Whether its cluster gave its workers their places, in which they may still start."""

    def result(self) -> TrainingResult:
        """How training ended, or what ended it: WorkersFailedError, or a worker's own error."""


class Driver:
    """Follows the worker groups of one run, shows their messages and passes wishes to stop on."""

    def __init__(self, config: Config, stop: StopRequest, clock: Clock = time.monotonic) -> None:
        self.config, self.stop, self.clock = config, stop, clock
        self.policy = ClusterPolicy(config.scaling, clock)
        limit = config.scaling.max_failures
        self.num_lost, self.max_lost = 0, math.inf if limit < 0 else limit  # controllers
        self.noticed_s = -math.inf  # when the user was told of missing workers
        self.group_trains = False  # or its workers still start
        self.last_step: tuple[int, float] | None = None  # and when it was reported
        training = config.training
        self.progress = TrainingProgress(
            config.name, training.steps, config.batch_size, training.max_minutes
        )

    def run(
        self, start_group: Callable[[], AbstractContextManager[Group]]
    ) -> TrainingResult | None:
        """Starts one group after the other until training ends.

        Returns:
            How training ended; None if a controller died, which leaves the cluster in a state in
            which no other group gets places: the caller must connect anew and call this again.

        Raises:
            StemCompleteError: Training failed, or the cluster has no room for it.
        """
        while True:
            if self.stop.reason is not None:
                return self.stopped()
            try:
                with start_group() as group:
                    result = self._follow(group)
            except WorkersFailedError as failed:
                if self.stop.signal is not None:
                    return self.stopped()  # it may have reached the workers, too
                # Of controllers as many may die as of groups that Ray Train itself replaces.
                self.num_lost += 1
                if isinstance(failed, ControllerLostError) and self.num_lost <= self.max_lost:
                    say(f"Ray Train's controller died ({failed}); starting another")
                    return None
                raise TrainingError(
                    expected="workers that finish",
                    found=str(failed),
                    where=self.config.name,
                    fix=_fix(str(failed)),
                ) from failed
            if result.finished or self.stop.reason is not None:
                return result
            say(f"stopped after step {result.step} with a checkpoint, and going on")

    def _follow(self, group: Group) -> TrainingResult:
        """How a group ended, or stands when it is too late for it to answer a wish to stop."""
        self.policy.group_starts()
        started_s, asked, self.noticed_s = self.clock(), False, -math.inf
        self.group_trains = False
        while not group.has_ended_within(POLL_S):
            if self.stop.at_once:
                return self.stopped()
            silent_s = min(self._show_messages(group), self.clock() - started_s)
            if self.stop.reason is not None and not asked:
                if not self.group_trains:
                    return self.stopped()  # its workers still start, and have nothing to save
                say(f"{self.stop.reason}: stopping with a checkpoint (again: without)")
                group.ask_to_stop(self.stop.reason)
                asked = True
            if silent_s > SILENCE_S:
                self._say_what_is_missing(group, silent_s)
                if asked:
                    return self.stopped()
                self.policy.forget_room()
            elif not asked and self.policy.has_room_for_more(group.free_resources):
                say("the cluster has room for more workers: the run stops, to go on with them")
                group.ask_to_stop("the cluster has room for more workers")
                asked = True
        self._show_messages(group)
        return group.result()

    def stopped(self) -> TrainingResult:
        """How far a run came that ends without an answer of its workers."""
        return TrainingResult(self.last_step[0] if self.last_step else 0, {}, False)

    def _show_messages(self, group: Group) -> float:
        """Shows what the workers sent; for how long they were silent [s]."""
        messages, silent_s = group.take_messages()
        for message in messages:
            if isinstance(message, str):
                say(message)
            elif isinstance(message, Metrics):
                self.last_step = message.step, self.clock()
                self.progress.scalars(*message)
            else:
                self._say_who_trains(message)
        return silent_s

    def _say_who_trains(self, group: GroupStarted) -> None:
        self.policy.group_trains(group.num_workers)
        self.group_trains = True
        hosts = ", ".join(sorted(set(group.hosts)))
        after = ""
        if self.last_step is not None:
            step, reported_s = self.last_step
            after = f", {format_seconds(self.clock() - reported_s)} after step {step} was reported"
        trains = "trains" if group.num_workers == 1 else "train"
        say(f"{counted(group.num_workers, 'worker')} {trains} on {hosts}{after}")

    def _say_what_is_missing(self, group: Group, silent_s: float) -> None:
        scaling = self.config.scaling
        each = resources_per_worker(scaling)
        needed = f"{counted(scaling.world_sizes[0], 'worker')} with {_listed(each)} each"
        if group.has_places():
            waiting_for = f"{counted(scaling.world_sizes[0], 'worker')} to start"
            found = "places for them"
        else:
            free, total = group.free_resources(), group.all_resources()
            waiting_for = needed
            found = " and ".join(
                f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind} free" for kind in each
            )
        if silent_s > scaling.wait_for_nodes_s:
            raise TrainingError(
                expected=f"{needed} within {format_seconds(scaling.wait_for_nodes_s)}",
                found=found,
                where=f"the Ray cluster, for {self.config.name}",
                fix="add nodes, lower scaling.num_workers, or set scaling.min_workers",
            )
        if self.clock() - self.noticed_s >= NOTICE_EVERY_S:
            self.noticed_s, since = self.clock(), format_seconds(silent_s)
            say(f"waiting for {waiting_for} since {since}; the cluster has {found}")


def _fix(failure: str) -> str:
    """What to do about workers that failed too often."""
    if failure.startswith(("ModuleNotFoundError", "ImportError")):
        return "install the same version of stem-complete, with its packages, on every node"
    return "see Ray's logs of the workers; started again, it goes on from the last checkpoint"


def _listed(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{number:g} {kind}" for kind, number in resources.items())
