"""What an HDF5 body may have in it: data of its own, that unpack to no more than they announce.

HDF5 can be told to open any file of this machine: by external links, virtual data sets, and data
sets whose bytes lie in other files; and to load a filter of any name. Headers of data sets are read
before any of their bytes, and links before they are followed, so that none of it is ever asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from stem_complete.console import format_bytes
from stem_complete.serving.service.limits import Limits, check_count, check_pixels
from stem_complete.serving.service.problems import Problem, bad, too_large

_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3  # numbers of filters
_FILTERS = {_DEFLATE, _SHUFFLE, _FLETCHER32}
_CHECKSUM_BYTES = 4
_NUMBERS_AND_TEXT = "biufcSV"
_MOST_OBJECTS, _MOST_DEPTH = 2**14, 32
_MOST_CHUNKS = 2**16
_MOST_ATTRIBUTE_BYTES = 2**20
_FEW_TEXTS = 4
_BLOCK = 2**20


def check_hdf5(path: Path, limits: Limits) -> None:
    """Checks all that an HDF5 file has.

    Raises:
        Problem: It leads to another file, announces or packs too much, or is damaged.
    """
    import h5py

    with h5py.File(path, "r") as file, path.open("rb") as content:
        num_bytes = 0
        _check_attributes(file.id, path, limits)
        for item in _objects(file):
            _check_attributes(item, path, limits)
            if isinstance(item, h5py.h5d.DatasetID):
                num_bytes += _check_dataset(item, content, path.stat().st_size, limits)
                _check_size(num_bytes, limits, "all data sets together")


def _objects(file: Any) -> Iterator[Any]:
    """All groups and data sets by hard links, once each; soft links may lead to these data sets.

    Readers go along links, and would do so for ever, or for long, where these meet again.
    """
    import h5py

    known = {_place(file.id)}
    groups = [(file.id, 0)]
    soft: list[tuple[Any, bytes]] = []
    num = 0
    while groups:
        group, depth = groups.pop()
        for name in group:
            num += 1
            check_count(num, _MOST_OBJECTS, "object")
            check_count(depth, _MOST_DEPTH, "group", "another")
            kind = group.links.get_info(name).type
            if kind == h5py.h5l.TYPE_SOFT:
                soft.append((group, name))
                continue
            if kind != h5py.h5l.TYPE_HARD:
                raise _elsewhere("a link to another file")
            item = h5py.h5o.open(group, name)
            if isinstance(item, h5py.h5g.GroupID):
                if _place(item) in known:
                    raise bad("each group once", "a link to one again", "write it without such")
                groups.append((item, depth + 1))
            if _place(item) not in known:
                known.add(_place(item))
                yield item
    for group, name in soft:  # of which none leads through another file any more
        try:
            leads_to = h5py.h5o.open(group, name)
        except KeyError:  # nowhere
            continue
        if not isinstance(leads_to, h5py.h5d.DatasetID):
            raise bad("soft links to data sets", "one to a group", "write it without such links")


def _place(item: Any) -> tuple[int, int]:
    import h5py

    info = h5py.h5o.get_info(item)
    return info.fileno, info.addr


def _check_attributes(item: Any, path: Path, limits: Limits) -> None:
    import h5py

    num = h5py.h5a.get_num_attrs(item)
    check_count(num, _MOST_OBJECTS, "attribute", "an object")
    for number in range(num):
        attribute = h5py.h5a.open(item, index=number)
        num_values = prod(attribute.shape or ())  # of a null one there is no shape
        size = num_values * attribute.get_type().get_size()
        if size > _MOST_ATTRIBUTE_BYTES:
            raise too_large(f"attributes of at most {format_bytes(_MOST_ATTRIBUTE_BYTES)}", "more")
        # References of dimensions to other files, of HDF5 1.12, have no dtype: h5py raises.
        if attribute.dtype.hasobject:
            _check_texts(num_values, path.stat().st_size, limits)


def _check_texts(num: int, file_bytes: int, limits: Limits) -> None:
    """Checks what has any length: each may be as long as the file, as all may be the same one."""
    if num > _FEW_TEXTS and num * file_bytes > limits.expanded_bytes:
        found = f"{num} in a file of {format_bytes(file_bytes)}"
        raise too_large("fewer texts in one array", found)


def _check_dataset(dataset: Any, content: BinaryIO, file_bytes: int, limits: Limits) -> int:
    """Checks a data set; how many bytes it unpacks to."""
    import h5py

    plan = dataset.get_create_plist()
    layout = plan.get_layout()
    if layout == h5py.h5d.VIRTUAL:  # before its shape, which its sources may tell
        raise _elsewhere("a virtual data set")
    if plan.get_external_count():
        raise _elsewhere("a data set whose bytes lie in another file")
    if dataset.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return 0
    shape, dtype = dataset.shape, dataset.dtype
    if h5py.check_string_dtype(dtype) is not None and dtype.hasobject:
        _check_texts(prod(shape), file_bytes, limits)
    elif dtype.hasobject or dtype.kind not in _NUMBERS_AND_TEXT:
        raise bad("numbers", "lists of any length, or references", "leave these out")
    if len(shape) == 1:
        check_count(shape[0], limits.samples, "sample", "a data set")
    if len(shape) > 1:
        check_pixels(shape, limits)
    stored = prod(shape) * dataset.get_type().get_size()
    size = max(stored, prod(shape) * dtype.itemsize)  # in the file, and in memory
    _check_size(size, limits, "data sets")
    offset = dataset.get_offset()  # None of chunks, and of what was never written
    if layout == h5py.h5d.CHUNKED:
        _check_chunks(dataset, plan, content, limits)
    elif offset is not None and offset + stored > file_bytes:
        raise bad(f"{stored} bytes of a data set", "fewer", "check that the file is complete")
    return int(size)


def _check_chunks(dataset: Any, plan: Any, content: BinaryIO, limits: Limits) -> None:
    """Checks that each chunk unpacks to as many bytes as chunks have."""
    shape, sides = dataset.shape, plan.get_chunk()
    check_pixels(sides, limits, "a chunk")
    size = prod(sides) * dataset.get_type().get_size()
    _check_size(size, limits, "chunks")
    num_chunks = prod(-(-whole // side) for whole, side in zip(shape, sides, strict=True))
    check_count(num_chunks, _MOST_CHUNKS, "chunk", "a data set")
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    if len(set(filters)) < len(filters) or not _FILTERS.issuperset(filters):
        raise bad(
            "HDF5 without compression, or with gzip",
            f"filters {', '.join(map(str, filters))}",
            "save it without compression",
        )
    chunks: list[Any] = []
    dataset.chunk_iter(chunks.append)
    for chunk in chunks:
        _check_chunk(chunk, filters, size, content)


def _check_chunk(chunk: Any, filters: list[int], size: int, content: BinaryIO) -> None:
    """Checks one chunk; filters that did not pay are left out of it, as its mask tells."""
    used = [each for place, each in enumerate(filters) if not chunk.filter_mask >> place & 1]
    checksums = used.count(_FLETCHER32) * _CHECKSUM_BYTES
    if _DEFLATE not in used:
        if chunk.size != size + checksums:
            raise _damaged_chunk()
        return
    is_before = _FLETCHER32 in used and used.index(_FLETCHER32) < used.index(_DEFLATE)
    expected = size + (checksums if is_before else 0)
    content.seek(chunk.byte_offset)
    unpacking = zlib.decompressobj()
    left, found = chunk.size, 0
    while left and not unpacking.eof:
        waiting = content.read(min(left, _BLOCK))
        if not waiting:
            break
        left -= len(waiting)
        while waiting and not unpacking.eof:
            found += len(unpacking.decompress(waiting, _BLOCK))
            waiting = unpacking.unconsumed_tail
            if found > expected:
                raise too_large("chunks that unpack to the size that they have", "a larger one")
    if found != expected or not unpacking.eof:
        raise _damaged_chunk()


def _check_size(num_bytes: int, limits: Limits, what: str) -> None:
    if num_bytes > limits.expanded_bytes:
        most = format_bytes(limits.expanded_bytes)
        raise too_large(f"{what} of at most {most}", f"{format_bytes(num_bytes)} or more")


def _damaged_chunk() -> Problem:
    return bad("whole chunks", "a damaged one", "check that the file is complete")


def _elsewhere(found: str) -> Problem:
    return bad("all data in the one file that is sent", found, "copy the data into it")
