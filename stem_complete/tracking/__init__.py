"""MLflow: runs, curves, pictures. The only package that imports mlflow, and only when used."""

from __future__ import annotations

from stem_complete.tracking.client import default_uri, ui_command
from stem_complete.tracking.curves import Curve, list_curves
from stem_complete.tracking.recorder import MlflowRecorder, finish_run
from stem_complete.tracking.runs import TrackedRun, open_run
from stem_complete.tracking.system_metrics import SystemMetrics

__all__ = [
    "Curve",
    "MlflowRecorder",
    "SystemMetrics",
    "TrackedRun",
    "default_uri",
    "finish_run",
    "list_curves",
    "open_run",
    "ui_command",
]
