"""What a body announces in its headers, checked before anything is decoded or allocated.

A few bytes can announce gigabytes: an array's shape, a deflated member, a chain of pages. Readers
do as headers say; so what is larger than the limits, or than the bytes that there are, is found
first.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from stem_complete.console import format_bytes
from stem_complete.serving.service.hdf5 import check_hdf5
from stem_complete.serving.service.limits import Limits, check_count, check_pixels
from stem_complete.serving.service.media import CSV, HDF5, NPY, NPZ, PARQUET, PNG, TIFF
from stem_complete.serving.service.problems import Problem, bad, too_large

_LONGEST_NPY_HEADER = 10_000
_NUMBERS, _TEXTS = "biuf", "SU"
_MOST_DIMENSIONS = 3
_TIFF_CODECS = {1, 5, 8, 32773, 32946, 34925, 50000}
"""None, LZW, deflate, PackBits, LZMA, Zstandard: what microscopes and ImageJ write losslessly."""
_BLOCK = 2**20


def check_announced(path: Path, media: str, limits: Limits) -> None:
    """Checks what a body says of itself.

    Args:
        path: The body, in a file.
        media: Its media type.
        limits: What is taken.

    Raises:
        Problem: 413 if it announces too much, 422 if it is damaged or of another format.
    """
    try:
        _CHECKS[media](path, limits)
    except Problem:
        raise
    except Exception as error:  # damaged headers make parsers fail in any way
        raise bad(
            f"a readable body of {media}",
            f"a damaged one ({type(error).__name__})",
            "check that the file is complete, and that Content-Type is its format",
        ) from error


def _npy(path: Path, limits: Limits) -> None:
    with path.open("rb") as file:
        shape, dtype = _array_header(file, limits, "the array")
        left = path.stat().st_size - file.tell()
    if dtype.kind not in _NUMBERS:
        raise bad("an array of numbers", f"dtype {dtype.kind}", "save it as integers or floats")
    _check_there(shape, dtype, left, "the array")


def _npz(path: Path, limits: Limits) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_count(len(members), limits.members, "array")
        num_bytes = sum(member.file_size for member in members)
        if num_bytes > limits.expanded_bytes:
            raise too_large(
                f"arrays of at most {format_bytes(limits.expanded_bytes)}", format_bytes(num_bytes)
            )
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise bad("members as np.savez writes them", "another compression", "use np.savez")
            name = f"`{member.filename[:40]}`"
            if member.flag_bits & 1 or not member.filename.endswith(".npy"):
                raise bad("arrays alone, as np.savez writes them", name, "use np.savez")
            with archive.open(member) as file:
                shape, dtype = _array_header(file, limits, name)
                _check_there(shape, dtype, member.file_size - file.tell(), name)


def _array_header(file: IO[bytes], limits: Limits, name: str) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of an array, whose pixels are not read."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise bad("NPY of version 1 or 2", f"{version}", "save it with np.save")
    shape, _, dtype = read(file, max_header_size=_LONGEST_NPY_HEADER)
    if dtype.hasobject or dtype.kind not in _NUMBERS + _TEXTS:
        raise bad(
            f"numbers in {name}",
            "Python objects (a pickle), which could run code" if dtype.hasobject else f"{dtype}",
            "save arrays of integers or floats",
        )
    if any(side < 0 for side in shape):
        raise bad(f"a shape of {name}", f"{shape}", "check that the file is complete")
    if len(shape) > _MOST_DIMENSIONS:
        raise bad(
            f"at most {_MOST_DIMENSIONS} dimensions in {name}",
            f"{shape}",
            "send one scan at a time",
        )
    if len(shape) > 1:
        check_pixels(shape, limits, name)
    if prod(shape) * dtype.itemsize > limits.expanded_bytes:
        raise too_large(f"{name} of at most {format_bytes(limits.expanded_bytes)}", f"{shape}")
    return shape, dtype


def _check_there(shape: tuple[int, ...], dtype: Any, left: int, name: str) -> None:
    """Checks that there are as many bytes as a header announces."""
    if (wanted := prod(shape) * dtype.itemsize) > left:
        raise bad(f"{wanted} bytes of {name}", f"{left}", "check that the file is complete")


def _tiff(path: Path, limits: Limits) -> None:
    _check_pages(path, limits)
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        # OME-XML may name other files, which tifffile would open wherever they are said to lie.
        if tiff.is_ome and "FileName" in (tiff.ome_metadata or ""):
            raise bad("one file", "OME-TIFF that names others", "save it as one TIFF")
        for page in tiff.pages:
            _check_page(page, limits)
        num_bytes = 0
        for series in tiff.series:
            check_pixels(series.shape, limits)
            num_bytes += series.size * series.dtype.itemsize
        if num_bytes > limits.expanded_bytes:
            raise too_large(
                f"images of at most {format_bytes(limits.expanded_bytes)}", format_bytes(num_bytes)
            )


def _check_page(page: Any, limits: Limits) -> None:
    check_pixels((page.imagelength, page.imagewidth * page.samplesperpixel), limits)
    if page.is_tiled:
        check_pixels((page.tilelength, page.tilewidth * page.samplesperpixel), limits, "a tile")
    if int(page.compression) not in _TIFF_CODECS:
        raise bad(
            "TIFF without compression, or with LZW, deflate, PackBits, LZMA or Zstandard",
            f"compression {int(page.compression)}",
            "save it without compression",
        )


def _check_pages(path: Path, limits: Limits) -> None:
    """Counts pages by following their chain, which may be long, or lead in a circle."""
    size = path.stat().st_size
    with path.open("rb") as file:
        order = {b"II": "<", b"MM": ">"}[file.read(2)]
        (version,) = struct.unpack(f"{order}H", file.read(2))
        is_big = {42: False, 43: True}[version]
        count, offset, entry = ("Q", "Q", 20) if is_big else ("H", "I", 12)
        if is_big:
            file.seek(8)
        place = _number(file, order + offset)
        num_pages = 0
        while place:
            num_pages += 1
            check_count(num_pages, limits.members, "page")
            if place >= size:
                raise bad("pages in the file", "one behind its end", "check that it is complete")
            file.seek(place)
            num_tags = _number(file, order + count)
            check_count(num_tags, 4096, "tag")
            file.seek(num_tags * entry, 1)
            place = _number(file, order + offset)


def _number(file: BinaryIO, code: str) -> int:
    (value,) = struct.unpack(code, file.read(struct.calcsize(code)))
    return int(value)


def _png(path: Path, limits: Limits) -> None:
    with path.open("rb") as file:
        beginning = file.read(33)
    if beginning[:8] != b"\x89PNG\r\n\x1a\n" or beginning[12:16] != b"IHDR":
        raise bad("PNG", "another format", "send the header Content-Type that fits the file")
    width, height = struct.unpack(">II", beginning[16:24])
    check_pixels((height, width), limits)


def _csv(path: Path, limits: Limits) -> None:
    num_rows, widest, rest = 0, 0, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            num_rows += block.count(b"\n") + block.count(b"\r")
            check_count(num_rows, 2 * limits.samples, "line")
            lines = (rest + block).split(b"\n")
            rest = lines[-1]
            widest = max(widest, *map(len, lines))
            check_count(widest, _BLOCK, "byte", "a line")
    if b"\0" in path.read_bytes()[:_BLOCK]:
        raise bad("text", "binary content", "send the header Content-Type that fits the file")


def _parquet(path: Path, limits: Limits) -> None:
    from stem_complete.extras import require

    require("pyarrow", purpose="Parquet")
    from pyarrow import parquet, types

    with parquet.ParquetFile(path) as file:
        check_count(file.metadata.num_rows, limits.samples, "row")
        check_count(file.metadata.num_columns, limits.members, "column")
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        check_count(sum(g.total_byte_size for g in groups), limits.expanded_bytes, "byte")
        for field in file.schema_arrow:
            # Text and lists may be packed a million to one.
            if not (types.is_integer(field.type) or types.is_floating(field.type)):
                raise bad(
                    "columns of numbers", f"`{field.name[:40]}` of {field.type}", "leave it out"
                )


_CHECKS: dict[str, Callable[[Path, Limits], None]] = {
    NPY: _npy,
    NPZ: _npz,
    TIFF: _tiff,
    PNG: _png,
    CSV: _csv,
    PARQUET: _parquet,
    HDF5: check_hdf5,
}
