"""A run's own record of its metrics: the truth, of which MLflow gets a copy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

JOURNAL = "metrics.jsonl"
"""Name of the journal in a run's folder."""

_LINES_PER_READ = 256


class Scalars(NamedTuple):
    """Values of metrics, by name, after so many steps; `time` in ms since 1970."""

    time: int
    step: int
    values: dict[str, float]


class File(NamedTuple):
    """A file, by its path from the run's folder, and its folder `to` among the run's artifacts."""

    time: int
    file: str
    to: str


class Start(NamedTuple):
    """A run that begins anew, by its `TrackedRun.since_ms`; what is above is an earlier run's."""

    since: int


Entry = Scalars | File | Start
_KINDS = {frozenset(kind._fields): kind for kind in (Scalars, File, Start)}


class Journal:
    """Append-only file of entries, one JSON object a line, read by its byte offset.

    The file is opened for each entry, which comes every few seconds: it may lie on a shared file
    system, and nothing is left open when a worker is killed. One thread writes.

    Attributes:
        path: The file.
        start: Byte at which the entries of the present run begin.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._since, self.start = _start_of_run(path)

    def begin(self, since_ms: int) -> None:
        """Makes the run that began at `since_ms` the present one; 0 goes on with the last one."""
        if since_ms and since_ms != self._since:
            # On a full disk it holds for this process.
            self._since, self.start = since_ms, self.size()
            self.append(Start(since_ms))

    def append(self, entry: Entry) -> None:
        """Adds an entry; raises OSError if the file cannot be written."""
        line = json.dumps(entry._asdict()).encode() + b"\n"
        with self.path.open("a+b") as file:
            # A killed process leaves half a line; so may a full disk.
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = b"\n" * (file.read(1) != b"\n") + line
            file.write(line)

    def read(self, start: int) -> Iterator[tuple[list[Entry], int]]:
        """Entries from byte `start` on, some at a time, and where the next ones start."""
        while self.path.exists():
            with self.path.open("rb") as file:
                file.seek(start)
                # The last line may still be being written.
                lines = [line for line in islice(file, _LINES_PER_READ) if line.endswith(b"\n")]
            if not lines:
                return
            start += sum(map(len, lines))
            yield [entry for line in lines if (entry := _entry(line)) is not None], start

    def size(self) -> int:
        """Bytes written."""
        return self.path.stat().st_size if self.path.exists() else 0


def _entry(line: bytes) -> Entry | None:
    """The entry of a line; None if the line is torn or of a kind that is not known."""
    with suppress(ValueError, TypeError, KeyError):
        fields = json.loads(line)
        return _KINDS[frozenset(fields)](**fields)
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
