"""A folder's claim: which process trains or works in it, so that no second one writes there too.

`<folder>/claim.json` names the holder, which gives a sign of life every few seconds. On the
holder's own machine others see whether its process still runs. On another one they watch for signs
of life, whatever the clocks of both say. A claim whose holder is dead lapses.

A holder that stood still for so long that another took over must not go on writing: it finds its
claim gone at its next sign of life, and each checkpoint looks before it counts.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from upath import UPath

from stem_complete.console import format_seconds, say
from stem_complete.errors import BusyError, StemCompleteError
from stem_complete.storage.paths import (
    clear_errors,
    create,
    is_local,
    make_folder,
    remove,
    storage_path,
    write_atomically,
)

CLAIM_FILE = "claim.json"

BEAT_S = 10.0
"""Pause between signs of life."""

LAPSE_S = 45.0
"""A holder on another machine that gives no sign of life for so long is dead."""

SETTLE_S = 1.0
"""Time in which two that take the same claim have both written; the last one has it."""

_POLL_S = 0.5


class ClaimLostError(BusyError):
    """The folder was taken over by another process, while this one stood still."""


class Use(NamedTuple):
    """What a folder is held for, as errors say it.

    Attributes:
        thing: What is held.
        work: What its holder does, as in "no other process that ...".
        otherwise: What one can do instead.
    """

    thing: str
    work: str
    otherwise: str


TRAINING = Use("the run", "trains this run", "train under another name")


class Holder(NamedTuple):
    """Who holds a folder.

    Attributes:
        id: Of the claim.
        folder: The folder, as this process calls it; a copy of it lies elsewhere.
        machine: See `_machine`.
        host: Its name.
        pid: Process.
        birth: When that process started, as its system counts; "" if unknown.
        user: Who started it.
        since: When it claimed the folder, UTC.
    """

    id: str
    folder: str
    machine: str
    host: str
    pid: int
    birth: str
    user: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} of {self.user} on {self.host} since {self.since}"


class Claim(NamedTuple):
    """A claim that was taken. It can be pickled and handed to a worker.

    Attributes:
        folder: What is held; a path or URL.
        id: Of the claim.
        use: What for.
    """

    folder: str
    id: str
    use: Use = TRAINING

    def check(self) -> None:
        """Looks whether the folder is still claimed by this.

        Raises:
            ClaimLostError: Another process took over, or somebody removed the claim.
            StorageError: The storage cannot be read.
        """
        path = storage_path(self.folder) / CLAIM_FILE
        with clear_errors(path):
            seen = _look(path)
        if seen is None or seen.holder is None or seen.holder.id != self.id:
            other = "no claim" if seen is None else f"it claimed by {seen.holder or 'another one'}"
            raise ClaimLostError(
                expected=f"this process to hold {self.use.thing}",
                found=other,
                where=self.folder,
                fix="leave it to the other process, or start this one again once that has ended",
            )


class _Sight(NamedTuple):
    """A claim at one moment.

    Attributes:
        content: On an object store it changes with each sign of life.
        stamp: When the holder gave the last one, by its own clock or the disk's [ns since 1970].
        holder: None while it is being written.
    """

    content: bytes
    stamp: int
    holder: Holder | None

    def last_sign_s(self) -> float:
        """Seconds since the last sign of life of a holder on this machine."""
        return max(0.0, (time.time_ns() - self.stamp) / 1e9)


@contextmanager
def claimed(
    run_folder: Path | UPath,
    on_loss: Callable[[str], None] = lambda _: None,
    use: Use = TRAINING,
) -> Iterator[Claim]:
    """Holds a folder for the block, and gives signs of life meanwhile.

    Args:
        run_folder: Path or URL.
        on_loss: Called with the reason, on another thread, once the claim is lost.
        use: What it is held for.

    Raises:
        BusyError: Another process holds it.
        StorageError: The storage cannot be read or written.
    """
    folder = storage_path(run_folder)
    path = folder / CLAIM_FILE
    with clear_errors(path):
        holder = _take(folder, path, use)
    claim = Claim(str(run_folder), holder.id, use)
    ended = threading.Event()
    keeper = threading.Thread(
        target=_keep, args=(claim, path, holder, ended, on_loss), name="claim", daemon=True
    )
    keeper.start()
    try:
        yield claim
    finally:
        ended.set()
        keeper.join()
        with suppress(StemCompleteError):  # it is another's, or the storage is away
            claim.check()
            with clear_errors(path):
                remove(path)


def last_holder(run_folder: Path | UPath) -> tuple[Holder | None, bool]:
    """Who trains a run, or did and left its claim, and whether it lives as far as one look tells.

    Raises:
        StorageError: The storage cannot be read.
    """
    folder = storage_path(run_folder)
    path = folder / CLAIM_FILE
    with clear_errors(path):
        seen = _look(path)
    if seen is None or seen.holder is None:
        return None, False
    holder = seen.holder
    if _is_here(folder, holder):
        return holder, _runs(holder.pid, holder.birth)
    return holder, not is_local(path) or seen.last_sign_s() < LAPSE_S


def _keep(
    claim: Claim,
    path: UPath,
    holder: Holder,
    ended: threading.Event,
    on_loss: Callable[[str], None],
) -> None:
    """Body of the thread: signs of life until the end, or until the claim is lost."""
    num_signs = 0
    while not ended.wait(BEAT_S):
        num_signs += 1
        try:
            claim.check()
            with clear_errors(path):
                if is_local(path):
                    # A full disk has room for that.
                    now = time.time_ns()
                    os.utime(str(path), ns=(now, now))
                else:
                    path.write_bytes(_content(holder, num_signs))
        except ClaimLostError:
            on_loss(f"{claim.folder} is no longer held by this process")
            return
        except StemCompleteError:
            pass  # the storage is away, for others too


def _take(folder: UPath, path: UPath, use: Use) -> Holder:
    """Writes a claim of this process, once no living one holds the folder."""
    own = Holder(
        uuid4().hex,
        _place(folder),
        _machine(),
        socket.gethostname(),
        os.getpid(),
        _birth(os.getpid()),
        _user(),
        f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
    )
    while True:
        seen = _look(path)
        if seen is None:
            make_folder(folder)
            if not create(path, _content(own)):
                continue  # another was quicker
            if is_local(path):
                return own
        elif not _is_dead(folder, path, seen, use):
            continue  # it ended meanwhile, or has just begun
        else:
            write_atomically(path, _content(own))
        # Others may have come to the same end, and of those that wrote the last one has it.
        time.sleep(SETTLE_S)
        now = _look(path)
        if now is not None and now.holder == own:
            return own


def _is_dead(folder: UPath, path: UPath, seen: _Sight, use: Use) -> bool:
    """Whether the holder is dead; False if there is none any more, or none that is known yet.

    Raises:
        BusyError: It lives.
    """
    holder = seen.holder
    if holder is not None and _is_here(folder, holder):
        if _runs(holder.pid, holder.birth):
            raise _busy(folder, holder, seen.last_sign_s(), use)
        return True
    name = holder or "a process that just started"
    say(f"{folder} is held by {name}; looking for up to {LAPSE_S:.0f} s whether that still runs")
    started = time.monotonic()
    while time.monotonic() - started < LAPSE_S:
        time.sleep(_POLL_S)
        now = _look(path)
        if now is None or (holder is None and now.holder is not None):
            return False
        if now != seen:
            if now.holder is None:
                continue
            raise _busy(folder, now.holder, 0.0, use)
    say(f"{name} gave no sign of life for {LAPSE_S:.0f} s: taking over")
    return True


def _busy(folder: UPath, holder: Holder, last_sign_s: float, use: Use) -> BusyError:
    ways = f"wait for it to end, or {use.otherwise}"
    if last_sign_s > LAPSE_S:
        ways = f"end it with `kill -9 {holder.pid}` if it is stuck, or {use.otherwise}"
    return BusyError(
        expected=f"no other process that {use.work}",
        found=f"{holder}, which gave its last sign of life {format_seconds(last_sign_s)} ago",
        where=folder,
        fix=ways,
    )


def _look(path: UPath) -> _Sight | None:
    """The claim at `path` as it is now; None if there is none."""
    try:
        if is_local(path):
            # Opened anew, as NFS then asks the server for content and time.
            with path.open("rb") as file:
                content, stamp = file.read(), os.fstat(file.fileno()).st_mtime_ns
        else:
            # Not by UPath's own methods: s3fs would believe what it listed earlier.
            content, stamp = path.fs.cat_file(path.path), 0
    except FileNotFoundError:
        return None
    holder = None
    with suppress(ValueError, TypeError, KeyError):
        values = json.loads(content)
        stamp = stamp or values.get("time", 0)
        holder = Holder(**{name: values[name] for name in Holder._fields})
    return _Sight(content, stamp, holder)


def _content(holder: Holder, num_signs: int = 0) -> bytes:
    signs = {"signs_of_life": num_signs, "time": time.time_ns()}
    return json.dumps(holder._asdict() | signs).encode()


def _is_here(folder: UPath, holder: Holder) -> bool:
    """Whether the holder's process is one of this machine, which can tell if it runs."""
    # Windows has no signal 0, by which a process is asked.
    is_known = os.name == "posix" and holder.machine == _machine()
    return is_known and holder.folder == _place(folder)


def _place(folder: UPath) -> str:
    return str(folder.absolute())


def _machine() -> str:
    """Where a process number means one process: this host since its start, or a container on it."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(known)


def _birth(pid: int) -> str:
    """When a process started, as later ones have its number again; "" if unknown."""
    state = _process_state(pid)
    return state[19] if len(state) > 19 else ""


def _process_state(pid: int) -> list[str]:
    """Fields of `/proc/<pid>/stat` from the third on, see proc(5); none on other systems."""
    with suppress(OSError):
        # The second one is the program's name, which may have spaces and brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _runs(pid: int, birth: str) -> bool:
    """Whether the process of this number runs, and is the one that started at `birth`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    state = _process_state(pid)
    if state and state[0] in "ZX":  # it was killed, and waits for its parent to take note
        return False
    return not birth or not state or _birth(pid) == birth


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without the user's entry
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"
