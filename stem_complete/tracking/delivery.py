"""Delivery of a run's journal to MLflow; it may fail anywhere and is done again."""

from __future__ import annotations

import logging
import math
import posixpath
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stem_complete.tracking.client import connect, is_refusal, reason
from stem_complete.tracking.folder import RecordFolder
from stem_complete.tracking.journal import Entry, File, Scalars
from stem_complete.tracking.runs import TrackedRun, enter_run

if TYPE_CHECKING:
    from mlflow.entities import Metric

_METRICS_PER_BATCH = 1000  # the server's limit

_log = logging.getLogger(__name__)


class Delivery:
    """Sends the journal of a run to MLflow.

    What MLflow has is asked of it: the last step of each metric, and the names of its files. So no
    metric gets a second point at or before its last step. The steps that a resumed run repeats are
    dropped, and so is what arrived although its answer was lost.

    A run that is not open yet is opened here.

    Attributes:
        num_refused: Points that MLflow will never take.
        answered_s: When MLflow last answered [s of `time.monotonic`].
    """

    def __init__(self, run: TrackedRun, folder: RecordFolder) -> None:
        self.num_refused, self.answered_s = 0, -math.inf
        self._run, self._folder = run, folder
        self._offset = folder.journal.start
        self._files: deque[File] = deque()  # read from the journal, not yet sent
        self._last_steps: dict[str, int] | None = None  # of MLflow's metrics; None: ask it
        self._arrived: dict[str, set[str]] = {}  # files in MLflow's folders, as far as asked

    def deliver(self, deadline: float = math.inf) -> None:
        """Sends what there is until `deadline` [s of `time.monotonic`]; raises what MLflow raises.

        Called again after an error, it goes on where it stopped.
        """
        try:
            self._deliver(deadline)
        except BaseException:
            self._last_steps = None  # perhaps the server took what it did not answer
            raise

    def undelivered(self) -> tuple[int, int]:
        """How many points of metrics and how many files MLflow has not confirmed."""
        num_points, num_files = 0, len(self._files)
        for entries, _ in self._folder.journal.read(self._offset):
            num_points += len(self._new_points(entries))
            num_files += len(_files(entries))
        return num_points, num_files

    def _deliver(self, deadline: float) -> None:
        if self._run.run_id is None:
            self._run = enter_run(self._run)
            self.answered_s = time.monotonic()
        run_id = self._run.run_id
        assert run_id is not None
        if self._last_steps is None:
            metrics = connect(self._run.uri).get_run(run_id).data.to_proto().metrics
            self._last_steps = {metric.key: metric.step for metric in metrics}
            self._arrived = {}
            self.answered_s = time.monotonic()

        # All points go before any file: an artifact store may be unreachable by itself.
        for entries, end in self._folder.journal.read(self._offset):
            if time.monotonic() >= deadline:
                return
            self._send_points(run_id, entries)
            self._files.extend(_files(entries))
            self._offset = end
        while self._files and time.monotonic() < deadline:
            self._send_file(run_id, self._files[0])
            self._files.popleft()
            self.answered_s = time.monotonic()

    def _new_points(self, entries: Sequence[Entry]) -> list[Metric]:
        from mlflow.entities import Metric

        last, points = dict(self._last_steps or {}), []
        for entry in entries:
            if not isinstance(entry, Scalars):
                continue
            for key, value in entry.values.items():
                if entry.step > last.get(key, -1):
                    last[key] = entry.step
                    points.append(Metric(key, value, entry.time, entry.step))
        return points

    def _send_points(self, run_id: str, entries: Sequence[Entry]) -> None:
        from mlflow.exceptions import MlflowException

        points = self._new_points(entries)
        assert self._last_steps is not None
        for start in range(0, len(points), _METRICS_PER_BATCH):
            batch = points[start : start + _METRICS_PER_BATCH]
            try:
                connect(self._run.uri).log_batch(run_id, metrics=batch)
            except MlflowException as error:
                if not is_refusal(error, self._run.uri):
                    raise
                # The server understood: to send it again would hold up what follows for ever.
                if not self.num_refused:
                    _log.warning("MLflow at %s: %s", self._run.uri, reason(error))
                self.num_refused += len(batch)
            self._last_steps.update((point.key, point.step) for point in batch)
            self.answered_s = time.monotonic()

    def _send_file(self, run_id: str, entry: File) -> None:
        client = connect(self._run.uri)
        if entry.to not in self._arrived:
            found = client.list_artifacts(run_id, entry.to or None)
            self._arrived[entry.to] = {file.path for file in found}
        if posixpath.join(entry.to, posixpath.basename(entry.file)) in self._arrived[entry.to]:
            return
        path = self._folder.find(entry.file)
        if path.exists():
            client.log_artifact(run_id, str(path), entry.to or None)
        else:
            _log.warning("%s is gone and does not reach MLflow", path)


def _files(entries: Sequence[Entry]) -> list[File]:
    return [entry for entry in entries if isinstance(entry, File)]
