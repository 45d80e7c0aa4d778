"""Waiting for something to become true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_S = 600.0
"""Only for what hangs: on a busy machine, what takes a second alone may take a minute."""

POLL_S = 0.2


def wait_until(condition: Callable[[], T], what: str) -> T:
    """What `condition` returns once that is true; raises TimeoutError naming `what` if never."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {TIMEOUT_S:g} s for {what}")
        time.sleep(POLL_S)
    return value
