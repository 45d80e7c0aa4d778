"""The header of MRC files, by the standard MRC2014.

Cheng et al. 2015, doi:10.1016/j.jsb.2015.04.002, and the notes of IMOD on its own fields.

RosettaSciIO takes every file for one in Intel's byte order, and bytes for numbers without sign.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any, Literal

HEADER_BYTES = 1024

_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}
"""Bytes of a pixel, by the mode of the file."""

_BIG_ENDIAN = 0x11
_IMOD, _SIGNED, _HALF_BYTES = 1146047817, 1, 16  # its mark, and flags that hold with it


class MrcHeader:
    """What counts of a header here.

    Attributes:
        order: Byte order, "<" or ">".
        more_bytes: Of the header after this one.
        pixel_bytes: Of all pixels; 0 if they are of a kind that is not read.
        has_signed_bytes: Whether pixels are bytes with a sign.
        has_half_bytes: Whether they are two to a byte, which is not read.

    Args:
        header: The first 1024 bytes.

    Raises:
        struct.error: They are fewer.
    """

    def __init__(self, header: bytes) -> None:
        self.order: Literal["<", ">"] = ">" if header[212:213] == bytes([_BIG_ENDIAN]) else "<"
        *shape, mode = self._numbers("4I", header, 0)
        [self.more_bytes] = self._numbers("I", header, 92)
        self.pixel_bytes = prod(shape) * _BYTES.get(mode, 0)
        stamp, flags = self._numbers("2I", header, 152)
        flags = flags if stamp == _IMOD else None
        self.has_half_bytes = mode == 101 or (mode == 0 and bool((flags or 0) & _HALF_BYTES))
        self.has_signed_bytes = mode == 0 and self._is_signed(header, flags)

    def _is_signed(self, header: bytes, flags: int | None) -> bool:
        """Whether bytes have a sign: by IMOD's flags, or else as the standard has it.

        Many bytes without one were written before the standard. Their highest value tells them.
        """
        if flags is not None:
            return bool(flags & _SIGNED)
        lowest, highest = self._numbers("2f", header, 76)
        return not (lowest >= 0 and highest > 127)

    def _numbers(self, layout: str, header: bytes, place: int) -> tuple[Any, ...]:
        return struct.unpack_from(self.order + layout, header, place)
