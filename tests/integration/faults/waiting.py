"""Waiting for something to become true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_S = 600.0
POLL_S = 0.25


def wait_until(condition: Callable[[], T], what: str, *, timeout_s: float = TIMEOUT_S) -> T:
    """What `condition` returns once that is true; raises TimeoutError naming `what` if never."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(POLL_S)
    return value
