"""The papers' experiments, as data and reports."""

from __future__ import annotations

from stem_complete.experiments.comparison import Arm, Comparison, compare

__all__ = ["Arm", "Comparison", "compare"]
