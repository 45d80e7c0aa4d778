"""CPU, memory, disk, network and GPUs of a node, as MLflow's page of system metrics shows them."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from stem_complete.tracking.samples import SAMPLES, Samples

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

_MOST_WAITING = 1000

_log = logging.getLogger(__name__)


class SystemMetrics:
    """A `training.Recorder` that samples its node in the background, for `MlflowRecorder` to send.

    One worker of each node has one. A sample is the mean, or state, at the end of a period; it is
    named `system/<node>/...` as by MLflow's own monitor of several nodes, and its step is seconds
    since the run began, which rise over restarts.

    Args:
        folder: Of the run.
        every_s: Period [s].
        node: Name of the machine; None asks it.
    """

    def __init__(self, folder: Path | UPath, *, every_s: float, node: str | None = None) -> None:
        self._samples = Samples(folder / SAMPLES)
        self._node = re.sub(r"[^\w-]", "_", node or socket.gethostname())
        self._every_s = every_s
        self._waiting: deque[tuple[int, dict[str, float]]] = deque(maxlen=_MOST_WAITING)
        self._warned: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Takes a last sample."""
        self._closing.set()
        self._thread.join(timeout=10.0)

    def _work(self) -> None:
        """Body of the thread."""
        collectors = list(_collectors())  # imports MLflow, which takes seconds
        self._sample(collectors)  # the first only starts the counters
        while True:
            closing = self._closing.wait(self._every_s)
            self._waiting.append((time.time_ns() // 1_000_000, self._sample(collectors)))
            self._save()
            if closing:
                return

    def _sample(self, collectors: list[BaseMetricsMonitor]) -> dict[str, float]:
        values: dict[str, float] = {}
        for collector in collectors:
            try:
                collector.collect_metrics()
                values |= collector.aggregate_metrics()
            except Exception as error:  # a driver's, when a GPU is lost
                self._warn(type(collector).__name__, error)
            collector.clear_metrics()
        return {f"system/{self._node}/{key}": float(value) for key, value in values.items()}

    def _save(self) -> None:
        try:
            while self._waiting:
                self._samples.add(self._node, *self._waiting[0])
                self._waiting.popleft()
        except Exception as error:  # of any store's client; tried again with the next sample
            self._warn("store", error)

    def _warn(self, kind: str, error: Exception) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("system metrics of %s: %s: %s", self._node, kind, error)


def _collectors() -> Iterator[BaseMetricsMonitor]:
    """MLflow's collectors that work on this machine."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor):
        with suppress(ImportError, RuntimeError):  # no such GPU here
            yield kind()
