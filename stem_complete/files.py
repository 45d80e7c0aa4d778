"""Files and folders that are whole or absent, and their hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        _sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `path`, which replaces `path` at the end of the block.

    A folder that is at `path` stays as it was if the block fails.
    """
    path = path.absolute()
    draft = _draft_of(path)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in draft.rglob("*"):
            _sync(file)
        _replace_folder(path, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sync(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file of which readers see all or nothing, even after a power cut."""
    with atomic_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _draft_of(path: Path) -> Path:
    return path.with_name(f".unfinished-{os.getpid()}-{path.name}")


def _replace_folder(path: Path, complete: Path) -> None:
    if not path.exists():
        complete.rename(path)
        return
    # A folder with files in it cannot be replaced in one call.
    old = path.with_name(f".replaced-{os.getpid()}-{path.name}")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    try:
        complete.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # which opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
