"""Curves and pictures of a run on their way to MLflow, which training never waits for."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.tracking.client import connect, reason
from stem_complete.tracking.journal import Entry, Journal
from stem_complete.tracking.runs import TrackedRun, enter_run

_METRICS_PER_BATCH = 1000  # the server's limit
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
_LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)


class _Point(NamedTuple):
    key: str
    value: float
    time_ms: int
    step: int


class MlflowRecorder:
    """A `training.Recorder` that writes to a journal and sends it to MLflow in the background.

    The journal `metrics.jsonl` is the queue, so memory stays small however long the server is
    away, and a later recorder of the same run delivers what an earlier one could not. No metric
    gets a second point at or before the last step that MLflow has of it: the steps that a resumed
    run repeats are dropped.

    Args:
        run: From `open_run`; if the server did not answer then, the run is opened when it does.
        folder: Of the run; keeps the journal and the pictures. None keeps them for the session.
        flush_every_s: Pause between deliveries [s]; doubles with each failure, to a minute.
        close_timeout_s: How long `close` tries to deliver what is left [s].
    """

    def __init__(
        self,
        run: TrackedRun,
        folder: Path | None = None,
        *,
        flush_every_s: float = 2.0,
        close_timeout_s: float = 60.0,
    ) -> None:
        self._run = run
        self._temporary = folder is None
        self._folder = (folder or Path(tempfile.mkdtemp(prefix="stem-complete-"))).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._folder / "metrics.jsonl")
        self._flush_every_s, self._close_timeout_s = flush_every_s, close_timeout_s

        self._offset = 0
        self._last_steps: dict[str, int] | None = None  # None until the server told them
        self._files: deque[Entry] = deque()  # read from the journal, not yet sent
        self._unmarked = False  # whether the journal lacks a mark of what was delivered
        self._num_refused = 0
        self._problem = ""
        self._warned: set[str] = set()
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._work, name="mlflow-recorder", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records values of metrics after `step` steps; returns at once."""
        for name in values:
            if not re.fullmatch(r"[\w.\-:/ ]+", name):
                raise ValueError(f"MLflow takes no metric called {name!r}")
        points = {key: float(value) for key, value in values.items()}
        self._record({"time": _now_ms(), "step": step, "values": points})

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Records a greyscale picture, [h, w], as `completions/step-<step>/<name>.png`."""
        if image.dtype != np.uint8 or image.ndim != 2:
            raise ValueError(f"picture must be uint8 [h, w], got {image.dtype} {image.shape}")
        import imagecodecs

        to = f"completions/step-{step:08d}"
        file = self._folder / to / f"{name}.png"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image)))
        except OSError as error:
            self._warn("picture", "cannot write %s (%s); training goes on", file, error)
        else:
            self._record({"time": _now_ms(), "file": str(file), "to": to})

    def artifact(self, path: Path) -> None:
        """Records a file or folder under its own name; it must stay until `close`."""
        to = path.name if path.is_dir() else ""
        self._record({"time": _now_ms(), "file": str(path.absolute()), "to": to})

    def close(self) -> None:
        """Delivers what is left, or says what could not be delivered and where it is."""
        if self._closing.is_set():
            return
        self._deadline = time.monotonic() + self._close_timeout_s
        self._closing.set()
        self._thread.join(self._close_timeout_s)
        if self._num_refused:
            _log.warning("MLflow at %s refused %d points", self._run.uri, self._num_refused)
        num_points, num_files = self.undelivered()
        if num_points or num_files:
            _log.warning(
                "MLflow at %s did not take %d points and %d files (%s); they are in %s%s",
                self._run.uri,
                num_points,
                num_files,
                self._problem or "too slow",
                self._journal.path,
                "" if self._temporary else ", and are sent when this run is started again",
            )
        elif self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def undelivered(self) -> tuple[int, int]:
        """How many points of metrics and how many files still wait for MLflow."""
        num_points, num_files, offset = 0, len(self._files), self._offset
        while True:
            entries, end = self._journal.read(offset)
            if end == offset:
                return num_points, num_files
            num_points += len(self._new_points(entries))
            num_files += len(self._new_files(entries))
            offset = end

    def _record(self, entry: Entry) -> None:
        try:
            self._journal.append(entry)
        except OSError as error:
            self._warn(
                "journal", "cannot write %s (%s); training goes on", self._journal.path, error
            )

    def _work(self) -> None:
        """Body of the thread: delivers until closed and done, or out of time."""
        pause_s = self._flush_every_s
        while time.monotonic() < self._deadline:
            closing = self._closing.wait(pause_s)
            try:
                self._deliver()
            except Exception as error:  # whatever stands between training and the server
                self._problem = reason(error)
                if time.monotonic() >= self._deadline:
                    return  # `close` has said what is missing
                self._warn(
                    "outage",
                    "MLflow at %s does not answer (%s); training goes on, and what it records is "
                    "kept in %s and sent later",
                    self._run.uri,
                    self._problem,
                    self._journal.path,
                )
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if closing:
                    time.sleep(min(pause_s, 1.0))
            else:
                pause_s = self._flush_every_s
                if closing:
                    return

    def _deliver(self) -> None:
        """Sends what the journal has; stops at the first failure, to be called again."""
        if self._run.run_id is None:
            self._run = enter_run(self._run)
        run_id = self._run.run_id
        assert run_id is not None
        if self._last_steps is None:
            metrics = connect(self._run.uri).get_run(run_id).data.to_proto().metrics
            self._offset = self._journal.delivered(run_id)
            self._last_steps = {metric.key: metric.step for metric in metrics}

        # All points go before any file: an artifact store may be unreachable by itself.
        while time.monotonic() < self._deadline:
            entries, end = self._journal.read(self._offset)
            if end == self._offset:
                break
            self._send_points(run_id, self._new_points(entries))
            self._files.extend(self._new_files(entries))
            self._offset = end
            self._unmarked |= any("delivered" not in entry for entry in entries)
        while self._files and time.monotonic() < self._deadline:
            self._send_file(run_id, self._files[0])
            self._files.popleft()
        if self._unmarked and not self._files:
            self._record({"delivered": self._offset, "run": run_id})
            self._unmarked = False

    def _new_points(self, entries: Sequence[Entry]) -> list[_Point]:
        last, points = dict(self._last_steps or {}), []
        for entry in entries:
            if "values" not in entry or entry["time"] < self._run.since_ms:
                continue
            for key, value in entry["values"].items():
                if entry["step"] > last.get(key, -1):
                    last[key] = entry["step"]
                    points.append(_Point(key, value, entry["time"], entry["step"]))
        return points

    def _new_files(self, entries: Sequence[Entry]) -> list[Entry]:
        return [e for e in entries if "file" in e and e["time"] >= self._run.since_ms]

    def _send_points(self, run_id: str, points: Sequence[_Point]) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        assert self._last_steps is not None
        for start in range(0, len(points), _METRICS_PER_BATCH):
            batch = points[start : start + _METRICS_PER_BATCH]
            try:
                connect(self._run.uri).log_batch(run_id, metrics=[Metric(*p) for p in batch])
            except MlflowException as error:
                if error.error_code not in _REFUSALS:
                    raise
                # The server understood: to send it again would hold up what follows for ever.
                self._num_refused += len(batch)
                self._warn("refusal", "MLflow at %s: %s", self._run.uri, reason(error))
            self._last_steps.update((point.key, point.step) for point in batch)

    def _send_file(self, run_id: str, entry: Entry) -> None:
        client, path, to = connect(self._run.uri), Path(entry["file"]), entry["to"] or None
        if path.is_dir():
            client.log_artifacts(run_id, str(path), to)
        elif path.exists():
            client.log_artifact(run_id, str(path), to)
        else:
            self._warn("gone", "%s is gone and does not reach MLflow", path)

    def _warn(self, kind: str, message: str, *values: object) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning(message, *values)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
