"""A run's own record of its metrics: the truth, of which MLflow gets a copy."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

JOURNAL = "metrics.jsonl"
"""Name of the journal in a run's folder."""

MOST_WAITING = 4096
"""Most entries of metrics that wait in memory: some MB, and a curve of enough points."""

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
    system, and nothing is left open when a worker is killed. One thread writes. Entries for which
    the disk has no room wait in memory.

    Attributes:
        path: The file.
        start: Byte at which the entries of the present run begin.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._since, self.start = _start_of_run(path)
        self._waiting = _Waiting()

    def begin(self, since_ms: int) -> None:
        """Makes the run that began at `since_ms` the present one; 0 goes on with the last one."""
        if since_ms and since_ms != self._since:
            # On a full disk it holds for this process.
            self._since, self.start = since_ms, self.size()
            self.append(Start(since_ms))

    def append(self, entry: Entry) -> None:
        """Adds an entry after those that wait.

        Raises:
            OSError: The file cannot be written, now; the entry waits for the next call.
        """
        self._waiting.add(entry)
        self.write_waiting()

    def write_waiting(self) -> None:
        """Writes all entries that wait; raises OSError if they must wait on."""
        if not (entries := self._waiting.entries()):
            return
        try:
            self._write(b"".join(json.dumps(entry._asdict()).encode() + b"\n" for entry in entries))
        except OSError:
            self._waiting.thin()
            raise
        self._waiting = _Waiting()

    def num_waiting(self) -> int:
        """How many entries wait."""
        return len(self._waiting.entries())

    def _write(self, lines: bytes) -> None:
        """Appends lines, all or none."""
        with self.path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            # A process that was killed leaves half a line.
            if size:
                file.seek(-1, os.SEEK_END)
                lines = b"\n" * (file.read(1) != b"\n") + lines
            try:
                while lines:
                    lines = lines[file.write(lines) :]
            except OSError:
                file.truncate(size)
                raise

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


class _Waiting:
    """Entries that wait for room, in order.

    Of metrics that come together there are at most `MOST_WAITING` entries: of more, every second,
    fourth, ... is kept, so that what is left of a curve is evenly spread.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, Entry]] = []  # with its number among those of its kind
        self._counts: Counter[frozenset[str]] = Counter()
        self._strides: dict[frozenset[str], int] = {}

    def add(self, entry: Entry) -> None:
        """Adds an entry, which stays until `thin`."""
        kind = _kind(entry)
        self._entries.append((self._counts[kind], entry))
        self._counts[kind] += 1

    def entries(self) -> list[Entry]:
        """All that wait."""
        return [entry for _, entry in self._entries]

    def thin(self) -> None:
        """Drops what is too much."""
        for kind, count in self._counts.items():
            while kind and count > MOST_WAITING * self._strides.get(kind, 1):
                self._strides[kind] = 2 * self._strides.get(kind, 1)
        self._entries = [
            (number, entry)
            for number, entry in self._entries
            if number % self._strides.get(_kind(entry), 1) == 0
        ]


def _kind(entry: Entry) -> frozenset[str]:
    """Names of an entry's metrics; none for one that must not be dropped."""
    return frozenset(entry.values) if isinstance(entry, Scalars) else frozenset()


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
