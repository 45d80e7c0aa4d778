"""MLflow: runs, curves, pictures, system metrics. The only package that imports mlflow, when used.

`MlflowRecorder` appends what training records to the `Journal` in the run's folder, and returns; a
thread of `Delivery` sends to MLflow what MLflow does not have yet. `docs/design.md` has the whole
way of a metric, from the device to MLflow's page and the progress bar. `system_metrics` is apart:
MLflow's own monitor on each node sends its samples by itself.
"""

from stem_complete.tracking.client import URI_VARIABLE, database_above, default_uri, tracking_uri
from stem_complete.tracking.curves import Curve, TrackedRuns
from stem_complete.tracking.database import DATABASE
from stem_complete.tracking.links import places, ui_command
from stem_complete.tracking.monitor import system_metrics
from stem_complete.tracking.recorder import MlflowRecorder, finish_run
from stem_complete.tracking.registry import (
    MODELS,
    RUNS,
    FoundModel,
    Registered,
    download,
    find_model,
    register_files,
)
from stem_complete.tracking.runs import TrackedRun, open_run

__all__ = [
    "DATABASE",
    "MODELS",
    "RUNS",
    "URI_VARIABLE",
    "Curve",
    "FoundModel",
    "MlflowRecorder",
    "Registered",
    "TrackedRun",
    "TrackedRuns",
    "database_above",
    "default_uri",
    "download",
    "find_model",
    "finish_run",
    "open_run",
    "places",
    "register_files",
    "system_metrics",
    "tracking_uri",
    "ui_command",
]
