"""What headers of microscopes' files announce, checked against the bytes that there are.

RosettaSciIO does as a header says. It loops over counts, which damage makes huge, and copies a text
anew with each of its bytes; that takes minutes, or all memory. So counts that no file of this size
can hold are found before, on the same way through the header, on which values are skipped.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from stem_complete.console import counted, format_bytes
from stem_complete.data.formats.damage import SENSELESS, DamagedError, other_start
from stem_complete.data.formats.mrc import HEADER_BYTES, MrcHeader

_LARGEST_FILE = 2**50  # bytes; there are none so large


def check_announced(path: Path) -> None:
    """Checks the counts in the header of a DM3, DM4, SER, MRC or BCF file.

    Raises:
        DamagedError: The file cannot hold so much.
        struct.error: The header ends early.
    """
    check = _CHECKS.get(path.suffix.lower())
    if check is not None and not other_start(path):  # of which RosettaSciIO says so at once
        with path.open("rb") as file:
            check(_Header(file, path.stat().st_size))


class _Header:
    """The beginning of a file: numbers are read, and what they announce is skipped."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self.file, self.num_bytes = file, num_bytes

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """The next numbers, as `struct` describes them."""
        return struct.unpack(layout, self.file.read(struct.calcsize(layout)))

    def number(self, layout: str) -> int:
        """The next number."""
        return int(self.numbers(layout)[0])

    def skip(self, num_bytes: int, what: str) -> None:
        """Skips bytes that must be there."""
        self.require(self.file.tell() + num_bytes, what, num_bytes)
        self.file.seek(num_bytes, 1)

    def go(self, place: int, what: str) -> None:
        """Goes to a byte, which must be there."""
        self.require(place, what)
        self.file.seek(place)

    def require(self, end: int, what: str, num_bytes: int | None = None) -> None:
        """Checks that the file has `end` bytes; `num_bytes` of these are what is announced."""
        num_bytes = end if num_bytes is None else num_bytes
        if not 0 <= num_bytes < _LARGEST_FILE:
            raise DamagedError(SENSELESS)
        if end > self.num_bytes:
            raise DamagedError(
                f"one that ends after {counted(self.num_bytes, 'byte')}, before all that it "
                f"announces, {format_bytes(num_bytes)} of {what}"
            )


# --- DM3 and DM4: a tree of tags ---------------------------------------------------------------

_DM_BYTES = {2: 2, 3: 4, 4: 2, 5: 4, 6: 4, 7: 8, 8: 1, 9: 1, 10: 1, 11: 8, 12: 8}
"""Bytes of a number, by its type."""

_DM_STRUCT, _DM_TEXT, _DM_ARRAY = 15, 18, 20
_DM_GROUP, _DM_VALUE = 20, 21
_SMALLEST_DM_TAG = 3  # bytes

# What RosettaSciIO copies anew with each byte or field that comes.
_LONGEST_DM_TEXT, _MOST_DM_FIELDS = 2**16, 2**12
# Values that it may read one by one in a file of which an image is lost.
_MOST_DM_SINGLE = 2**20

_DM_WHOLE = {2: "h", 3: "l", 4: "H", 5: "L", 11: "q", 12: "Q"}
_NEEDED_OF_IMAGE = {(): "ImageData", ("ImageData",): "Data"}


def _check_dm(header: _Header) -> None:
    version = header.number(">l")
    if version not in (3, 4):  # which RosettaSciIO says
        return
    header.skip(4 if version == 3 else 8, "size")
    order = "<" if header.number(">l") else ">"
    tags = _DmTags(header, version, order)
    tags.check_group((), has_size=False)
    if tags.lost and tags.num_single > _MOST_DM_SINGLE:
        raise DamagedError(SENSELESS)


