"""Recorder of a run for MLflow, which training never waits for."""

from __future__ import annotations

import logging
import math
import posixpath
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.errors import TrackingError
from stem_complete.files import write_atomically
from stem_complete.tracking.client import (
    briefly,
    connect,
    outage,
    outages,
    patience,
    reason,
    within,
)
from stem_complete.tracking.delivery import Delivery
from stem_complete.tracking.folder import PICTURES, RecordFolder
from stem_complete.tracking.journal import File, Scalars
from stem_complete.tracking.runs import TrackedRun, enter_run, find_run_id

_LONGEST_PAUSE_S = 60.0
_LOOK_S = 0.1
_MOST_PICTURES = 64

_log = logging.getLogger(__name__)


class MlflowRecorder:
    """A `training.Recorder` that writes to a journal and sends it to MLflow in the background.

    The journal `metrics.jsonl` in the run's folder is the queue, so memory stays small however long
    the server is away, and a later recorder of the same run delivers what an earlier one could not.
    The steps that a resumed run repeats get no second point. The journal of a run on an object
    store is uploaded there with each checkpoint and at the end.

    Args:
        run: From `open_run`; if the server did not answer then, the run is opened when it does.
        flush_every_s: Pause between deliveries [s]; doubles with each failure, to a minute.
        close_timeout_s: How long `close` tries to deliver what is left [s].
        patience_s: How long `close` waits for an answer [s]; None: as long as the kind of server
            deserves.
    """

    def __init__(
        self,
        run: TrackedRun,
        *,
        flush_every_s: float = 2.0,
        close_timeout_s: float = 60.0,
        patience_s: float | None = None,
    ) -> None:
        self._uri = run.uri
        self._upload_every_steps = run.config.training.checkpoint_every_steps
        self._folder = RecordFolder(run.config.run_folder)
        # `open_run` has told of an outage at the start.
        self._warned = {"outage"} if run.run_id is None else set()
        with self._disk_may_be_full():
            self._folder.journal.begin(run.since_ms)
        self._delivery = Delivery(run, self._folder)
        self._flush_every_s, self._close_timeout_s = flush_every_s, close_timeout_s
        self._patience_s = patience(run.uri) if patience_s is None else patience_s
        self._problem, self._opened = "", run.run_id is not None
        self._last_step = 0
        self._pictures: deque[tuple[File, bytes]] = deque(maxlen=_MOST_PICTURES)  # wait for room
        self._upload_due = self._closing = False
        self._wake = threading.Event()
        self._deadline = math.inf
        self._thread = threading.Thread(target=self._work, name="mlflow-delivery", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records values of metrics after `step` steps; returns at once."""
        for name in values:
            if not _is_metric_name(name):
                raise ValueError(f"MLflow takes no metric called {name!r}")
        entry = Scalars(_now_ms(), step, {key: float(value) for key, value in values.items()})
        with self._disk_may_be_full():
            self._folder.journal.append(entry)
        if step // self._upload_every_steps != self._last_step // self._upload_every_steps:
            self._upload_due = True
            self._wake.set()
        self._last_step = step

    def picture(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Records a greyscale picture, [h, w], as `completions/step-<step>/<name>.png`."""
        if image.dtype != np.uint8 or image.ndim != 2:
            raise ValueError(f"picture must be uint8 [h, w], got {image.dtype} {image.shape}")
        import imagecodecs

        to = f"{PICTURES}/step-{step:08d}"
        file = f"{to}/{name}.png"
        png = imagecodecs.png_encode(np.ascontiguousarray(image))
        self._pictures.append((File(_now_ms(), file, to), bytes(png)))
        self._write_pictures()

    def undelivered(self) -> tuple[int, int]:
        """How many points of metrics and how many files MLflow has not confirmed."""
        return self._delivery.undelivered()

    def close(self) -> None:
        """Delivers the rest, or warns of what could not be delivered and where it is."""
        if self._closing:
            return
        self._write_pictures()
        with self._disk_may_be_full():
            self._folder.journal.write_waiting()
        began_s = time.monotonic()
        self._deadline = began_s + self._close_timeout_s
        self._upload_due = self._closing = True
        self._wake.set()
        while self._thread.is_alive() and time.monotonic() < self._deadline:
            if time.monotonic() > max(began_s, self._delivery.answered_s) + self._patience_s:
                self._deadline = -math.inf
            self._thread.join(_LOOK_S)
        num_points = num_files = 0
        with self._disk_may_be_full():
            num_points, num_files = self.undelivered()  # of which a closed folder may know nothing
        self._folder.close()
        if num_lost := self._folder.journal.num_waiting():
            _log.warning(
                "%s had no room for %s at the end", self._folder.path, counted(num_lost, "point")
            )
        if self._delivery.num_refused:
            num = counted(self._delivery.num_refused, "point")
            _log.warning("MLflow at %s refused %s", self._uri, num)
        if num_points or num_files:
            why = "" if "outage" in self._warned else f" ({self._problem or 'too slow'})"
            _log.warning(
                "MLflow at %s has not confirmed %s and %s%s; they are in %s, and "
                "are sent when this run is started again",
                self._uri,
                counted(num_points, "point"),
                counted(num_files, "file"),
                why,
                self._folder.place,
            )

    def _write_pictures(self) -> None:
        with self._disk_may_be_full():
            while self._pictures:
                entry, png = self._pictures[0]
                write_atomically(self._folder.path / entry.file, png)
                self._pictures.popleft()
                self._folder.journal.append(entry)

    @contextmanager
    def _disk_may_be_full(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = (
                "cannot write to %s (%s); training goes on, and what it records waits in memory"
            )
            self._warn("disk", message, self._folder.path, reason(error))

    def _work(self) -> None:
        """Body of the thread: delivers until closed and done, or out of time."""
        pause_s = self._flush_every_s
        while time.monotonic() < self._deadline:
            self._wake.wait(pause_s)
            self._wake.clear()
            closing = self._closing
            if self._upload_due:
                self._upload_due = False
                self._folder.upload()
            try:
                self._delivery.deliver(self._deadline)
            except Exception as error:  # of anything between training and the server
                self._problem = briefly(error)
                if time.monotonic() >= self._deadline:
                    return  # `close` has said what is missing
                self._warn(
                    "outage",
                    "MLflow at %s %s (%s); training goes on, and what it records is "
                    "kept in %s and sent later",
                    self._uri,
                    outage(error),
                    reason(error),
                    self._folder.place,
                )
                pause_s = 1.0 if closing else min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = self._flush_every_s
                if closing:
                    return
                if not self._opened:
                    self._opened = True
                    self._warned.discard("outage")  # the next one is another

    def _warn(self, kind: str, message: str, *values: object) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning(message, *values)


def finish_run(run: TrackedRun, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """Sets the final status, and delivers what killed workers left.

    If no server answers, warns, unless `open_run` has told of that.
    """
    problems: tuple[type[Exception], ...] = (TrackingError, *outages())
    try:
        run = within(patience(run.uri), partial(_set_status, run, status))
    except problems as error:
        if run.run_id is not None:
            _log.warning(
                "MLflow at %s %s (%s); its status of run %s is not %s",
                run.uri,
                outage(error),
                briefly(error),
                run.config.name,
                status,
            )
        return
    if run.config.sweep is None:
        MlflowRecorder(run).close()


def _set_status(run: TrackedRun, status: str) -> TrackedRun:
    run_id = run.run_id or find_run_id(run) or enter_run(run).run_id
    connect(run.uri).set_terminated(run_id, status)
    return replace(run, run_id=run_id)


def _is_metric_name(name: str) -> bool:
    """Whether MLflow takes the name; for one bad name it refuses a whole batch."""
    is_path = posixpath.normpath(name) == name and not name.startswith(("/", ".."))
    return is_path and name != "." and re.fullmatch(r"[\w.\-:/ ]{1,250}", name) is not None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
