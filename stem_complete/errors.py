"""Errors that a user can act on, each as one line.

Every message has four parts: where, what was expected, what was found, and the fix. The command
line prints it and exits with the class's `exit_code`.
"""

from __future__ import annotations

import errno
import re
from functools import partial
from typing import NamedTuple

from stem_complete.credentials import hidden

_REMEDIES = {
    errno.EACCES: "let this user read and write there, or choose another place",
    errno.EPERM: "let its owner do this, or choose another place: permissions alone do not help",
    errno.EROFS: "choose another place: this file system is mounted read-only",
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room: this user's quota is used up",
    errno.EFBIG: "choose another place: this file system takes no files so large",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow this process more open files, with `ulimit -n 65536`",
    errno.ENFILE: "end other programs: the system has too many open files",
    errno.ENOTDIR: "correct the path: a part of it is a file",
    errno.EEXIST: "remove what has that name: a file, or a link that leads nowhere",
    errno.EISDIR: "give a file: this is a folder",
    errno.ELOOP: "correct the links on that path: they lead in a circle",
    errno.ESTALE: "check that it can be reached: the file server lost it, so mount it again",
    errno.EIO: "check that disk or its connection: it fails to read or write",
    errno.ENOMEM: "free memory, or take a larger machine",
    errno.EBUSY: "end the program that uses it",
}

_NO_MEMORY = re.compile(r"OutOfMemory|(out of|enough|allocate) memory", re.IGNORECASE)
"""What torch says, with errors of several classes."""


def remedy(error: OSError) -> str:
    """What a user can do about an error of the system, as an imperative; "" if unknown."""
    if error.errno in _REMEDIES:
        return _REMEDIES[error.errno]
    if isinstance(error, PermissionError):
        return _REMEDIES[errno.EACCES]
    return ""


def system_error_in_one_line(error: OSError) -> str:
    """Where, what happened and the fix: `/data: no space left on device; make room ...`."""
    reason = _reason(error)
    fix = "" if error.errno is None else remedy(error)
    return f"{reason}; {fix}" if fix else reason


def _reason(error: OSError) -> str:
    if error.errno is None or error.strerror is None:
        return hidden(in_one_line(str(error)))
    places = [str(name) for name in (error.filename, error.filename2) if name is not None]
    line = ": ".join((" -> ".join(places), error.strerror.lower())) if places else error.strerror
    return hidden(in_one_line(line))


def in_one_line(text: str) -> str:
    r"""The text with escapes, such as `\n`, for what a name may hold and a terminal would obey."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class Failure(NamedTuple):
    """What became of one of many, such as a scan of a batch, where the others go on.

    Attributes:
        reason: Where and what happened, in one line.
        fix: What to do about it, as an imperative.
    """

    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.fix}"


class StemCompleteError(Exception):
    """An error with a one-line message for the user.

    Args:
        expected: What should have been there.
        found: What was there instead.
        where: The file, config key or argument; shown as text.
        fix: What to do about it, as an imperative.
    """

    exit_code = 1

    def __init__(self, *, expected: str, found: str, where: object, fix: str) -> None:
        # A user's own words come back in these, and they may have a password in them.
        self.expected, self.found, self.fix = hidden(expected), hidden(found), hidden(fix)
        self.where = hidden(in_one_line(str(where)))
        line = f"{self.where}: expected {self.expected}, found {self.found}"
        self.failure = Failure(" ".join(line.split()), " ".join(self.fix.split()))
        super().__init__(str(self.failure))

    def __reduce__(self) -> tuple[object, ...]:
        # Pickle rebuilds exceptions from `args`, and this one takes keywords.
        parts = {"expected": self.expected, "found": self.found, "where": self.where}
        return partial(type(self), **parts, fix=self.fix), ()


class ConfigError(StemCompleteError, ValueError):
    """A config file, override or argument that cannot be used."""

    exit_code = 2


class MissingPackageError(StemCompleteError):
    """An optional package that a command needs and that is not installed."""


class DataError(StemCompleteError, ValueError):
    """An image, scan or dwell map that cannot be used."""


class StoreError(DataError):
    """A micrograph store that cannot be read or written: too new, incomplete, damaged."""


class BusyError(StemCompleteError):
    """A file or folder that another process holds."""


class ArtifactError(StemCompleteError):
    """A checkpoint or model folder that cannot be loaded."""


class RemoteError(StemCompleteError):
    """A completion service that does not answer, or refuses."""


class TrackingError(StemCompleteError):
    """A tracking server or run that cannot be reached or read."""


class TrainingError(StemCompleteError):
    """A training run that had to stop."""


class CollectiveError(TrainingError):
    """A collective that failed because another worker died or is stuck; a restart may help."""


def failure_of(error: Exception) -> Failure:
    """What to tell of any error that one of many fails with, ours or not."""
    if isinstance(error, StemCompleteError):
        return error.failure
    if isinstance(error, OSError):
        return Failure(_reason(error), remedy(error) or "check that it is there and can be read")
    text = hidden(in_one_line(str(error).strip().split("\n")[0]))
    reason = ": ".join(filter(None, (type(error).__name__, text)))
    if isinstance(error, MemoryError) or _NO_MEMORY.search(reason):
        return Failure(reason, _REMEDIES[errno.ENOMEM])
    return Failure(reason, "leave it out, and report it with what it was: the program is at fault")
