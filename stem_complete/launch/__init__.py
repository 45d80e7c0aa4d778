"""Launching: a config becomes runs, on Ray or in this process."""

from stem_complete.launch.runs import MODEL_FOLDER, Outcome, launch

__all__ = ["MODEL_FOLDER", "Outcome", "launch"]
