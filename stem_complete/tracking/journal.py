"""A run's own record of what it told its tracking server: nothing is lost with the server."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

JOURNAL = "metrics.jsonl"
"""Name of the journal in a run's folder."""

Entry = Mapping[str, Any]
"""`{time, step, values}` or `{time, file, to}`.

Times are ms since 1970; a file is absolute or from the run's folder. What a node of the run
measured has no step.
"""

_LINES_PER_READ = 256


class Journal:
    """Append-only file of entries, one JSON object a line, read by its byte offset.

    The file is opened for each entry, which comes every few seconds: it may lie on a shared file
    system, and nothing is left open when a worker is killed. Writing is safe between threads.

    A second, small file says where the run begins, if earlier ones used the folder, and up to
    which byte each MLflow run has everything, so that what is delivered need not be read again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        # A killed process leaves half a line; so may a full disk.
        self._torn = _last_byte(path) not in (b"", b"\n")
        # A place beyond the end is of another journal: new entries would be taken for delivered.
        state, size = _read_state(state_of(path)), self.size()
        self._since, self._start = state.since, state.start if state.start <= size else 0
        self._delivered = {run: end for run, end in state.delivered.items() if end <= size}

    def append(self, entry: Entry) -> None:
        """Adds an entry; raises OSError if the file cannot be written."""
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            line, self._torn = b"\n" * self._torn + line, True
            with self.path.open("ab") as file:
                file.write(line)
            self._torn = False

    def read(self, start: int) -> tuple[list[Entry], int]:
        """Some of the entries from byte `start` on, and where the next ones start."""
        entries: list[Entry] = []
        if not self.path.exists():
            return entries, start
        with self.path.open("rb") as file:
            file.seek(start)
            for _ in range(_LINES_PER_READ):
                line = file.readline()
                if not line.endswith(b"\n"):
                    break
                start += len(line)
                try:
                    entries.append(json.loads(line))
                except ValueError:
                    continue  # torn
        return entries, start

    def size(self) -> int:
        """Its length [bytes]."""
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, since_ms: int) -> None:
        """Leaves out what is there, if the run that began at `since_ms` did not do so before.

        Args:
            since_ms: As in `TrackedRun`; 0 goes on with the run that is there.
        """
        if since_ms and since_ms != self._since:
            self._since, self._start = since_ms, self.size()
            self._write_state()

    def delivered(self, run_id: str) -> int:
        """The byte up to which MLflow's run has everything that is of it."""
        return max(self._delivered.get(run_id, 0), self._start)

    def is_delivered(self) -> bool:
        """Whether some MLflow run has everything."""
        return max(self._delivered.values(), default=self._start) >= self.size()

    def mark(self, run_id: str, end: int) -> None:
        """Notes that MLflow's run has everything before byte `end`."""
        self._delivered[run_id] = end
        self._write_state()

    def _write_state(self) -> None:
        state = _State(self._since, self._start, self._delivered)
        # On a full disk a later recorder reads more than it need.
        with suppress(OSError):
            replace(state_of(self.path), json.dumps(state._asdict()).encode())


class _State(NamedTuple):
    since: int
    start: int
    delivered: dict[str, int]


def state_of(journal: Path) -> Path:
    """The file that says what of a journal is delivered."""
    return journal.with_name(f"{journal.name}.state")


def replace(path: Path, content: bytes) -> None:
    """Writes a file that is whole at any time."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _read_state(path: Path) -> _State:
    try:
        state = json.loads(path.read_bytes())
        delivered = {str(run): int(end) for run, end in state["delivered"].items()}
        return _State(int(state["since"]), int(state["start"]), delivered)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return _State(0, 0, {})  # the server is asked what it has


def _last_byte(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        return file.read(1)
