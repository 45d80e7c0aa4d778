"""A folder into which an instrument's software drops scans, completed as they become whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stem_complete.data.formats.scans import sources_of
from stem_complete.errors import ConfigError, DataError, StemCompleteError
from stem_complete.inference.scan_files import ScanFiles, plan_files
from stem_complete.serving.batch.run import CompleteReport, complete_files
from stem_complete.serving.batch.units import Pool

_Stamp = tuple[tuple[str, int, int], ...]


class _Seen(NamedTuple):
    """How a scan's files were, and since when they are so."""

    stamp: _Stamp
    since_s: float


class Watch:
    """Completes the scans of a folder, each when it has stood still for a while.

    An instrument writes a file in pieces, and no name says when it is done. A scan counts as whole
    once its files, and its dwell map if it needs one, have kept their sizes and times; one that can
    then not be read is told of, and tried again when it changes.

    Args:
        folder: Where scans come, also in its subfolders.
        pool: Workers with a model.
        output: Folder of completions.
        dwell: As for `complete_files`.
        settle_s: How long files are to stand still [s].
        options: Of `complete_files`.

    Raises:
        ConfigError: There is no such folder, or completions would go into it.
    """

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        output: Path,
        *,
        dwell: str | None = None,
        settle_s: float = 2.0,
        **options: Any,
    ) -> None:
        if not folder.is_dir():
            raise ConfigError(
                expected="a folder", found="none", where=folder, fix="make it, or give another one"
            )
        if output.resolve() == folder.resolve():
            raise ConfigError(
                expected="another folder for completions than that which is watched",
                found="the same",
                where=output,
                fix="choose another --output",
            )
        self.folder, self.pool, self.output = folder, pool, output
        self.dwell, self.settle_s, self.options = dwell, settle_s, options
        self._seen: dict[Path, _Seen] = {}
        self._done: dict[Path, _Stamp] = {}

    def run(
        self,
        stop: threading.Event,
        tell: Callable[[CompleteReport], None],
        poll_s: float = 0.5,
    ) -> None:
        """Looks again and again, until `stop` is set.

        Args:
            stop: Ends it after the scan that is under way.
            tell: Is told what became of scans.
            poll_s: Pause between looks [s].

        Raises:
            StemCompleteError: Completions cannot be written.
        """
        while not stop.is_set():
            for report in self.look():
                tell(report)
            stop.wait(poll_s)

    def look(self) -> list[CompleteReport]:
        """Completes what has become whole; what became of it."""
        whole: dict[Path, list[ScanFiles]] = {}
        for files in self._found():
            stamp = _stamp(files)
            if stamp and stamp != self._done.get(files.scan) and self._stands_still(files, stamp):
                self._done[files.scan] = stamp
                whole.setdefault(files.image.parent, []).append(files)
        return [self._complete(output, scans) for output, scans in whole.items()]

    def _found(self) -> list[ScanFiles]:
        try:
            return plan_files([self.folder], self.output, self.dwell).files
        except DataError:  # nothing is there yet
            return []

    def _stands_still(self, files: ScanFiles, stamp: _Stamp) -> bool:
        now = time.monotonic()
        seen = self._seen.get(files.scan)
        if seen is None or seen.stamp != stamp:
            seen = self._seen[files.scan] = _Seen(stamp, now)
        return now - seen.since_s >= self.settle_s

    def _complete(self, output: Path, scans: list[ScanFiles]) -> CompleteReport:
        report = CompleteReport()
        for files in scans:  # each alone, as one that is refused must not hold up the others
            try:
                one = complete_files(
                    [files.scan],
                    self.pool,
                    output,
                    dwell=None if files.dwell is None else str(files.dwell),
                    **self.options,
                )
            except DataError as error:
                report.failed[str(files.scan)] = str(error)
            except StemCompleteError:
                self._done.pop(files.scan, None)
                raise
            else:
                report.done |= one.done
                report.skipped |= one.skipped
                report.failed |= one.failed
                report.notes |= one.notes
        return report


def _stamp(files: ScanFiles) -> _Stamp:
    """Sizes and times of all files of a scan; empty if one is not there, or is empty."""
    stamp = []
    for path in filter(None, (files.scan, files.dwell)):
        try:
            for file in sources_of(path):
                found = file.stat()
                if not found.st_size:
                    return ()
                stamp.append((str(file), found.st_size, found.st_mtime_ns))
        except OSError:
            return ()
    return tuple(stamp)
