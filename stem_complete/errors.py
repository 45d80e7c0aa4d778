"""Errors that a user can act on, each as one line.

Every message has four parts: where, what was expected, what was found, and the fix. The command
line prints it and exits with the class's `exit_code`.
"""

from __future__ import annotations

from functools import partial

from stem_complete.credentials import hidden


def in_one_line(text: str) -> str:
    r"""The text with escapes, such as `\n`, for what a name may hold and a terminal would obey."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class StemCompleteError(Exception):
    """An error with a one-line message for the user.

    Args:
        expected: What should have been there.
        found: What was there instead.
        where: The file, config key or argument; shown as text.
        fix: What to do about it, as an imperative.
    """

    exit_code = 1

    def __init__(self, *, expected: str, found: str, where: object, fix: str = "") -> None:
        # A user's own words come back in these, and they may have a password in them.
        self.expected, self.found, self.fix = hidden(expected), hidden(found), hidden(fix)
        self.where = hidden(in_one_line(str(where)))
        line = f"{self.where}: expected {self.expected}, found {self.found}"
        super().__init__(" ".join((f"{line}; {self.fix}" if fix else line).split()))

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


class TrackingError(StemCompleteError):
    """A tracking server or run that cannot be reached or read."""


class TrainingError(StemCompleteError):
    """A training run that had to stop."""


class CollectiveError(TrainingError):
    """A collective that failed because another worker died or is stuck; a restart may help."""
