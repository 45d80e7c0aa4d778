"""Who takes a worker's curves: a progress bar, MLflow, and MLflow's system metrics of the node."""

from __future__ import annotations

from stem_complete.config import Config
from stem_complete.distributed import WorkerContext
from stem_complete.tracking import MlflowRecorder, SystemMetrics, TrackedRun
from stem_complete.training import Recorder, Recorders


def open_recorders(
    config: Config, context: WorkerContext, tracked: TrackedRun | None, progress: Recorder | None
) -> Recorders:
    """Recorders of this worker.

    Args:
        config: The run.
        context: This worker.
        tracked: Its MLflow run; on the first worker, if the run is tracked.
        progress: Shows progress; on the first worker.
    """
    recorders: list[Recorder] = [] if progress is None else [progress]
    if tracked is not None:
        recorders.append(MlflowRecorder(tracked, config.run_folder))
    every_s = config.tracking.system_metrics_every_s
    if config.tracking.enabled and every_s and context.local_rank == 0:
        recorders.append(SystemMetrics(config.run_folder, every_s=every_s))
    return Recorders(recorders)
