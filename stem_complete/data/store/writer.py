"""Appends crops to a micrograph store: whole shards, one writer, safe against a kill.

Written in this order: shards, then facts and records, then the three numbers in the
group's attributes (an atomic replacement of one small file). A process that is killed anywhere
leaves the store as of the last of these; the next writer overwrites the rest.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stem_complete.console import counted
from stem_complete.data.examples import SPLITS
from stem_complete.data.store.cropping import Crop
from stem_complete.data.store.layout import (
    COLUMNS,
    PIXEL_HASHES,
    Compression,
    LeftOut,
    Source,
    StoredDtype,
    array_of,
    check_arrays,
    compression_of,
    create_group,
    create_pixel_hashes,
    open_group,
    shard_file,
    to_json,
)
from stem_complete.data.store.pixel_hash import pixel_hashes
from stem_complete.data.store.scaling import quantise
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import StoreError, remedy
from stem_complete.files import exclusive, sync


class StoredCrop(NamedTuple):
    """A crop as the store keeps it.

    Attributes:
        stored: Numbers [h, w].
        facts: Those in `COLUMNS` that are its own.
        pixel_hashes: By which it is known: its own, which is stored, and those of it flipped.
    """

    stored: NDArray[Any]
    facts: dict[str, float]
    pixel_hashes: tuple[int, ...]


class _Extent(NamedTuple):
    """How much of the store's arrays counts; the names are those of the attributes."""

    num_crops: int
    num_sources: int
    num_left_out: int


class _File(NamedTuple):
    """Rows that the crops of one file add to the store, once all of these are on the disk."""

    facts: list[list[float]]  # of each crop, in the order of COLUMNS
    hashes: list[int]  # of each crop
    sources: list[str]
    left_out: list[str]


