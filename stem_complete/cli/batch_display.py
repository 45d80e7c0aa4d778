"""What `complete` shows while it works: a bar for people, lines of JSON for programs."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Self

from stem_complete.cli.base import show
from stem_complete.console import ProgressBar

if TYPE_CHECKING:
    from stem_complete.serving.batch.units import Outcome, Unit


class BatchDisplay:
    """Scans/s of all and of each worker, what failed, and the time left.

    Args:
        as_json: Whether to print a line for each scan, too.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._bar = ProgressBar("completing")
        self._begun_s = time.monotonic()
        self._of_worker: dict[str, int] = defaultdict(int)
        self._num_failed = 0

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def note(self, unit: Unit, outcome: Outcome) -> None:
        """Takes note of what became of a unit."""
        for source, result in zip(unit.scans, outcome.results, strict=True):
            if result.state == "done":
                self._of_worker[outcome.worker] += 1
            elif result.state == "failed":
                self._num_failed += 1
            if self.as_json:
                line = {"scan": str(source), "unit": unit.name, "state": result.state}
                why = {} if result.failure is None else result.failure._asdict()
                told = {"note": result.note, **why, "worker": outcome.worker}
                show(json.dumps(line | {k: v for k, v in told.items() if v}))

    def show(self, done: int, total: int) -> None:
        """Shows how many scans are done."""
        elapsed_s = time.monotonic() - self._begun_s
        num = sum(self._of_worker.values())
        details, left_s = "", None
        if num and elapsed_s > 0:
            details = f"{num / elapsed_s:.3g} scans/s"
            left_s = (total - done) * elapsed_s / num
            if len(self._of_worker) > 1:
                rates = sorted(number / elapsed_s for number in self._of_worker.values())
                details += f" ({rates[0]:.3g} to {rates[-1]:.3g} each of {len(rates)} workers)"
        if self._num_failed:
            details += f"  {self._num_failed} failed"
        self._bar.show(done, total, details, left_s)
