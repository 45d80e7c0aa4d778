"""What a destination holds, and what failed.

The manifest of completions (`storage/manifest.py`) has a line for each unit, appended once the
unit's files are there:

    unit    name below the destination
    model, options    hashes
    scans   of each: scan (its place), number, row; then stamp, made_from, note, misfit, or failed
    files   of each by name: bytes, SHA-256
"""

from __future__ import annotations

import json
import time

from upath import UPath

from stem_complete.errors import Failure
from stem_complete.serving.batch.units import Outcome, Unit
from stem_complete.storage.manifest import UPLOAD_S, Record
from stem_complete.storage.paths import clear_errors, is_local, remove, write_atomically


def record_of(unit: Unit, outcome: Outcome, model: str, options: str) -> Record:
    """The manifest's line on a unit."""
    scans = []
    for source, row, result in zip(unit.scans, unit.rows, outcome.results, strict=True):
        scan: Record = {"scan": source.absolute().scan, "number": source.number, "row": row}
        if result.failure is not None:
            scan["failed"] = str(result.failure)
        else:
            told = ("stamp", "made_from", "note", "misfit")
            scan |= {name: getattr(result, name) for name in told}
        scans.append(scan)
    files = {name: list(content) for name, content in outcome.files.items()}
    return {"unit": unit.name, "model": model, "options": options, "scans": scans, "files": files}


class FailureList:
    """`errors.jsonl`: what failed so far, one JSON line for each; without any there is no file.

    A run of days may be killed, so it grows while the run goes on. Object stores cannot append:
    there it is written as a whole, every few seconds.

    Args:
        path: The file.

    Attributes:
        failures: What failed, by file.
    """

    def __init__(self, path: UPath) -> None:
        self.path = path
        self.failures: dict[str, Failure] = {}
        self._written_s = time.monotonic()

    def add(self, file: str, failure: Failure) -> None:
        """Appends what became of a file.

        Raises:
            StorageError: It cannot be written.
        """
        self.failures[file] = failure
        if is_local(self.path):
            with clear_errors(self.path), self.path.open("ab", buffering=0) as stream:
                stream.write(_line(file, failure))
        elif time.monotonic() - self._written_s >= UPLOAD_S:
            self.write()

    def write(self) -> None:
        """Writes it as a whole.

        Raises:
            StorageError: It cannot be written.
        """
        lines = [_line(file, failure) for file, failure in self.failures.items()]
        with clear_errors(self.path):
            if lines:
                write_atomically(self.path, b"".join(lines))
            else:
                remove(self.path)
        self._written_s = time.monotonic()


def _line(file: str, failure: Failure) -> bytes:
    return json.dumps({"file": file, **failure._asdict()}).encode() + b"\n"
