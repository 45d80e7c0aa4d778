"""What is wrong with a file that its reader cannot read, in words for its owner.

Libraries say it in terms of their own buffers and indices.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import NamedTuple

from stem_complete.console import counted

_HDF5 = (b"\x89HDF\r\n\x1a\n",)
_DIGITAL_MICROGRAPH = (b"\0\0\0\3", b"\0\0\0\4")
_STARTS: dict[str, tuple[bytes, ...]] = {
    ".dm3": _DIGITAL_MICROGRAPH,
    ".dm4": _DIGITAL_MICROGRAPH,
    ".ser": (b"II\x97\x01",),
    ".emi": (b"",),
    ".bcf": (b"AAMVHFSS",),
    ".mrc": (b"",),  # they begin with the shape
    **dict.fromkeys((".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ".png": (b"\x89PNG\r\n\x1a\n",),
    **dict.fromkeys((".npy", ".npz"), (b"\x93NUMPY", b"PK")),
    ".zip": (b"PK",),
    ".ozx": (b"PK",),
    **dict.fromkeys((".emd", ".h5", ".hdf5", ".hspy"), _HDF5),
}
"""How files of each format begin."""

_SUFFIX_OF = {
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"\x89PNG\r\n\x1a\n": ".png",
    b"\x93NUMPY": ".npy",
    b"\x89HDF\r\n\x1a\n": ".h5, or .emd if it is one",
    b"\0\0\0\3": ".dm3",
    b"\0\0\0\4": ".dm4",
    b"II\x97\x01": ".ser",
    b"AAMVHFSS": ".bcf",
}
"""What the names of files end in that begin like no others."""

_ENDS_EARLY = re.compile(
    r"requires a buffer of|greater than file size|truncated file|past end|off end"
    r"|end of (?:file|data)|with a sequence|value of an empty array|cannot reshape"
    r"|failed to read|could only read|input stream too small|not a zip file"
    r"|buffer is smaller|addr overflow|exceeds EOA|not SFS container|Unrecognised mode '0'",
    re.IGNORECASE,
)
"""What readers say of it when bytes are missing."""

_UNKNOWN = (
    (r"RGBA", "a colour image"),
    (r"is encrypted", "an encrypted file"),
    (  # a missing signature is damage of a BCF file
        r"\b(?:compression(?! signature)|codec|plugin)|required filter",
        "a compression that is not supported",
    ),
    (
        r"not supported|unsupported|not implemented|unrecognised mode '[1-9]\d{0,2}'",
        "a form that is not supported",
    ),
)
"""What readers say of what they do not know, and what it is."""

_SMALLEST = 60
"""Bytes that any of these have."""

SENSELESS = "contents that make no sense in this format"

_COPY_AGAIN = "check that the file is complete, and copy it again from where it was recorded"
_SAVE_AGAIN = "save it again from the program that made it, in grey values, without compression"


class DamagedError(Exception):
    """A file that cannot be read; the message says what is wrong with it."""


class UnknownFormError(Exception):
    """A whole file in a form that is not read; the message says which."""


class Damage(NamedTuple):
    """What is wrong with a file, and what to do about it."""

    found: str
    fix: str


def damage(path: Path, error: Exception) -> Damage:
    """What is wrong with the file at `path`, of which a reader says `error`."""
    if start := other_start(path):
        own = _suffix_of(path)
        return Damage(start, f"rename it to end in {own}" if own else _COPY_AGAIN)
    if isinstance(error, DamagedError):
        return Damage(str(error), _COPY_AGAIN)
    if isinstance(error, UnknownFormError):
        return Damage(str(error), _SAVE_AGAIN)
    # Of text Python says that a "codec" cannot decode it.
    for pattern, what in () if isinstance(error, UnicodeError) else _UNKNOWN:
        if re.search(pattern, str(error), re.IGNORECASE):
            return Damage(what, _SAVE_AGAIN)
    return Damage(_found(path, error), _COPY_AGAIN)


def other_start(path: Path) -> str:
    """How a file begins, if those of its format begin otherwise, or else ""."""
    starts = _STARTS.get(path.suffix.lower())
    if not starts or not path.is_file():
        return ""
    with path.open("rb") as file:
        start = file.read(16)
    if any(start.startswith(each[: len(start)]) for each in starts):
        return ""
    return f"another start than such files have, {_shown(start)}"


def _suffix_of(path: Path) -> str:
    """What the name of a file should end in, by how it begins; "" if that tells nothing."""
    with path.open("rb") as file:
        start = file.read(16)
    return next((own for known, own in _SUFFIX_OF.items() if start.startswith(known)), "")


def _found(path: Path, error: Exception) -> str:
    has_start = path.suffix.lower() in _STARTS
    if path.is_file():
        num_bytes = path.stat().st_size
        is_short = has_start and num_bytes < _SMALLEST
        if is_short or isinstance(error, struct.error) or _ENDS_EARLY.search(str(error)):
            return f"one that ends after {counted(num_bytes, 'byte')}, before all that it announces"
    if has_start:
        return SENSELESS
    if isinstance(error, (AttributeError, IndexError, KeyError, TypeError)):  # the reader tripped
        return f"what its reader cannot follow ({type(error).__name__}: {_first_line(error)})"
    return _first_line(error)


def _shown(start: bytes) -> str:
    if not any(start):
        return "zeros alone"
    text = start.decode("ascii", "replace").split("\n")[0]
    return repr(text) if text.isprintable() and text.isascii() else start[:8].hex(" ")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
