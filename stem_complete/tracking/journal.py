"""A run's own record of what it told its tracking server: nothing is lost with the server."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

Entry = Mapping[str, Any]
"""One of `{time, step, values}`, `{time, file, to}` and `{delivered, run}`; time in ms since 1970.

A `delivered` entry says that MLflow's run has everything before that byte of the journal.
"""

_LINES_PER_READ = 256


class Journal:
    """Append-only file of entries, one JSON object a line, read by its byte offset.

    The file is opened for each entry, which comes every few seconds: it may lie on a shared file
    system, and nothing is left open when a worker is killed. Writing is safe between threads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        # A killed process leaves half a line; so may a full disk.
        self._torn = _last_byte(path) not in (b"", b"\n")

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

    def delivered(self, run_id: str) -> int:
        """The byte up to which MLflow's run has everything."""
        delivered, offset = 0, 0
        while True:
            entries, end = self.read(offset)
            if end == offset:
                return delivered
            delivered = max(
                [delivered, *(e["delivered"] for e in entries if e.get("run") == run_id)]
            )
            offset = end


def _last_byte(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        return file.read(1)
