"""What a destination holds: one JSON line a unit, appended once the unit's files are there.

`<destination>/.stem-complete/manifest.jsonl` is written by the driver alone. The last line of a
unit counts. A line that was torn by a power cut is dropped: its unit is looked at again. Object
stores cannot append, so there it is a number of files, which the next run joins.

    unit    name below the destination
    model, options    hashes
    scans   of each: scan (its place), number, row; then stamp, made_from, note, misfit, or failed
    files   of each by name: bytes, SHA-256
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from upath import UPath

from stem_complete.files import sync
from stem_complete.serving.batch.units import Outcome, Record, Unit
from stem_complete.training.storage import (
    clear_errors,
    is_local,
    list_folder,
    make_folder,
    remove,
    write_atomically,
)

FOLDER = ".stem-complete"
"""Below a destination; hidden, so that no search takes it for scans."""

FLUSH_S = 1.0
"""Lines are on the disk after so long: until then a unit would only be looked at again."""

UPLOAD_S = 5.0
"""Likewise on object stores."""

_FILE = "manifest.jsonl"


def record_of(unit: Unit, outcome: Outcome, model: str, options: str) -> Record:
    """The manifest's line on a unit."""
    scans = []
    for source, row, result in zip(unit.scans, unit.rows, outcome.results, strict=True):
        scan: Record = {"scan": source.absolute().scan, "number": source.number, "row": row}
        if result.state == "failed":
            scan["failed"] = result.reason
        else:
            told = ("stamp", "made_from", "note", "misfit")
            scan |= {name: getattr(result, name) for name in told}
        scans.append(scan)
    files = {name: list(content) for name, content in outcome.files.items()}
    return {"unit": unit.name, "model": model, "options": options, "scans": scans, "files": files}


class Manifest:
    """The manifest of a destination that this process holds.

    Args:
        folder: `FOLDER` of the destination.
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


class FailureList:
    """`errors.jsonl`: what failed so far, one JSON line for each.

    A run of days may be killed, so it grows while the run goes on. Object stores cannot append:
    there it is written as a whole, every few seconds.

    Args:
        path: The file.
    """

    def __init__(self, path: UPath) -> None:
        self.path = path
        self._lines: list[bytes] = []
        self._written_s = time.monotonic()

    def add(self, file: str, reason: str, fix: str) -> None:
        """Appends a failure.

        Raises:
            StorageError: It cannot be written.
        """
        line = json.dumps({"file": file, "reason": reason, "fix": fix}).encode() + b"\n"
        self._lines.append(line)
        if is_local(self.path):
            with clear_errors(self.path), self.path.open("ab", buffering=0) as stream:
                stream.write(line)
        elif time.monotonic() - self._written_s >= UPLOAD_S:
            self.write()

    def replace(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Writes it anew of (file, reason, fix); without any it is removed.

        Raises:
            StorageError: It cannot be written.
        """
        told = ({"file": file, "reason": reason, "fix": fix} for file, reason, fix in rows)
        self._lines = [json.dumps(row).encode() + b"\n" for row in told]
        self.write()

    def write(self) -> None:
        """Writes it as a whole.

        Raises:
            StorageError: It cannot be written.
        """
        with clear_errors(self.path):
            if self._lines:
                write_atomically(self.path, b"".join(self._lines))
            else:
                remove(self.path)
        self._written_s = time.monotonic()
