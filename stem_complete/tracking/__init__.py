"""MLflow: runs, curves, pictures. The only package that imports mlflow, and only when used."""

from __future__ import annotations

from stem_complete.tracking.client import default_uri, ui_command
from stem_complete.tracking.curves import Curve, list_curves
from stem_complete.tracking.recorder import MlflowRecorder
from stem_complete.tracking.runs import TrackedRun, finish_run, open_run

__all__ = [
    "Curve",
    "MlflowRecorder",
    "TrackedRun",
    "default_uri",
    "finish_run",
    "list_curves",
    "open_run",
    "ui_command",
]
