"""One pass of what a run recorded to its MLflow run; it may fail anywhere and is done again."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from stem_complete.tracking.client import connect, is_refusal, reason
from stem_complete.tracking.folder import RecordFolder
from stem_complete.tracking.journal import Entry
from stem_complete.tracking.runs import TrackedRun, enter_run

_METRICS_PER_BATCH = 1000  # the server's limit

_log = logging.getLogger(__name__)


class _Point(NamedTuple):
    key: str
    value: float
    time_ms: int
    step: int


class Delivery:
    """Sends the journal of a run, and what its nodes measured, to MLflow.

    No metric gets a second point at or before the last step that MLflow has of it: the steps that
    a resumed run repeats are dropped, and so is what arrived although its answer was lost.

    Args:
        run: From `open_run`; opened here if it is not.
        folder: Where the run records.

    Attributes:
        num_refused: Points that MLflow will never take.
    """

    def __init__(self, run: TrackedRun, folder: RecordFolder) -> None:
        self.num_refused = 0
        self._run, self._folder = run, folder
        folder.journal.begin(run.since_ms)
        self._offset: int | None = None  # None until the run is open
        self._last_steps: dict[str, int] | None = None  # None: the server is to be asked
        self._files: deque[Entry] = deque()  # read from the journal, not yet sent

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
        """How many points of metrics and how many files of the journal still wait."""
        num_points, num_files, offset = 0, len(self._files), self._offset
        if offset is None:
            offset = self._folder.journal.delivered(self._run.run_id or "")
        while True:
            entries, end = self._folder.journal.read(offset)
            if end == offset:
                return num_points, num_files
            num_points += len(self._new_points(entries))
            num_files += len(_files(entries))
            offset = end

    def _deliver(self, deadline: float) -> None:
        if self._run.run_id is None:
            self._run = enter_run(self._run)
        run_id = self._run.run_id
        assert run_id is not None
        if self._offset is None:
            self._offset = self._folder.journal.delivered(run_id)
        if self._last_steps is None:
            metrics = connect(self._run.uri).get_run(run_id).data.to_proto().metrics
            self._last_steps = {metric.key: metric.step for metric in metrics}

        # All points go before any file: an artifact store may be unreachable by itself.
        while time.monotonic() < deadline:
            entries, end = self._folder.journal.read(self._offset)
            if end == self._offset:
                break
            self._send_points(run_id, entries)
            self._files.extend(_files(entries))
            self._offset = end
        while time.monotonic() < deadline and (samples := self._folder.samples.read()):
            since_ms = self._run.since_ms
            self._send_points(run_id, [s for s in samples.values() if s["time"] >= since_ms])
            self._folder.samples.remove(samples)
        while self._files and time.monotonic() < deadline:
            self._send_file(run_id, self._files[0])
            self._files.popleft()
        if not self._files and self._offset != self._folder.journal.delivered(run_id):
            self._folder.journal.mark(run_id, self._offset)

    def _new_points(self, entries: Sequence[Entry]) -> list[_Point]:
        last, points = dict(self._last_steps or {}), []
        for entry in entries:
            # What a node measures has no training step; seconds of the run go on over restarts.
            step = entry.get("step", (entry["time"] - self._run.started_ms) // 1000)
            for key, value in entry.get("values", {}).items():
                if key not in last or step > last[key]:
                    last[key] = step
                    points.append(_Point(key, value, entry["time"], step))
        return points

    def _send_points(self, run_id: str, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        points = self._new_points(entries)
        assert self._last_steps is not None
        for start in range(0, len(points), _METRICS_PER_BATCH):
            batch = points[start : start + _METRICS_PER_BATCH]
            try:
                connect(self._run.uri).log_batch(run_id, metrics=[Metric(*p) for p in batch])
            except MlflowException as error:
                if not is_refusal(error, self._run.uri):
                    raise
                # The server understood: to send it again would hold up what follows for ever.
                if not self.num_refused:
                    _log.warning("MLflow at %s: %s", self._run.uri, reason(error))
                self.num_refused += len(batch)
            self._last_steps.update((point.key, point.step) for point in batch)

    def _send_file(self, run_id: str, entry: Entry) -> None:
        client, path, to = connect(self._run.uri), self._folder.find(entry["file"]), entry["to"]
        if path.is_dir():
            client.log_artifacts(run_id, str(path), to or None)
        elif path.exists():
            client.log_artifact(run_id, str(path), to or None)
        else:
            _log.warning("%s is gone and does not reach MLflow", path)


def _files(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if "file" in entry]
