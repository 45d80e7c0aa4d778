"""Where a run records before MLflow has it: its folder, or a local copy of one on a store."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from upath import UPath

from stem_complete.tracking.client import reason
from stem_complete.tracking.journal import JOURNAL, Journal, replace, state_of
from stem_complete.tracking.samples import SAMPLES, Samples

PICTURES = "completions"
"""Name of the folder of pictures in a run's folder."""

_log = logging.getLogger(__name__)


class RecordFolder:
    """A run's folder, on a local or shared file system.

    Attributes:
        path: Absolute.
        place: What users are told.
        is_of_run: Whether a later recorder of the run finds it.
        journal: The run's record.
        samples: What the run's nodes measured.
    """

    is_of_run = True

    def __init__(self, path: Path, samples: Path | UPath | None = None) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path.absolute()
        self.place = str(self.path)
        self.journal = Journal(self.path / JOURNAL)
        self.samples = Samples(samples or self.path / SAMPLES)

    def find(self, file: str) -> Path:
        """Local path of a file that the journal names."""
        return self.path / file

    def save(self) -> None:
        """Asks for the journal to be saved soon; returns at once."""

    def close(self, *, delivered: bool) -> None:
        """Saves what is not saved."""


class SessionFolder(RecordFolder):
    """A temporary folder, removed at the end if MLflow has everything."""

    is_of_run = False

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="stem-complete-")))

    def close(self, *, delivered: bool) -> None:
        """Removes the folder."""
        if delivered:
            shutil.rmtree(self.path, ignore_errors=True)


class MirroredFolder(RecordFolder):
    """A local copy of what a recorder keeps in a run's folder on an object store.

    Such a store cannot append to a file, and training cannot wait for it. A thread uploads the
    journal: soon while MLflow lacks some of it, now and then if not. The copy is named after the
    run, so that a worker that is started again on the same machine finds it after a kill.

    Args:
        remote: The run's folder.
        upload_every_s: Pause between uploads of what MLflow does not have [s].
        refresh_every_s: Pause between uploads of what it has [s].
        close_timeout_s: How long `close` waits for the last upload [s].
    """

    def __init__(
        self,
        remote: UPath,
        *,
        upload_every_s: float = 30.0,
        refresh_every_s: float = 600.0,
        close_timeout_s: float = 30.0,
    ) -> None:
        self._remote = remote
        self._upload_every_s, self._refresh_every_s = upload_every_s, refresh_every_s
        self._close_timeout_s = close_timeout_s
        path = _local_copy(remote)
        path.mkdir(parents=True, exist_ok=True)
        self._problem = self._join(path / JOURNAL)
        super().__init__(path, remote / SAMPLES)
        self.place = str(remote)

        self._uploaded: dict[str, bytes | int] = {}  # state, sizes of journal and pictures
        self._uploaded_s = time.monotonic()
        self._hurry, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="journal-upload", daemon=True)
        if not self._problem:  # else it would replace a journal that it has not seen
            self._thread.start()

    def find(self, file: str) -> Path:
        """Local path of a file that the journal names, fetched if another machine wrote it."""
        path = self.path / file
        if not path.exists() and not Path(file).is_absolute():
            content = _content(self._remote / file)
            if content:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace(path, content)
        return path

    def save(self) -> None:
        """Uploads what MLflow does not have at once instead of soon."""
        self._hurry.set()

    def close(self, *, delivered: bool) -> None:  # noqa: ARG002 - it is safe in the store
        """Uploads what is left, and removes the copy."""
        if self._thread.is_alive():
            self._closing.set()
            self._hurry.set()
            self._thread.join(self._close_timeout_s)
            if self._thread.is_alive():
                self._problem = "too slow"
        if not self._problem:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        self.place = str(self.path)
        _log.warning("%s has not all curves (%s); %s has", self._remote, self._problem, self.path)

    def _join(self, journal: Path) -> str:
        """Joins the journal that other machines left with the one found here."""
        try:
            theirs, ours = _content(self._remote / JOURNAL), _content(UPath(journal))
            if not ours.startswith(theirs):
                lines = dict.fromkeys([*theirs.splitlines(), *ours.splitlines()])
                replace(journal, b"".join(line + b"\n" for line in lines))
                replace(state_of(journal), _content(self._remote / state_of(journal).name))
        except Exception as error:  # of any store's client
            _log.warning(
                "cannot read %s (%s); training goes on, and its curves are kept in %s only",
                self._remote / JOURNAL,
                reason(error),
                journal,
            )
            return reason(error)
        return ""

    def _work(self) -> None:
        """Body of the thread."""
        while True:
            self._hurry.wait(self._upload_every_s)
            self._hurry.clear()
            closing = self._closing.is_set()
            try:
                self._upload(everything=closing)
                self._problem = ""
            except Exception as error:  # of any store's client
                if not self._problem:
                    _log.warning(
                        "cannot write to %s (%s); training goes on, and its curves are kept in %s",
                        self._remote,
                        reason(error),
                        self.path,
                    )
                self._problem = reason(error)
            if closing:
                return

    def _upload(self, *, everything: bool) -> None:
        """Uploads what changed, if it is time to: pictures, then the journal that names them."""
        state_file = state_of(self.journal.path)
        # Read before the journal: it must not tell of more than what goes with it.
        state, size = _content(UPath(state_file)), self.journal.size()
        changed = {JOURNAL: size, state_file.name: state}.items() - self._uploaded.items()
        waited_s = time.monotonic() - self._uploaded_s
        urgent = not self.journal.is_delivered() or waited_s >= self._refresh_every_s
        if not (size and changed and (urgent or everything)):
            return
        for picture in sorted(self.path.glob(f"{PICTURES}/*/*.png")):
            name = picture.relative_to(self.path).as_posix()
            if self._uploaded.get(name) != picture.stat().st_size:
                _put(self._remote / name, picture.read_bytes())
                self._uploaded[name] = picture.stat().st_size
        _put(self._remote / JOURNAL, self.journal.path.read_bytes()[:size])
        if state:
            _put(self._remote / state_file.name, state)
        self._uploaded |= {JOURNAL: size, state_file.name: state}
        self._uploaded_s = time.monotonic()


def record_folder(folder: Path | UPath | None) -> RecordFolder:
    """The folder to record in: `folder`, or a copy of it if it is a URL; for now if it is None."""
    if folder is None:
        return SessionFolder()
    return RecordFolder(folder) if isinstance(folder, Path) else MirroredFolder(folder)


def _local_copy(remote: UPath) -> Path:
    url = str(remote)
    name = (
        f"stem-complete-{os.getuid()}-{remote.name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    )
    return Path(tempfile.gettempdir()) / name


# Not by UPath's own methods: s3fs would believe sizes that it listed earlier.
def _content(path: UPath) -> bytes:
    try:
        return bytes(path.fs.cat_file(path.path))
    except FileNotFoundError:
        return b""


def _put(path: UPath, content: bytes) -> None:
    path.fs.pipe_file(path.path, content)
