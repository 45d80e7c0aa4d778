"""Progress of long work, reported to the caller."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called after each item with the number done and the total."""
