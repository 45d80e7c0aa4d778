"""What a destination holds, and what failed.

The manifest of completions (`training/manifest.py`) has a line for each unit, appended once the
unit's files are there:

    unit    name below the destination
    model, options    hashes
    scans   of each: scan (its place), number, row; then stamp, made_from, note, misfit, or failed
    files   of each by name: bytes, SHA-256
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from upath import UPath

from stem_complete.serving.batch.units import Outcome, Unit
from stem_complete.training.manifest import UPLOAD_S, Record
from stem_complete.training.storage import clear_errors, is_local, remove, write_atomically


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
