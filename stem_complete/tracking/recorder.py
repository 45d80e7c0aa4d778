"""Curves and pictures of a run on their way to MLflow, which training never waits for."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stem_complete.tracking.client import connect, reason
from stem_complete.tracking.journal import Entry, Journal
from stem_complete.tracking.runs import TrackedRun, enter_run

if TYPE_CHECKING:
    from mlflow.entities import Metric

_METRICS_PER_BATCH = 1000  # the server's limit
_LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)


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
        self._record({"step": step, "values": {k: float(v) for k, v in values.items()}})

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
            self._record({"file": str(file), "to": to})

    def artifact(self, path: Path) -> None:
        """Records a file or folder under its own name; it must stay until `close`."""
        self._record({"file": str(path.absolute()), "to": path.name if path.is_dir() else ""})

    def close(self) -> None:
        """Delivers what is left, or says what could not be delivered and where it is."""
        if self._closing.is_set():
            return
        self._deadline = time.monotonic() + self._close_timeout_s
        self._closing.set()
        self._thread.join(self._close_timeout_s)
        num_points, num_files = self.undelivered()
        if num_points or num_files:
            _log.warning(
                "MLflow at %s did not take %d points and %d files (%s); they are in %s, and are "
                "sent when this run is started again",
                self._run.uri,
                num_points,
                num_files,
                self._problem or "too slow",
                self._journal.path,
            )
        elif self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def undelivered(self) -> tuple[int, int]:
        """How many points of metrics and how many files MLflow does not have."""
        num_points, num_files, offset = self._num_refused, len(self._files), self._offset
        while True:
            entries, end = self._journal.read(offset)
            if end == offset:
                return num_points, num_files
            num_points += sum(1 for _ in self._new_points(entries))
            num_files += sum(1 for entry in entries if self._is_new_file(entry))
            offset = end

    def _record(self, entry: Entry) -> None:
        try:
            self._journal.append({"time": time.time_ns() // 1_000_000, **entry})
        except OSError as error:
            self._warn(
                "journal", "cannot write %s (%s); training goes on", self._journal.path, error
            )

    def _work(self) -> None:
        """Body of the thread: delivers until closed and done, or out of time."""
        pause_s = self._flush_every_s
        while True:
            closing = self._closing.wait(pause_s)
            try:
                self._deliver()
            except Exception as error:  # whatever stands between us and the server
                self._problem = reason(error)
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
            if time.monotonic() >= self._deadline:
                return

    def _deliver(self) -> None:
        """Sends what the journal has; raises at the first failure, to be called again."""
        if self._run.run_id is None:
            self._run = enter_run(self._run)
        run_id = self._run.run_id
        assert run_id is not None
        if self._last_steps is None:
            metrics = connect(self._run.uri).get_run(run_id).data.to_proto().metrics
            self._offset = self._journal.delivered(run_id)
            self._last_steps = {metric.key: metric.step for metric in metrics}

        marked = self._offset
        while time.monotonic() < self._deadline:
            entries, end = self._journal.read(self._offset)
            if end == self._offset:
                break
            self._send_points(entries)
            self._files.extend(entry for entry in entries if self._is_new_file(entry))
            self._offset = end
            self._send_files()
            if any("time" in entry for entry in entries):
                marked = end
        # Points never wait for files: an artifact store may be unreachable by itself.
        self._send_files()
        if marked
