"""What the driver and the first worker tell each other: metrics and warnings, and when to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from stem_complete.training import StopRequest

POLL_S = 0.5


class Metrics(NamedTuple):
    """Metrics after a step."""

    step: int
    values: dict[str, float]


class GroupStarted(NamedTuple):
    """A worker group that begins to train, or goes on."""

    num_workers: int
    hosts: list[str]


Message = str | Metrics | GroupStarted
"""A warning, or one of the above."""


class Mailbox:
    """A Ray actor on the driver's node."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.stop_reason: str | None = None
        self.last_poll = time.monotonic()

    def put(self, message: Message) -> None:
        """Takes a message in."""
        self.messages.append(message)

    def take(self) -> tuple[list[Message], float]:
        """Messages since the last call, and for how long no worker was heard of [s]."""
        messages, self.messages = self.messages, []
        return messages, time.monotonic() - self.last_poll

    def ask_to_stop(self, reason: str | None) -> None:
        """Leaves word for the workers to stop with a checkpoint; None takes it back."""
        self.stop_reason = reason

    def poll(self) -> str | None:
        """Called by the first worker again and again: why it should stop, if it should."""
        self.last_poll = time.monotonic()
        return self.stop_reason


class MailboxRecorder:
    """Recorder on the first worker; never waits for the driver."""

    def __init__(self, mailbox: ray.actor.ActorHandle) -> None:
        self.mailbox = mailbox

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends values of metrics."""
        self.mailbox.put.remote(Metrics(step, dict(values)))

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Pictures go to MLflow only."""

    def close(self) -> None:
        """Nothing is kept back."""


class MailboxHandler(logging.Handler):
    """Sends a worker's warnings to the driver; what else it prints stays in Ray's logs."""

    def __init__(self, mailbox: ray.actor.ActorHandle, rank: int) -> None:
        super().__init__(logging.WARNING)
        self.mailbox, self.rank = mailbox, rank

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a warning."""
        text = f"worker {self.rank}: {record.levelname.lower()}: {record.getMessage()}"
        self.mailbox.put.remote(text)


def heed(mailbox: ray.actor.ActorHandle, stop: StopRequest) -> None:
    """Passes the driver's wish to stop on to this process's run, from a thread of its own."""

    def poll() -> None:
        while stop.reason is None:
            try:
                reason = ray.get(mailbox.poll.remote())
            except ray.exceptions.RayError:
                reason = None  # the driver is gone, and Ray ends this process; or it is coming back
            if reason is not None:
                stop(reason)
            time.sleep(POLL_S)

    threading.Thread(target=poll, name="mailbox", daemon=True).start()
