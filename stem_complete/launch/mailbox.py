"""A mailbox between driver and workers: messages one way, wishes to stop the other."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import ray

from stem_complete.launch.messages import POLL_S, Message, Metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stem_complete.launch.policy import Clock
    from stem_complete.training import StopRequest


class Mailbox:
    """Keeps messages until the driver takes them. Lives in a Ray actor on the driver's node."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.messages: list[Message] = []
        self.stop_reason: str | None = None
        self.last_poll_s = clock()

    def put(self, message: Message) -> None:
        """Keeps a message from a worker."""
        self.messages.append(message)

    def take(self) -> tuple[list[Message], float]:
        """Messages since the last call, and for how long no worker has polled [s]."""
        messages, self.messages = self.messages, []
        return messages, self.clock() - self.last_poll_s

    def ask_to_stop(self, reason: str | None) -> None:
        """Asks the workers to stop with a checkpoint; None takes it back."""
        self.stop_reason = reason

    def poll(self) -> str | None:
        """Why the workers should stop, if they should. The first worker calls it all the time."""
        self.last_poll_s = self.clock()
        return self.stop_reason


class MailboxRecorder:
    """Recorder on the first worker; never waits for the driver."""

    def __init__(self, mailbox: ray.actor.ActorHandle) -> None:
        self.mailbox = mailbox

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends values of metrics."""
        self.mailbox.put.remote(Metrics(step, dict(values)))

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Sends nothing: the driver shows no pictures."""

    def close(self) -> None:
        """Does nothing, as all is sent at once."""


class MailboxHandler(logging.Handler):
    """Sends a worker's warnings to the driver; the rest of its output stays in Ray's logs."""

    def __init__(self, mailbox: ray.actor.ActorHandle, rank: int) -> None:
        super().__init__(logging.WARNING)
        self.mailbox, self.rank = mailbox, rank

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a warning."""
        text = f"worker {self.rank}: {record.levelname.lower()}: {record.getMessage()}"
        self.mailbox.put.remote(text)


def poll_in_background(mailbox: ray.actor.ActorHandle, stop: StopRequest) -> None:
    """Passes the driver's wish to stop on to this process's run, from a thread of its own."""

    def poll() -> None:
        while stop.reason is None:
            # The actor may restart, or the driver be gone; then Ray ends this process.
            with suppress(ray.exceptions.RayError):
                if (reason := ray.get(mailbox.poll.remote())) is not None:
                    stop(reason)
            time.sleep(POLL_S)

    threading.Thread(target=poll, name="mailbox", daemon=True).start()
