"""Pixels of MRC files have the sign and the byte order that the header says."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from stem_complete.data.formats.micrographs import read_file, read_micrograph
from stem_complete.data.formats.mrc import MrcHeader
from stem_complete.errors import DataError

BYTES = np.random.default_rng(0).integers(0, 256, (24, 32)).astype(np.uint8)
MODES = {"u1": 0, "i1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}
UNTOLD = (0.0, -1.0)  # lowest above highest value: the standard's way to leave them open


def mrc(
    pixels: NDArray[Any],
    *,
    order: Literal["<", ">"] = "<",
    values: tuple[float, float] = UNTOLD,
    imod_flags: int | None = None,
    mode: int | None = None,
) -> bytes:
    """A file by MRC2014 (https://www.ccpem.ac.uk/mrc-format/mrc2014/), with IMOD's own fields."""
    height, width = pixels.shape
    header = bytearray(1024)
    mode = MODES[pixels.dtype.str[1:]] if mode is None else mode
    struct.pack_into(f"{order}4i", header, 0, width, height, 1, mode)
    lengths = (3.0 * width, 3.0 * height, 3.0)  # [angstrom]
    struct.pack_into(f"{order}3i6f", header, 28, width, height, 1, *lengths, 90, 90, 90)
    struct.pack_into(f"{order}3i", header, 64, 1, 2, 3)
    struct.pack_into(f"{order}2f", header, 76, *values)
    if imod_flags is not None:
        struct.pack_into(f"{order}2I", header, 152, 1146047817, imod_flags)
    header[208:212] = b"MAP "
    header[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
    return bytes(header) + pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize(
    ("imod_flags", "values", "dtype"),
    [
        (None, UNTOLD, "i1"),  # the standard
        (None, (-128, 127), "i1"),
        (None, (0, 127), "i1"),
        (None, (0, 255), "u1"),
        (None, (3, 130), "u1"),
        (0, (-128, 127), "u1"),
        (1, (0, 255), "i1"),
        (4, UNTOLD, "u1"),
        (5, UNTOLD, "i1"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_bytes_have_a_sign_if_imod_says_so_or_by_the_standard(
    tmp_path: Path,
    order: Literal["<", ">"],
    imod_flags: int | None,
    values: tuple[float, float],
    dtype: str,
) -> None:
    pytest.importorskip("rsciio")
    path = tmp_path / "a.mrc"
    path.write_bytes(mrc(BYTES, order=order, values=values, imod_flags=imod_flags))
    pixels = read_micrograph(path).pixels
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, BYTES.view(dtype))


@pytest.mark.parametrize("dtype", ["i2", "f4", "u2", "f2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_order(tmp_path: Path, order: Literal["<", ">"], dtype: str) -> None:
    pytest.importorskip("rsciio")
    path = tmp_path / "a.mrc"
    path.write_bytes(mrc((BYTES * 3.0).astype(dtype), order=order))
    micrograph = read_micrograph(path)
    assert micrograph.pixels.dtype == dtype
    np.testing.assert_array_equal(micrograph.pixels, BYTES * 3.0)
    assert micrograph.pixel_size_nm == pytest.approx(0.3)


@pytest.mark.parametrize(("imod_flags", "mode"), [(16, 0), (None, 101)])
def test_half_bytes_are_refused(tmp_path: Path, imod_flags: int | None, mode: int) -> None:
    pytest.importorskip("rsciio")
    path = tmp_path / "a.mrc"
    path.write_bytes(mrc(BYTES, imod_flags=imod_flags, mode=mode))
    with pytest.raises(DataError, match=r"pixels of 4 bits, which are not supported; save it agai"):
        read_file(path)


def test_a_header_says_how_many_bytes_follow() -> None:
    header = MrcHeader(mrc(BYTES.astype(np.float32))[:1024])
    assert (header.pixel_bytes, header.more_bytes) == (24 * 32 * 4, 0)
