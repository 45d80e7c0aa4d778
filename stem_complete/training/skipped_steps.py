"""What is said of steps that were skipped, as a loss or gradient was not finite or stood out."""

from __future__ import annotations

from collections.abc import Collection

from stem_complete.console import counted


class SkippedSteps:
    """Tells of skipped steps the first time, the second, the fourth, and so on.

    A run that skips one now and then would else fill its log with one line for each.

    Args:
        if_high: Whether steps that stand out are skipped too, see `gradient_clipping.SkippedSteps`.
    """

    def __init__(self, *, if_high: bool = False) -> None:
        self._if_high = if_high
        self._num_times = self._num_untold = 0
        self._examples: set[int] = set()

    def tell(self, num_steps: int, step: int, examples: Collection[int]) -> str | None:
        """What to say of steps skipped up to `step`, and of those before; None to be silent."""
        self._num_times += 1
        self._num_untold += num_steps
        self._examples.update(examples)
        if self._num_times & (self._num_times - 1):  # no power of two
            return None
        told = f"skipped {counted(self._num_untold, 'step')} up to step {step}: "
        if self._if_high and not self._examples:
            told += "their loss or gradient stood out, or the gradient was not finite"
        else:
            told += what_was_not_finite(self._examples)
        self._num_untold = 0
        self._examples.clear()
        return told


def what_was_not_finite(examples: Collection[int]) -> str:
    """The losses of these examples or, if there are none, the gradient."""
    if examples:
        return f"no finite loss of examples {sorted(examples)}"
    return "losses were finite, but not their gradient"
