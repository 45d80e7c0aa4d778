"""MLflow: runs, curves, pictures, system metrics. The only package that imports mlflow, when used.

The way of a metric, from the device to MLflow's page and the progress bar:

1. `training.LogWindow` sums losses on the device, and gives means over the steps since the last log
   entry.
2. The training loop adds rates and thresholds, and passes them to a `training.Recorder` on rank 0.
   `training.Recorders` passes them on to
3. `MlflowRecorder`, which appends them to the `Journal` in the run's folder and returns. A thread
   of `Delivery` reads the journal, and sends to MLflow what MLflow does not have yet;
4. and `console.TrainingProgress`, the progress bar. With Ray it is in another process, the driver:
   `launch.mailbox.MailboxRecorder` sends metrics to the `Mailbox`, an actor from which the driver
   takes them.

`system_metrics` is apart: MLflow's own monitor on each node sends its samples by itself.
"""

from __future__ import annotations

from stem_complete.tracking.client import default_uri, ui_command
from stem_complete.tracking.curves import Curve, list_curves
from stem_complete.tracking.monitor import system_metrics
from stem_complete.tracking.recorder import MlflowRecorder, finish_run
from stem_complete.tracking.runs import TrackedRun, open_run

__all__ = [
    "Curve",
    "MlflowRecorder",
    "TrackedRun",
    "default_uri",
    "finish_run",
    "list_curves",
    "open_run",
    "system_metrics",
    "ui_command",
]
