"""CPU, memory, disk, network and GPUs of each node, recorded by MLflow's own monitor."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stem_complete.credentials import restored
from stem_complete.tracking.client import briefly
from stem_complete.tracking.runs import TrackedRun, find_run_id

if TYPE_CHECKING:
    from stem_complete.distributed import WorkerContext

_RETRY_S = 10.0

_log = logging.getLogger(__name__)


@contextmanager
def system_metrics(run: TrackedRun | None, context: WorkerContext) -> Iterator[None]:
    """Records the system metrics of this worker's node while the block lasts.

    The first worker of each node records them, as `system/<node>/...`, every
    `tracking.system_metrics_every_s` seconds, straight to the server. So the curves have a gap
    where the server was away. Their steps count samples. Without a run nothing is recorded.
    """
    if run is None or context.local_rank != 0 or not run.config.tracking.system_metrics_every_s:
        yield
        return
    closing = threading.Event()
    thread = threading.Thread(
        target=_record, args=(run, closing), name="system-metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join(timeout=2.0)


def _record(run: TrackedRun, closing: threading.Event) -> None:
    """Body of the thread: runs MLflow's monitor, which ends at its first failed request, again."""
    # Imported here, where training does not wait for it: it takes seconds.
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    warned = run.run_id is None  # `open_run` has told of an outage
    while not closing.is_set():
        try:
            run_id = find_run_id(run)
            if run_id is not None:
                monitor = SystemMetricsMonitor(
                    run_id,
                    sampling_interval=run.config.tracking.system_metrics_every_s,
                    resume_logging=True,
                    node_id=re.sub(r"[^\w-]", "_", socket.gethostname()),
                    tracking_uri=restored(run.uri),
                )
                monitor._shutdown_event = closing  # noqa: SLF001 - to end it from here
                monitor.monitor()
        except Exception as error:  # of the server, or of a GPU's driver
            if not warned:
                warned = True
                _log.warning("system metrics pause and are tried again (%s)", briefly(error))
        closing.wait(_RETRY_S)
