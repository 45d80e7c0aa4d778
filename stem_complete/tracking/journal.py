"""A run's own record of its metrics: the truth, of which MLflow gets a copy."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

JOURNAL = "metrics.jsonl"
"""Name of the journal in a run's folder."""

_LINES_PER_READ = 256


class Scalars(NamedTuple):
    """Values of metrics after a step.

    Attributes:
        time: When they were recorded [ms since 1970].
        step: Steps taken.
        values: By name.
    """

    time: int
    step: int
    values: dict[str, float]


class File(NamedTuple):
    """A file.

    Attributes:
        time: When it was recorded [ms since 1970].
        file: Its path from the run's folder.
        to: Its folder among the run's artifacts.
    """

    time: int
    file: str
    to: str


class Start(NamedTuple):
    """A run that begins anew; what is above belongs to an earlier run of the folder.

    Attributes:
        since: Identifies the run: `TrackedRun.since_ms`.
    """

    since: int


Entry = Scalars | File | Start


class Journal:
    """Append-only file of entries, one JSON object a line, read by its byte offset.

    The file is opened for each entry, which comes every few seconds: it may lie on a shared file
    system, and nothing is left open when a worker is killed. Writing is safe between threads.

    Attributes:
        path: The file.
        start: Byte at which the entries of the present run begin.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        # A killed process leaves half a line; so may a full disk.
        self._torn = _last_byte(path) not in (b"", b"\n")
        self._since, self.start = _start_of_run(path)

    def begin(self, since_ms: int) -> None:
        """Makes the run that began at `since_ms` the present one; 0 goes on with the last one."""
        if since_ms and since_ms != self._since:
            # On a full disk it holds for this process.
            self._since, self.start = since_ms, self._size()
            self.append(Start(since_ms))

    def append(self, entry: Entry) -> None:
        """Adds an entry; raises OSError if the file cannot be written."""
        line = json.dumps(entry._asdict()).encode() + b"\n"
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
                if (entry := _entry(line)) is not None:
                    entries.append(entry)
        return entries, start

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


def _entry(line: bytes) -> Entry | None:
    """The entry of a line; None if the line is torn or of a kind that is not known."""
    try:
        fields = json.loads(line)
        for kind in (Scalars, File, Start):
            if fields.keys() == set(kind._fields):
                return kind(**fields)
    except (ValueError, AttributeError):
        pass
    return None


def _start_of_run(path: Path) -> tuple[int, int]:
    """`since` of the run that a journal recorded last, and the byte where it begins."""
    since = start = 0
    if not path.exists():
        return since, start
    with suppress(OSError, ValueError, TypeError, KeyError):
        # Earlier versions wrote it to a second file.
        state = json.loads(path.with_name(f"{path.name}.state").read_bytes())
        if int(state["start"]) <= path.stat().st_size:
            since, start = int(state["since"]), int(state["start"])
    with path.open("rb") as file:
        end = file.seek(start)
        for line in file:
            end += len(line)
            if line.startswith(b'{"since"') and isinstance(entry := _entry(line), Start):
                since, start = entry.since, end
    return since, start


def _last_byte(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        return file.read(1)
