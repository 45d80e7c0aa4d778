"""Where a run's curves go while it is trained: the terminal and MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Literal

from stem_complete.config import Config
from stem_complete.console import waiting
from stem_complete.distributed import WorkerContext
from stem_complete.files import leave_removed_folder
from stem_complete.storage.claim import ClaimLostError
from stem_complete.tracking import (
    MlflowRecorder,
    TrackedRun,
    finish_run,
    open_run,
    system_metrics,
)
from stem_complete.training import Recorder, Recorders


@contextmanager
def recording(
    context: WorkerContext, tracked: TrackedRun | None, show: Callable[[], Recorder]
) -> Iterator[Recorder]:
    """Recorder of a worker: the first one shows, by what `show` makes, and sends to MLflow.

    The first worker of each node records its system metrics meanwhile.
    """
    recorders: list[Recorder] = []
    if context.is_main:
        recorders = [show(), *([MlflowRecorder(tracked)] if tracked else [])]
    with system_metrics(tracked, context), closing(Recorders(recorders)) as recorder:
        yield recorder


@contextmanager
def tracked_run(
    config: Config, uri: str | None, *, resume: bool, parent: TrackedRun | None = None
) -> Iterator[TrackedRun | None]:
    """An MLflow run, closed with the status in which the block ends; None without tracking."""
    if uri is None:
        yield None
        return
    leave_removed_folder()
    with waiting("opening the MLflow run"):
        run = open_run(config, uri, parent=parent, resume=resume)
    status: Literal["FINISHED", "FAILED", "KILLED"] | None = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except ClaimLostError:
        status = None  # it is the other process's run now
        raise
    finally:
        if status is not None:
            finish_run(run, status)
