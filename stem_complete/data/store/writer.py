"""Appends crops to a micrograph store: whole shards, one writer, safe against a kill.

Written in this order: shards, then facts and records, then the three numbers in the
group's attributes (an atomic replacement of one small file). A process that is killed anywhere
leaves the store as of the last of these; the next writer overwrites the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from stem_complete.data.examples import SPLITS
from stem_complete.data.store.layout import (
    COLUMNS,
    LeftOut,
    Source,
    StoredDtype,
    create_group,
    open_group,
    open_images,
    to_json,
)
from stem_complete.data.store.lock import writing
from stem_complete.data.store.shards import Compression, DamagedShardError, NewShard, ShardReader
from stem_complete.errors import StoreError


class NewCrop(NamedTuple):
    """A crop [h, w] to store and its place in its source."""

    pixels: NDArray[Any]
    frame: int
    row: int
    column: int


class EncodedCrop(NamedTuple):
    """A crop as the store keeps it: its bytes, and the facts in `COLUMNS` that are its own."""

    stored: bytes
    facts: dict[str, float]


class _Extent(NamedTuple):
    """How much of the store's arrays counts."""

    num_crops: int
    num_sources: int
    num_left_out: int


class StoreWriter:
    """Appends to the store at `path`, for which it holds the lock inside its `with` block.

    Crops count once their shard is full. At the end of the block the last, partly filled shard is
    kept too, unless the block fails. A store that is not there is created; it is removed again if
    nothing was stored.

    Args:
        path: Folder of the store.
        crop_size: Side of the crops [px]; None is the store's own, 512 for a new one.
        dtype: `uint16` or `float32`; None is the store's own, uint16 for a new one.
        compression: `lz4`, `zstd` or `none`; None is the store's own, lz4 for a new one.

    Raises:
        StoreError: Another process is writing, the store has another crop size, dtype or
            compression, or the disk is full; the store is then as it was after the last full shard.
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
        self._lock = writing(self.path)
        self._committed = _Extent(0, 0, 0)

    def __enter__(self) -> Self:
        try:
            self._lock.__enter__()
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._start()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                if self._shard is not None:
                    self._finish_shard(self._shard)
                self._commit()
        finally:
            if self._shard is not None:
                self._shard.discard()
            if self._is_new and not self._committed.num_crops:
                shutil.rmtree(self.path)
            self._lock.__exit__(kind, error, traceback)

    def _start(self) -> None:
        self._is_new = not self.path.exists()
        if self._is_new:
            try:
                create_group(
                    self.path,
                    self._crop_size or 512,
                    self._dtype or "uint16",
                    self._compression or "lz4",
                )
            except OSError as error:
                raise self._failed(error) from error
        self._group, attributes = open_group(self.path, "r+")
        self._images, self._codec = open_images(self._group, self.path)
        for name, asked, found in (
            ("crop_size", self._crop_size, attributes["crop_size"]),
            ("dtype", self._dtype, attributes["dtype"]),
            ("compression", self._compression, self._codec.compression),
        ):
            if asked not in (None, found):
                raise StoreError(
                    expected=f"a store with {name} {asked}",
                    found=f"{name} {found}",
                    where=self.path,
                    fix=f"ingest into a new store or with {name} {found}",
                )
        for leftover in self.path.rglob("*.partial"):  # of a writer that was killed
            leftover.unlink(missing_ok=True)
        self._stored_dtype: StoredDtype = attributes["dtype"]
        self._shard_crops: int = self._images.shards[0]  # type: ignore[index]
        self._committed = _Extent(*(attributes[name] for name in _Extent._fields))
        self._extents = [self._committed]
        self._on_disk = self._committed.num_crops
        self._shard: NewShard | None = None
        self._facts: dict[str, list[float]] = {name: [] for name in COLUMNS}
        self._sources: list[str] = []
        self._left_out: list[str] = []

    def encode(self, crop: NewCrop) -> EncodedCrop:
        """The crop as the store keeps it. Threads can do this side by side."""
        stored, minimum, maximum, offset, scale = quantise(crop.pixels, self._stored_dtype)
        facts = {
            "minimum": minimum,
            "maximum": maximum,
            "offset": offset,
            "scale": scale,
            "frame": crop.frame,
            "row": crop.row,
            "column": crop.column,
        }
        return EncodedCrop(self._codec.encode(stored), facts)

    def append(
        self,
        sources: Iterable[tuple[Source, Sequence[EncodedCrop]]],
        left_out: Iterable[LeftOut] = (),
    ) -> None:
        """Appends the sources of one file with their crops: all of them or, if killed, none."""
        num_crops, num_sources, num_left_out = self._extents[-1]
        for source, crops in sources:
            for crop in crops:
                self._add(crop, source, num_sources)
            self._sources.append(to_json(source))
            num_crops += len(crops)
            num_sources += 1
        rows = [to_json(record) for record in left_out]
        self._left_out += rows
        self._extents.append(_Extent(num_crops, num_sources, num_left_out + len(rows)))

    def _add(self, crop: EncodedCrop, source: Source, source_number: int) -> None:
        assert source.split is not None
        size_nm = source.pixel_size_nm
        facts = crop.facts | {
            "pixel_size_nm": np.nan if size_nm is None else size_nm,
            "split": SPLITS.index(source.split),
            "source": source_number,
        }
        for name, values in self._facts.items():
            values.append(facts[name])
        try:
            shard = self._shard or self._begin_shard()
            shard.append(crop.stored)
        except OSError as error:
            raise self._failed(error) from error
        if len(shard) == self._shard_crops:
            self._finish_shard(shard)
            self._shard = None
            self._commit()

    def _begin_shard(self) -> NewShard:
        """Starts a shard with the crops that the last, partly filled one holds."""
        place, num_crops = divmod(self._on_disk, self._shard_crops)
        images = self.path / "images"
        self._shard = shard = NewShard(images, place, self._shard_crops)
        reader = ShardReader(images, self._codec, self._shard_crops)
        try:
            for number in range(self._on_disk - num_crops, self._on_disk):
                shard.append(reader.read_stored(number))
        except (DamagedShardError, FileNotFoundError) as error:
            raise StoreError(
                expected="a store without damage to append to",
                found=str(error),
                where=self.path,
                fix="restore it from a copy or ingest the files into a new store",
            ) from error
        return shard

    def _finish_shard(self, shard: NewShard) -> None:
        stop = self._on_disk // self._shard_crops * self._shard_crops + len(shard)
        try:
            shard.finish()
            self._images.resize((stop, *self._images.shape[1:]))
        except OSError as error:
            raise self._failed(error) from error
        self._on_disk = stop

    def _commit(self) -> None:
        """Makes count all complete files whose crops are on disk."""
        done = [extent for extent in self._extents if extent.num_crops <= self._on_disk][-1]
        old = self._committed
        if done == old:
            return
        try:
            for name, values in self._facts.items():
                count = done.num_crops - old.num_crops
                self._grow(f"crops/{name}", old.num_crops, values[:count])
            self._grow(
                "sources", old.num_sources, self._sources[: done.num_sources - old.num_sources]
            )
            self._grow(
                "left_out", old.num_left_out, self._left_out[: done.num_left_out - old.num_left_out]
            )
            # `attrs.update` would write the file once for each of the three numbers.
            self._group.update_attributes(done._asdict())
        except OSError as error:
            raise self._failed(error) from error
        self._facts = {
            name: values[done.num_crops - old.num_crops :] for name, values in self._facts.items()
        }
        self._sources = self._sources[done.num_sources - old.num_sources :]
        self._left_out = self._left_out[done.num_left_out - old.num_left_out :]
        self._extents = self._extents[self._extents.index(done) :]
        self._committed = done

    def _grow(self, name: str, start: int, values: Sequence[float] | Sequence[str]) -> None:
        if not values:
            return
        array = self._array(name)
        array.resize((start + len(values),))
        array[start:] = np.array(values, dtype=array.dtype)

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            expected="to write",
            found=str(error),
            where=self.path,
            fix=f"make room and run the same again; the store keeps the "
            f"{self._committed.num_crops} crops it held after the last full shard",
        )


def quantise(pixels: NDArray[Any], dtype: str) -> tuple[NDArray[Any], float, float, float, float]:
    """(stored, minimum, maximum, offset, scale) of a crop; value = offset + scale * stored.

    uint16 is exact for whole numbers that span up to 65,535 levels, and within 1/131,070 of the
    crop's range otherwise. float32 stores the values themselves.
    """
    if dtype == "float32":
        stored = pixels.astype(np.float32)
        return stored, float(stored.min()), float(stored.max()), 0.0, 1.0
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind == "u" and int(high) - int(low) <= _LEVELS:
        stored = (pixels - low).astype(np.uint16, copy=False)
        return stored, float(low), float(high), float(low), 1.0
    values = pixels.astype(np.float64)
    minimum, maximum = float(low), float(high)
    span = maximum - minimum
    if span <= _LEVELS and (values == np.rint(values)).all():
        return (values - minimum).astype(np.uint16), minimum, maximum, minimum, 1.0
    stored = np.rint((values - minimum) * (_LEVELS / span)).astype(np.uint16)
    return stored, minimum, maximum, minimum, span / _LEVELS


_LEVELS = 65_535
