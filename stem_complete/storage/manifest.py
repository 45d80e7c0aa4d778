"""What is done of many units of work: one JSON line a unit, appended once it is done.

`<folder>/.stem-complete/manifest.jsonl` is written by one process, which holds the folder. The last
line of a unit counts. A line that was torn by a power cut is dropped: its unit is looked at again.
Object stores cannot append, so there it is a number of files, which the next run joins.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from upath import UPath

from stem_complete.files import sync
from stem_complete.storage.paths import (
    clear_errors,
    is_local,
    list_folder,
    make_folder,
    remove,
    write_atomically,
)

Record = dict[str, Any]
"""What is told of a unit; its name is its `unit`."""

FOLDER = ".stem-complete"
"""Below what is written; hidden, so that no search takes it for scans."""

FLUSH_S = 1.0
"""Lines are on the disk after so long: until then a unit would only be looked at again."""

UPLOAD_S = 5.0
"""Likewise on object stores."""

_FILE = "manifest.jsonl"


class Manifest:
    """The manifest of a folder that this process holds.

    Args:
        folder: `FOLDER` of that folder.
    """

    def __init__(self, folder: UPath) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None
        self._waiting: list[bytes] = []
        self._flushed_s = time.monotonic()
        self._part = 0

    def read(self) -> dict[str, Record]:
        """The last record of each unit; several files become one.

        Raises:
            StorageError: It cannot be read.
        """
        with clear_errors(self.folder):
            parts = [path for path in list_folder(self.folder) if path.name.endswith(_FILE)]
            parts.sort(key=lambda path: (path.name != _FILE, path.name))
            content = b"".join(part.read_bytes() for part in parts)
            records: dict[str, Record] = {}
            whole = []
            for line in content.split(b"\n"):
                with suppress(ValueError, TypeError, KeyError):
                    record: Record = json.loads(line)
                    records[record["unit"]] = record
                    whole.append(line + b"\n")
            if b"".join(whole) != content or any(part.name != _FILE for part in parts):
                write_atomically(self._named(0), b"".join(whole))
                for part in parts:
                    if part.name != _FILE:
                        remove(part)
        return records

    def clear(self) -> None:
        """Forgets all."""
        with clear_errors(self.folder):
            for path in list_folder(self.folder):
                if path.name.endswith(_FILE):
                    remove(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()

    def add(self, record: Record) -> None:
        """Appends a record.

        Raises:
            StorageError: It cannot be written.
        """
        self._waiting.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        if is_local(self.folder):
            self._write()
        pause_s = FLUSH_S if is_local(self.folder) else UPLOAD_S
        if time.monotonic() - self._flushed_s >= pause_s:
            self._flush()

    def _write(self) -> None:
        """Hands lines to the system, which keeps them if this process is killed."""
        with clear_errors(self.folder):
            if self._file is None:
                make_folder(self.folder)
                # Unbuffered: a line is one write.
                self._file = self._named(0).open("ab", buffering=0)
            self._file.write(b"".join(self._waiting))
            self._waiting.clear()

    def _flush(self) -> None:
        if is_local(self.folder):
            if self._file is not None:
                with clear_errors(self.folder):
                    sync(Path(str(self._named(0))))
        elif self._waiting:
            self._part += 1
            with clear_errors(self.folder):
                write_atomically(self._named(self._part), b"".join(self._waiting))
            self._waiting.clear()
        self._flushed_s = time.monotonic()

    def _named(self, part: int) -> UPath:
        return self.folder / (f"{part:06}-{_FILE}" if part else _FILE)
