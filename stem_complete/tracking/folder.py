"""The local folder in which a run records, also if its own is on an object store."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from upath import UPath

from stem_complete.tracking.client import reason
from stem_complete.tracking.journal import JOURNAL, Journal

PICTURES = "completions"
"""Name of the folder of pictures in a run's folder."""

_log = logging.getLogger(__name__)


class RecordFolder:
    """A run's folder; for one on an object store a temporary folder that is uploaded now and then.

    Such a store cannot append to a file, and training cannot wait for it. A host that is lost takes
    with it what was recorded after the last upload, which training records again as it resumes from
    a checkpoint of that time.

    Attributes:
        path: Where the run records; absolute.
        place: Where users find the record: a path or URL.
        journal: The run's record.
    """

    def __init__(self, folder: Path | UPath) -> None:
        self._remote: UPath | None = None
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
            self.path = Path(folder).absolute()
        else:
            self._remote = folder
            self.path = Path(tempfile.mkdtemp(prefix=f"stem-complete-{folder.name}-"))
            try:
                _fetch(folder / JOURNAL, self.path / JOURNAL)
            except Exception as error:  # of any store's client
                self._warn("read", error)
                self._remote = None  # so that it stays as it is
        self.place = str(self._remote or self.path)
        self.journal = Journal(self.path / JOURNAL)
        self._uploaded: set[str] = set()
        self._uploaded_bytes = self.journal.size()

    def find(self, file: str) -> Path:
        """Local path of a recorded file, fetched if another host recorded it."""
        path = self.path / file
        if self._remote is not None and not path.exists():
            _fetch(self._remote / file, path)
            self._uploaded.add(file)
        return path

    def upload(self) -> None:
        """Copies new pictures and the journal to the object store, if the run is on one."""
        if self._remote is None or not self.journal.path.exists():
            return
        pictures = {
            str(path.relative_to(self.path)) for path in self.path.glob(f"{PICTURES}/*/[!.]*.png")
        }
        size = self.journal.size()
        try:
            for file in [*sorted(pictures - self._uploaded), JOURNAL]:
                self._remote.fs.put_file(str(self.path / file), (self._remote / file).path)
                self._uploaded.add(file)
            self._uploaded_bytes, self.place = size, str(self._remote)
        except Exception as error:  # of any store's client
            if self.place != str(self.path):
                self._warn("write to", error)
            self.place = str(self.path)

    def close(self) -> None:
        """Removes a temporary folder of which all was uploaded."""
        if self._remote is None:
            return
        if self._uploaded_bytes == self.journal.size():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.place = str(self.path)
            _log.warning("%s has not all curves; %s has", self._remote, self.path)

    def _warn(self, action: str, error: Exception) -> None:
        message = "cannot %s %s (%s); training goes on, and its curves are kept in %s"
        _log.warning(message, action, self._remote, reason(error), self.path)


def _fetch(remote: UPath, local: Path) -> None:
    """Copies a file from a store, if it is there."""
    # Not by UPath's own methods: s3fs would believe sizes that it listed earlier.
    try:
        content = remote.fs.cat_file(remote.path)
    except FileNotFoundError:
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    local.write_bytes(content)