class StoreWriter:
    """Appends to the store at `path`, which it holds inside its `with` block.

    Crops count once their shard is full. At the end of the block the last, partly filled shard is
    kept too, unless the block fails. A store that is not there is created; it is removed again if
    nothing was stored.

    Args:
        path: Folder of the store.
        crop_size: Side of the crops [px]; None is the store's own, 512 for a new one.
        dtype: `uint16` or `float32`; None is the store's own, uint16 for a new one.
        compression: `lz4`, `zstd` or `none`; None is the store's own, lz4 for a new one.

    Raises:
        BusyError: Another process is writing.
        StoreError: The store has another crop size, dtype or compression, or the disk is full; the
            store is then as it was after the last full shard.
    """

    def __init__(
        self,
        path: str | Path,
        crop_size: int | None = None,
        dtype: StoredDtype | None = None,
        compression: Compression | None = None,
    ) -> None:
        self.path = Path(path)
        self._crop_size, self._dtype, self._compression = crop_size, dtype, compression
        self._committed = _Extent(0, 0, 0)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with self._told():
                stack.enter_context(exclusive(self.path))
                self._create()
            self._open()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                if self._num_in_block:
                    self._write_shard()
                self._commit()
        finally:
            if self._is_new and not self._committed.num_crops:
                shutil.rmtree(self.path)
            self._held.__exit__(kind, error, traceback)

    def _create(self) -> None:
        self._is_new = not self.path.exists()
        if self._is_new:
            size, dtype = self._crop_size or 512, self._dtype or "uint16"
            create_group(self.path, size, dtype, self._compression or "lz4")

    def _open(self) -> None:
        self._group, attributes = open_group(self.path, "r+")
        self._images = array_of(self._group, "images")
        self._check(attributes)
        if not (self.path / PIXEL_HASHES).exists():
            create_pixel_hashes(self._group, attributes["num_crops"])
        check_arrays(self._group)
        for leftover in self.path.rglob("*.partial"):  # of a writer that was killed
            leftover.unlink(missing_ok=True)
        self._stored_dtype: StoredDtype = attributes["dtype"]
        assert self._images.shards is not None
        self._shard_crops = self._images.shards[0]
        self._committed = _Extent(*(attributes[name] for name in _Extent._fields))
        self._num_on_disk, self._num_sources, _ = self._committed
        self._files: deque[_File] = deque()
        # Crops of the shard that is being filled: those before them in it are there, too.
        self._block: NDArray[Any] | None = None
        self._num_in_block = 0

    def _check(self, attributes: dict[str, Any]) -> None:
        for name, asked, found in (
            ("crop_size", self._crop_size, attributes["crop_size"]),
            ("dtype", self._dtype, attributes["dtype"]),
            ("compression", self._compression, compression_of(self._images)),
        ):
            if found is None:
                raise StoreError(
                    expected="crops in shards as stem-complete writes them",
                    found="other codecs",
                    where=self.path,
                    fix="ingest the files into a new store",
                )
            if asked not in (None, found):
                raise StoreError(
                    expected=f"a store with {name} {asked}",
                    found=f"{name} {found}",
                    where=self.path,
                    fix=f"ingest into a new store or with {name} {found}",
                )

    def quantise(self, crop: Crop) -> StoredCrop:
        """The crop as the store keeps it. Threads can do this side by side."""
        quantised = quantise(crop.pixels, self._stored_dtype)
        known = crop._asdict() | quantised._asdict()
        facts = {name: known[name] for name in known if name in COLUMNS}
        return StoredCrop(quantised.stored, facts, pixel_hashes(crop.pixels))

    def append(
        self,
        sources: Sequence[tuple[Source, Sequence[StoredCrop]]],
        left_out: Iterable[LeftOut] = (),
    ) -> None:
        """Appends the sources of one file with their crops: all of them or, if killed, none."""
        facts, hashes = [], []
        for number, (source, crops) in enumerate(sources, self._num_sources):
            facts += [_row(crop, source, number) for crop in crops]
            hashes += [crop.pixel_hashes[0] for crop in crops]
        self._num_sources += len(sources)
        records = [to_json(source) for source, _ in sources]
        self._files.append(_File(facts, hashes, records, [to_json(record) for record in left_out]))
        for _, crops in sources:
            for crop in crops:
                self._add(crop.stored)

    def _add(self, stored: NDArray[Any]) -> None:
        if not self._num_in_block:
            self._begin_block()
        assert self._block is not None
        self._block[self._num_in_block] = stored
        self._num_in_block += 1
        if self._num_in_block == self._shard_crops:
            self._write_shard()
            self._commit()

    def _begin_block(self) -> None:
        """Puts the crops that the last, partly filled shard holds before those to come."""
        if self._block is None:
            shape = (self._shard_crops, *self._images.shape[1:])
            self._block = np.empty(shape, self._images.dtype)
        self._num_in_block = self._num_on_disk % self._shard_crops
        first = self._num_on_disk - self._num_in_block
        if self._num_in_block:
            there, held = range(first, self._num_on_disk), MicrographStore(self.path)
            # Their checksums are checked, as they will get new ones.
            self._block[: len(there)] = held.read_stored(there, self._images)

    def _write_shard(self) -> None:
        """Writes the block as one whole shard, which zarr then neither reads nor merges."""
        assert self._block is not None
        first = self._num_on_disk // self._shard_crops * self._shard_crops
        stop = first + self._num_in_block
        self._block[self._num_in_block :] = self._images.fill_value  # which is left out
        with self._told():
            self._resize(first + self._shard_crops)
            self._images[first : first + self._shard_crops] = self._block
            sync(self.path / shard_file(self._images, first))
            self._resize(stop)
        self._num_on_disk, self._num_in_block = stop, 0

    def _resize(self, num_crops: int) -> None:
        if self._images.shape[0] != num_crops:
            self._images.resize((num_crops, *self._images.shape[1:]))

    def _commit(self) -> None:
        """Makes count all complete files whose crops are on disk."""
        facts: list[list[float]] = []
        hashes: list[int] = []
        sources: list[str] = []
        left_out: list[str] = []
        old = self._committed
        room = self._num_on_disk - old.num_crops
        while self._files and len(facts) + len(self._files[0].facts) <= room:
            file = self._files.popleft()
            facts += file.facts
            hashes += file.hashes
            sources += file.sources
            left_out += file.left_out
        added = _Extent(len(facts), len(sources), len(left_out))
        new = _Extent(*(before + more for before, more in zip(old, added, strict=True)))
        if new == old:
            return
        with self._told():
            for column, name in enumerate(COLUMNS):
                self._grow(f"crops/{name}", old.num_crops, [row[column] for row in facts])
            self._grow(PIXEL_HASHES, old.num_crops, hashes)
            self._grow("sources", old.num_sources, sources)
            self._grow("left_out", old.num_left_out, left_out)
            # `attrs.update` would write the file once for each of the three numbers.
            self._group.update_attributes(new._asdict())
        self._committed = new

    def _grow(self, name: str, start: int, values: Sequence[float] | Sequence[str]) -> None:
        if not values:
            return
        array = array_of(self._group, name)
        array.resize((start + len(values),))
        array[start:] = np.array(values, dtype=array.dtype)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says of an error of the system, such as a full disk, what became of the store."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                expected="to write",
                found=str(error),
                where=self.path,
                fix=f"{remedy(error) or 'make room'} and run the same again; the store keeps the "
                f"{counted(self._committed.num_crops, 'crop')} it held after the last full shard",
            ) from error


def _row(crop: StoredCrop, source: Source, source_number: int) -> list[float]:
    """Facts of a crop in the order of `COLUMNS`."""
    assert source.split is not None
    size_nm = source.pixel_size_nm
    facts = crop.facts | {
        "pixel_size_nm": np.nan if size_nm is None else size_nm,
        "split": SPLITS.index(source.split),
        "source": source_number,
    }
    return [facts[name] for name in COLUMNS]
