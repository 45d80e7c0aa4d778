"""Progress and messages on standard error: bars in a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from stem_complete.credentials import hidden
from stem_complete.errors import StemCompleteError, system_error_in_one_line

console = Console(stderr=True, highlight=False)
"""Standard error, as standard output is for results."""

LINE_INTERVAL_S = 10.0
"""Pause between lines of progress where there is no terminal."""


_speaker = ContextVar("speaker", default="")
"""Of several things that go on side by side, the one whose thread this is."""


@contextmanager
def lines_of(name: str) -> Iterator[None]:
    """Names whose each line is that this thread says in the block, and shows no bars.

    For one of several threads that go on side by side, and would be mistaken for one another.
    """
    before = _speaker.set(name)
    try:
        yield
    finally:
        _speaker.reset(before)


def _shows_bars() -> bool:
    return console.is_terminal and not _speaker.get()


def say(message: str) -> None:
    """Prints a message above any progress bar, without the passwords of its URLs."""
    if name := _speaker.get():
        lines = (f"{name}: {line.strip()}" for line in message.splitlines())
        message = "\n".join(lines).replace(f"{name}: {name}", name)
    console.print(hidden(message), soft_wrap=True, markup=False)


def aligned(rows: Mapping[str, object]) -> str:
    """What is said of each thing, below one another; further lines of a text are indented."""
    width = max(map(len, rows), default=0)
    indented = {label: str(text).replace("\n", f"\n{'':{width}}  ") for label, text in rows.items()}
    return "\n".join(f"{label:{width}}  {text}" for label, text in indented.items())


def counted(number: int, thing: str) -> str:
    """A number of things, as in `1 file` and `1,200 files`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def heading(message: str) -> None:
    """Prints the title of the next part of the work."""
    if console.is_terminal:
        console.rule(f"[bold]{message}", align="left")
    else:
        console.print(f"== {message}", soft_wrap=True, markup=False)


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """Prints an error as one line and ends the process."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the process with one line at an error that its user can act on."""
    try:
        yield
    except StemCompleteError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        fail(system_error_in_one_line(error))


class ProgressBar:
    """A bar that counts things, with details beside it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._last_line = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", style="green"),
            TextColumn("{task.fields[details]}", style="cyan"),
            console=console,
            disable=not _shows_bars(),
        )
        self._task = self._progress.add_task(title, total=None, left="", details="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int, details: str = "", left_s: float | None = None) -> None:
        """Shows how many of all things are done, details and the time left [s]."""
        left = "" if left_s is None else f"{format_seconds(left_s)} left"
        self._progress.update(self._task, total=total, completed=done, left=left, details=details)
        now = time.monotonic()
        if not _shows_bars() and (done >= total or now - self._last_line >= LINE_INTERVAL_S):
            self._last_line = now
            after = f", {left}" if left else ""
            say(f"{self.title} {done}/{total}{after}  {details}".rstrip())


class TrainingProgress:
    """Recorder that shows losses, thresholds, examples/s and time left beside a progress bar.

    Args:
        title: Of the bar.
        steps: Of the run.
        batch_size: Examples in a step.
        minutes: After which the run ends even if steps are left; None: it does not.
    """

    def __init__(
        self, title: str, steps: int, batch_size: int, minutes: float | None = None
    ) -> None:
        self.bar = ProgressBar(title)
        self.bar.__enter__()
        self.bar.show(0, steps)
        self.steps, self.batch_size = steps, batch_size
        self.end_s = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the metrics after `step` steps."""
        if "validation/rmse" in values:
            say(f"  step {step}: validation RMSE {100 * values['validation/rmse']:.2f} % of range")
        rate = values.get("train/examples_per_s")
        if rate is None:
            return
        (first, loss), *others = _losses(values).items()
        details = f"loss {loss:.3g}"
        if others:
            details += f" ({', '.join(f'{name} {other:.3g}' for name, other in others)})"
        if f"train/{first}_threshold" in values:
            threshold, share = (
                values[f"train/{first}_{n}"] for n in ("threshold", "clip_fraction")
            )
            details += f"  threshold {threshold:.3g}  clipped {100 * share:.1f} %"
        details += f"  {rate:.2f} examples/s"
        left_s = (self.steps - step) * self.batch_size / rate if rate > 0 else math.inf
        left_s = min(left_s, max(self.end_s - time.monotonic(), 0))
        self.bar.show(step, self.steps, details, left_s if math.isfinite(left_s) else None)

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Ends the bar."""
        self.bar.__exit__()


def _losses(values: Mapping[str, float]) -> dict[str, float]:
    """Mean losses by name, in a task's order, from metrics such as `train/outer_loss`."""
    found = {name.removeprefix("train/"): value for name, value in values.items()}
    return {
        name.removesuffix("_loss"): value
        for name, value in found.items()
        if name.endswith("_loss") and not name.endswith("_largest_loss") and "/" not in name
    }


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Shows a spinner, or one line, while the block runs."""
    if not _shows_bars():
        say(f"{title} ...")
        yield
        return
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console,
        transient=True,
    )  # fmt: skip
    with progress:
        progress.add_task(title, total=None)
        yield


def format_seconds(seconds: float) -> str:
    """A duration in its two largest units, like `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number][:2]
    return " ".join(shown) or "0 s"


def format_digits(value: float, digits: int = 3) -> str:
    """A number with three digits and no exponent where one can do without: `0.0512`, `12,300`."""
    rounded = float(f"{value:.{digits}g}")
    if not 1000 <= abs(rounded) < 1e9:
        return f"{rounded:.{digits}g}"
    num_decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(num_decimals, 0)}f}"


def format_range(low: float, high: float) -> str:
    """Two numbers with three digits, or as many as tell them apart: `33,200 to 33,201`."""
    if low == high:
        return format_digits(low)
    for digits in range(3, 18):
        texts = [format_digits(value, digits) for value in (low, high)]
        if texts[0] != texts[1]:
            break
    return " to ".join(texts)


def format_bytes(number: float) -> str:
    """A number of bytes with three digits, as in `1.37 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{format_digits(number)} {unit}"
        number /= 1000
    return f"{format_digits(number)} TB"
