"""One writer at a time: a lock file that names its holder."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypedDict

from stem_complete.errors import StoreError

if sys.platform != "win32":
    import fcntl


class _Holder(TypedDict):
    pid: int
    host: str


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Holds `<path>.lock` while the store at `path` is written.

    The operating system frees the lock of a process that died, so its file is taken over. Where
    files cannot be locked (some network file systems), the process id in the file decides.

    Raises:
        StoreError: Another process holds the lock, or one on another host may.
    """
    file = path.with_name(f"{path.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = _acquire(file, path)
    try:
        stream.write(json.dumps(_Holder(pid=os.getpid(), host=socket.gethostname())))
        stream.flush()
        yield
    finally:
        if sys.platform == "win32":  # which removes no open file
            stream.close()
        file.unlink(missing_ok=True)
        stream.close()


def _acquire(file: Path, path: Path) -> IO[str]:
    while True:
        stream = file.open("a+")
        locked = _lock(stream)
        holder = _holder(stream)
        if locked is False or (holder and not _is_dead(holder, locked)):
            stream.close()
            who = f"process {holder['pid']} on {holder['host']}" if holder else "it just started"
            raise StoreError(
                expected="no other writer",
                found=f"a store being written by another process ({who})",
                where=path,
                fix=f"wait for it; if it is gone, remove {file}",
            )
        if _is_current(file, stream):
            stream.truncate(0)
            return stream
        stream.close()  # its holder removed it while we waited to look


def _lock(stream: IO[str]) -> bool | None:
    """Whether we got the system's lock; None where there are no such locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system does not lock
        return None
    return True


def _holder(stream: IO[str]) -> _Holder | None:
    stream.seek(0)
    try:
        values = json.loads(stream.read())
        return _Holder(pid=int(values["pid"]), host=str(values["host"]))
    except (ValueError, KeyError, TypeError):
        return None


def _is_dead(holder: _Holder, locked: bool | None) -> bool:
    if holder["host"] != socket.gethostname():
        return False
    if locked:
        return True  # alive, it would have kept the lock from us
    if sys.platform == "win32":
        return False  # asking for a process by signal would stop it there
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _is_current(file: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
