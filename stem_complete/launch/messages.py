"""Messages from the workers of a run to the driver."""

from __future__ import annotations

from typing import NamedTuple


class Metrics(NamedTuple):
    """Metrics after a step."""

    step: int
    values: dict[str, float]


class GroupStarted(NamedTuple):
    """A worker group has begun to train, or goes on from a checkpoint."""

    num_workers: int
    hosts: list[str]


Message = str | Metrics | GroupStarted
"""A warning as text, or one of the above."""

POLL_S = 0.5
"""Pause between looks for news, of the driver at a group and of workers at the mailbox."""
