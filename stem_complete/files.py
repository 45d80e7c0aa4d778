"""Files and folders that are whole or absent, held by one process, and their hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stem_complete.errors import BusyError

LONGEST_NAME = 255
"""Bytes of a file's name, on all file systems in use."""

DRAFT = ".unfinished-"
"""Beginning of the names of files that are being written, or whose writer was killed."""

REPLACED = ".replaced-"
"""Likewise of folders that others took the place of."""

_REMOVALS, _AFTER_REMOVAL_S = 20, 0.05


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a draft beside `path`, which replaces `path` at the end of the block.

    The draft is removed if the block fails, and a draft that a killed process left is never taken
    for the file: its name begins with a dot. It keeps the suffix of `path`, from which some writers
    choose the format.
    """
    draft = _draft_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `path`, which replaces `path` at the end of the block.

    A folder that is at `path` stays as it was if the block fails.
    """
    path = path.absolute()
    draft = _draft_of(path)
    _remove_folder(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in draft.rglob("*"):
            sync(file)
        _replace_folder(path, draft)
    finally:
        _remove_folder(draft)
    sync(path.parent)


def _remove_folder(folder: Path) -> None:
    """Removes a folder, if it can be, although others may still write into it.

    zarr writes chunks on several threads; when one fails, the others end a little later, and make
    the folder again.
    """
    for _ in range(_REMOVALS):
        if not folder.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_AFTER_REMOVAL_S)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file of which readers see all or nothing, even after a power cut."""
    with atomic_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def exclusive(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Holds `path` for this block alone; `<path>.lock` says which process it is.

    The system frees the lock of a process that died.

    Raises:
        BusyError: Another process, or another block of this one, holds it for `wait_s` seconds.
        OSError: The lock cannot be written.
    """
    from filelock import FileLock, Timeout  # slow to import, and most users of files lock none

    file = path.with_name(f"{path.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(file), ""
    try:
        lock.acquire(timeout=wait_s)
    except Timeout as error:
        with suppress(FileNotFoundError):  # the holder just ended
            holder = file.read_text(encoding="utf-8")
        raise BusyError(
            expected="no other process to hold it",
            found=f"it held by {holder or 'a process that just started'}",
            where=path,
            fix="wait for that process to end",
        ) from error
    try:
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            file.unlink()
        lock.release()


def leave_removed_folder() -> bool:
    """Goes to the root folder if the working directory was removed; whether it did.

    Paths that are absolute stay what they are, but parts of torch ask where they are when they are
    first used, and end with an error if that is nowhere.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")
        return True
    return False


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _draft_of(path: Path) -> Path:
    return _beside(path, f"{DRAFT}{os.getpid()}-")


def _beside(path: Path, prefix: str) -> Path:
    """A path in the same folder, with the suffix of `path`. Long names are replaced by a hash."""
    name = path.name
    if len(os.fsencode(prefix + name)) > LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest() + path.suffix
    return path.with_name(prefix + name)


def _replace_folder(path: Path, complete: Path) -> None:
    if not path.exists():
        complete.rename(path)
        return
    # A folder with files in it cannot be replaced in one call.
    old = _beside(path, f"{REPLACED}{os.getpid()}-")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    try:
        complete.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # which opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
