"""Reads flags of past steps without waiting for the device's newest work."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class DelayedFlags:
    """Copies flags to the host, and reads them some steps later, when the copy is long done.

    Reading a flag at once would empty the device's queue of work at every step. The delay is
    counted in steps, not in time, so it is the same on every worker.

        flags = DelayedFlags(2)
        flags.push(step, torch.stack((skipped, differ)))   # starts the copy
        late = flags.pop()                                 # of step - 2, or None at first

    Args:
        delay: How many pushes later a step's flags are read; 0 reads them at once.
    """

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self._waiting: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def push(self, step: int, flags: Tensor) -> None:
        """Starts copying a step's flags, [n], to the host."""
        on_gpu = flags.is_cuda
        # Only page-locked memory lets the copy run while the host goes on.
        values = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=on_gpu)
        values.copy_(flags.detach(), non_blocking=True)
        copied = None
        if on_gpu:
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(flags.device))
        self._waiting.append((step, values, copied))

    def pop(self) -> tuple[int, list[float]] | None:
        """Step and flags of `delay` pushes ago; None before there are any."""
        return self._oldest() if len(self._waiting) > self.delay else None

    def drain(self) -> list[tuple[int, list[float]]]:
        """Remaining steps and flags, oldest first. Waits for the device."""
        return [self._oldest() for _ in range(len(self._waiting))]

    def _oldest(self) -> tuple[int, list[float]]:
        step, values, copied = self._waiting.popleft()
        if copied is not None:
            copied.synchronize()
        return step, values.float().tolist()
