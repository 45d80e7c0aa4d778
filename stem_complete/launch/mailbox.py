"""How metrics and warnings come from the workers to the driver."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stem_complete.config import Config
from stem_complete.console import TrainingProgress, say

if TYPE_CHECKING:
    import ray

POLL_S = 0.5

Message = str | tuple[int, dict[str, float]]
"""A warning, or metrics after a step."""


class Mailbox:
    """A Ray actor that carries metrics and warnings from the workers to the driver."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def put(self, message: Message) -> None:
        """Takes a message in."""
        self.messages.append(message)

    def take(self) -> list[Message]:
        """Messages since the last call."""
        messages, self.messages = self.messages, []
        return messages


class MailboxRecorder:
    """Recorder on the first worker; never waits for the driver."""

    def __init__(self, mailbox: ray.actor.ActorHandle) -> None:
        self.mailbox = mailbox

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends values of metrics."""
        self.mailbox.put.remote((step, dict(values)))

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


@contextmanager
def progress_from(mailbox: ray.actor.ActorHandle, config: Config) -> Iterator[None]:
    """Shows on the driver what arrives in the mailbox."""
    import ray

    progress = TrainingProgress(config.name, config.training.steps, config.training.batch_size)
    stop = threading.Event()

    def show() -> None:
        for message in ray.get(mailbox.take.remote()):
            if isinstance(message, str):
                say(message)
            else:
                progress.scalars(*message)

    def poll() -> None:
        while not stop.wait(POLL_S):
            try:
                show()
            except ray.exceptions.RayError:
                return  # the cluster is going down, and the main thread will say why

    thread = threading.Thread(target=poll, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
        stop.set()
        thread.join()
        show()
    finally:
        stop.set()
        progress.close()