class _DmTags:
    """The tags of a file.

    Attributes:
        num_single: Values that RosettaSciIO reads one by one: all but the pixels of images.
        lost: What images lack.
    """

    def __init__(self, header: _Header, version: int, order: str) -> None:
        self.num_single = 0
        self.lost: list[str] = []
        self._header, self._version, self._order = header, version, order
        self._count = "l" if version == 3 else "q"

    def check_group(self, path: tuple[str, ...], *, has_size: bool = True) -> None:
        """Checks a group and all that is in it."""
        header = self._header
        header.skip(2, "tags")
        if has_size and self._version == 4:
            header.skip(8, "tags")
        num_tags = self._number()
        header.require(header.file.tell() + num_tags * _SMALLEST_DM_TAG, "tags", num_tags)
        names: set[str] = set()
        sides: list[int] = []
        for _ in range(num_tags):
            kind, length = header.numbers(">bh")
            header.require(header.file.tell() + length, "names", length)
            name = header.file.read(length).decode("latin-1").replace(".", "")
            names.add(name)
            if kind == _DM_GROUP:
                self.check_group((*path, name))
            elif kind == _DM_VALUE:
                side = self._check_value(is_single=(*path[-1:], name) != ("ImageData", "Data"))
                if path[-2:] == ("ImageData", "Dimensions"):
                    sides.append(side)
            else:
                raise DamagedError(SENSELESS)
        if sides:  # of pixels of a byte at least
            header.require(prod(sides), "pixels")
        needed = _NEEDED_OF_IMAGE.get(path[2:]) if path[:1] == ("ImageList",) else None
        if needed is not None and len(path) > 1 and needed not in names:
            self.lost.append(needed)

    def _check_value(self, *, is_single: bool) -> int:
        """Checks a value, and returns it if it is a whole number, or else 0."""
        header = self._header
        if self._version == 4:
            header.skip(8, "values")
        if header.file.read(4) != b"%%%%":
            raise DamagedError(SENSELESS)
        num_types, kind = self._number(), self._number()
        if num_types == 1 and kind in _DM_WHOLE:
            return header.number(self._order + _DM_WHOLE[kind])
        count = 1
        if num_types > 2 and kind == _DM_ARRAY:
            num_bytes = self._bytes_of(self._number())
            count = self._number()
        else:
            num_bytes = self._bytes_of(kind)
        if is_single:
            self.num_single += count
        # Of values of no bytes there could be any number.
        header.require(header.file.tell() + count * max(1, num_bytes), "values", count)
        header.skip(count * num_bytes, "values")
        return 0

    def _bytes_of(self, kind: int) -> int:
        """Bytes of a value, of which the header goes on to tell the kind."""
        if kind in _DM_BYTES:
            return _DM_BYTES[kind]
        if kind == _DM_TEXT:
            return self._number_up_to(_LONGEST_DM_TEXT)
        if kind == _DM_ARRAY:
            each = self._bytes_of(self._number())
            return each * self._number()
        if kind == _DM_STRUCT:
            self._number()  # of bytes of its name
            num_fields = self._number_up_to(_MOST_DM_FIELDS)
            return sum(self._bytes_of_field() for _ in range(num_fields))
        raise DamagedError(SENSELESS)

    def _bytes_of_field(self) -> int:
        self._number()  # of bytes of its name
        kind = self._number()
        if kind not in _DM_BYTES:
            raise DamagedError(SENSELESS)
        return _DM_BYTES[kind]

    def _number_up_to(self, most: int) -> int:
        number = self._number()
        if not 0 <= number <= most:
            raise DamagedError(SENSELESS)
        return number

    def _number(self) -> int:
        return self._header.number(f">{self._count}")


# --- SER of TIA: a table of places -------------------------------------------------------------

_SER_BYTES = {1: 1, 2: 2, 3: 4, 4: 1, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 16}
"""Bytes of a pixel, by its type."""

_SER_SPECTRA = 0x4120
_MOST_SER_DIMENSIONS = 8  # of which it has two


def _check_ser(header: _Header) -> None:
    header.skip(4, "header")
    version, kind, _, _, num_elements = header.numbers("<HIIII")
    place = "<I" if version <= 0x210 else "<Q"
    places, num_dimensions = header.number(place), header.number("<I")
    if num_dimensions > _MOST_SER_DIMENSIONS:
        raise DamagedError(SENSELESS)
    for _ in range(num_dimensions):
        header.skip(24, "dimensions")
        for what in ("descriptions", "units"):
            header.skip(header.number("<I"), what)
    header.go(places, "places of images")
    if not num_elements:  # which RosettaSciIO says
        return
    first = header.number(place)
    header.require(places + num_elements * struct.calcsize(place), "places of images")
    is_spectrum = kind == _SER_SPECTRA
    header.go(first + (20 if is_spectrum else 40), "images")
    dtype, *shape = header.numbers("<HI" if is_spectrum else "<HII")
    header.require(num_elements * prod(shape) * _SER_BYTES.get(dtype, 1), "pixels")


# --- MRC: a header, and one after it -----------------------------------------------------------


def _check_mrc(header: _Header) -> None:
    mrc = MrcHeader(header.file.read(HEADER_BYTES))
    header.skip(mrc.more_bytes, "a second header")
    header.skip(mrc.pixel_bytes, "pixels")


# --- BCF: files in a file ----------------------------------------------------------------------

_BCF_FILE_BYTES = 512  # of what tells of a file
_BCF_CHUNK_HEADER = 32
_BCF_ROOT = -1


def _check_bcf(header: _Header) -> None:
    header.go(0x128, "a header")
    chunk = header.number("<I")
    per_chunk = (chunk - _BCF_CHUNK_HEADER) // _BCF_FILE_BYTES
    if per_chunk < 1:
        raise DamagedError(SENSELESS)
    header.go(0x140, "a header")
    place, num_files = header.numbers("<II")
    header.require(num_files * _BCF_FILE_BYTES, "names")
    parents: list[int] = []
    while len(parents) < num_files:
        header.go(chunk * place + 0x118, "names")
        place = header.number("<I")
        header.skip(28, "names")
        for _ in range(min(per_chunk, num_files - len(parents))):
            num_bytes, parent = header.numbers("<4xQ28xi468x")
            header.require(num_bytes, "files")
            parents.append(parent)
    for number in range(num_files):
        above = set[int]()
        while number != _BCF_ROOT:
            if number in above or not 0 <= number < num_files:
                raise DamagedError(SENSELESS)
            above.add(number)
            number = parents[number]


_CHECKS = {
    ".dm3": _check_dm,
    ".dm4": _check_dm,
    ".ser": _check_ser,
    ".mrc": _check_mrc,
    ".bcf": _check_bcf,
}
