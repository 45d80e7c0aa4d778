"""Launching: a config becomes runs, on Ray or in this process."""

from stem_complete.launch.runs import Outcome, launch

__all__ = ["Outcome", "launch"]
