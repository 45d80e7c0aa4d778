"""Media types: what a body is, and in which of our formats an answer is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from stem_complete.serving.service.problems import Problem

NPY, NPZ = "application/x-npy", "application/x-npz"
TIFF, PNG, JSON, ZIP = "image/tiff", "image/png", "application/json", "application/zip"
CSV, PARQUET, HDF5 = "text/csv", "application/vnd.apache.parquet", "application/x-hdf5"
FORM, BYTES = "multipart/form-data", "application/octet-stream"
EVENTS = "text/event-stream"

ANSWERS = (NPZ, NPY, TIFF, PNG, ZIP, JSON)
"""Formats of a completion; the first is given to whoever takes any."""

SUFFIXES = {
    NPY: ".npy",
    NPZ: ".npz",
    TIFF: ".tif",
    PNG: ".png",
    CSV: ".csv",
    PARQUET: ".parquet",
    HDF5: ".h5",
}
"""Of bodies, by their media type."""

_ALIASES = {
    "application/npy": NPY,
    "application/npz": NPZ,
    "image/tif": TIFF,
    "application/x-parquet": PARQUET,
    "application/parquet": PARQUET,
    "text/tab-separated-values": CSV,
    "application/x-hdf": HDF5,
}
BY_SUFFIX = {suffix: media for media, suffix in SUFFIXES.items()} | {
    ".tiff": TIFF,
    ".tsv": CSV,
    ".hdf5": HDF5,
    ".hspy": HDF5,
}
"""Media types of bodies by the suffixes of their files."""


class _Wanted(NamedTuple):
    media: str
    quality: float


def plain_type(header: str) -> str:
    """A `Content-Type` without parameters, in our spelling."""
    media = header.partition(";")[0].strip().lower()
    return _ALIASES.get(media, media)


def body_type(content_type: str, file_name: str = "") -> str:
    """The media type of a scan: by its `Content-Type`, or else by the suffix of its file.

    Raises:
        Problem: 415, if it is none of ours.
    """
    media = plain_type(content_type)
    if media in ("", BYTES, "application/zip"):
        name = file_name.lower()
        media = BY_SUFFIX.get(name[name.rfind(".") :] if "." in name else "", media)
    if media in SUFFIXES:
        return media
    raise Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        expected=f"Content-Type {', '.join(SUFFIXES)}, or a form with parts of these",
        found=media or "none",
        fix="send the header Content-Type, such as `curl -H 'Content-Type: image/tiff'`",
        where="Content-Type",
        headers={"Accept-Post": ", ".join([*SUFFIXES, FORM])},
    )


def negotiated(accept: str, offered: Sequence[str] = ANSWERS) -> str:
    """The best of the offered types for an `Accept` header (RFC 9110, section 12.5.1).

    Raises:
        Problem: 406, if none is acceptable.
    """
    wanted = [_parsed(part) for part in (accept or "*/*").split(",") if part.strip()]
    best, best_quality = "", 0.0
    for media in offered:
        matches = [(_closeness(each.media, media), each.quality) for each in wanted]
        closest = max(matches, default=(0, 0.0))
        quality = closest[1] if closest[0] else 0.0
        if quality > best_quality:
            best, best_quality = media, quality
    if best:
        return best
    raise Problem(
        HTTPStatus.NOT_ACCEPTABLE,
        expected=f"Accept with one of {', '.join(offered)}",
        found=accept,
        fix="ask for one of these",
        where="Accept",
    )


def _parsed(part: str) -> _Wanted:
    media, *parameters = (each.strip() for each in part.lower().split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return _Wanted(_ALIASES.get(media, media), quality if 0 <= quality <= 1 else 0.0)


def _closeness(wanted: str, media: str) -> int:
    """How closely a range matches: 3 for the type itself, 0 if it does not."""
    if wanted == media:
        return 3
    if wanted == f"{media.partition('/')[0]}/*":
        return 2
    return int(wanted == "*/*")
