"""The best validation so far, from which follows whether more training is worth it."""

from __future__ import annotations

import math
from typing import NamedTuple


class BestScore(NamedTuple):
    """The best validation of a run, and how many came after it.

    Attributes:
        score: The lowest finite one.
        step: Steps taken before it.
        num_since: Validations since then, none of which was lower.
    """

    score: float
    step: int
    num_since: int = 0


def best_after(best: BestScore | None, score: float, step: int) -> BestScore | None:
    """The best of a run after one more validation; None while none was finite."""
    if math.isfinite(score) and (best is None or score < best.score):
        return BestScore(score, step)
    return best and best._replace(num_since=best.num_since + 1)
