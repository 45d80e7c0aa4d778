"""Micrographs on disk: a zarr store of crops, read by number. `layout` tells its layout.

Written by `writer.StoreWriter`, one process at a time; read by any number of processes.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from stem_complete.data.examples import SPLITS, Split
from stem_complete.data.store.layout import (
    PIXEL_HASHES,
    LeftOut,
    Source,
    StoredDtype,
    array_of,
    damaged,
    open_group,
    open_images,
    rows_of,
    shard_file,
    unreadable,
)
from stem_complete.data.store.pixel_hash import UNKNOWN
from stem_complete.data.store.scaling import to_stored, to_unit_range
from stem_complete.errors import StoreError

Record = TypeVar("Record", Source, LeftOut)

# They take longer to make than to use.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)

_IDENTITY = ("split", "frame", "row", "column", "minimum", "maximum", "offset", "scale")
"""Columns that, with the hash of the file, say what a crop is."""

_OF_SOURCE: dict[str, Callable[[int, Source], float]] = {
    "source": lambda number, _: number,
    "split": lambda _, source: -1 if source.split is None else SPLITS.index(source.split),
    "pixel_size_nm": lambda _, source: source.pixel_size_nm or math.nan,
}
"""Columns that follow from the records of sources, by number and record."""


class CropRecord(NamedTuple):
    """Where a crop comes from.

    Attributes:
        source: Its file and signal.
        split: Its split.
        frame: Number of its frame in the signal.
        row: First row [px] in the frame.
        column: First column [px].
    """

    source: Source
    split: Split
    frame: int
    row: int
    column: int


class MicrographStore:
    """The crops that the store at `path` held when this object was made, as `Examples`.

    Crops that are appended later do not change it. Files are opened where they are first read;
    a pickled store carries none, so it can be sent to worker processes.

    Args:
        path: Folder of the store.

    Raises:
        StoreError: There is no store, or one of a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _, attributes = open_group(self.path)
        self.crop_size: int = attributes["crop_size"]
        self.dtype: StoredDtype = attributes["dtype"]
        self.num_sources: int = attributes["num_sources"]
        self.num_left_out: int = attributes["num_left_out"]
        self.num_crops: int = attributes["num_crops"]
        self._images: zarr.Array[Any] | None = None
        self._columns: dict[str, NDArray[Any]] = {}
        self._sources: list[Source] | None = None

    def __len__(self) -> int:
        return self.num_crops

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": None, "_columns": {}, "_sources": None}

    def read(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Crops [b, 1, h, w] float32, each scaled to [-1, 1] by its own minimum and maximum.

        Args:
            indices: Numbers of the crops [b], in any order.

        Raises:
            StoreError: The store is damaged there.
        """
        indices = self._checked(indices)
        images = np.empty((len(indices), 1, self.crop_size, self.crop_size), np.float32)
        # One by one, as a crop then stays in the processor's cache.
        for [image], crop in zip(images, self._stored(indices), strict=True):
            to_unit_range(*crop, out=image)
        return images

    def read_stored(
        self, indices: ArrayLike, images: zarr.Array[Any] | None = None
    ) -> NDArray[Any]:
        """Crops [b, h, w] as numbers of the store's dtype, read through `images`; raises as `read`.

        zarr's own pipeline, with which `images` may have been opened, checks every checksum.
        """
        if images is not None:
            self._images = images
        indices = self._checked(indices)
        crops = np.empty((len(indices), self.crop_size, self.crop_size), self.dtype)
        for crop, (stored, _, _) in zip(crops, self._stored(indices), strict=True):
            crop[...] = stored
        return crops

    def records(self, indices: ArrayLike) -> list[CropRecord]:
        """Where the crops come from."""
        sources = self.sources()
        return [
            CropRecord(
                source=sources[self.column("source")[i]],
                split=SPLITS[self.column("split")[i]],
                frame=int(self.column("frame")[i]),
                row=int(self.column("row")[i]),
                column=int(self.column("column")[i]),
            )
            for i in self._checked(indices)
        ]

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Numbers of the crops of a split, ascending."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return np.flatnonzero(self.column("split") == SPLITS.index(split)).astype(np.int64)

    @property
    def counts(self) -> dict[Split, int]:
        """Crops in each split."""
        numbers = np.bincount(self.column("split"), minlength=len(SPLITS))
        return {split: int(number) for split, number in zip(SPLITS, numbers, strict=True)}

    def sources(self) -> list[Source]:
        """The signals that were ingested, in order."""
        if self._sources is None:
            self._sources = self._records("sources", self.num_sources, Source)
        return self._sources[: self.num_sources]  # `first` may have read more

    def left_out(self) -> list[LeftOut]:
        """The crops that were not stored, with the reason."""
        return self._records("left_out", self.num_left_out, LeftOut)

    def first(self, count: int) -> Self:
        """The store as it was when it held `count` crops."""
        if not 0 <= count <= len(self):
            raise ValueError(f"count must be 0 to {len(self)}, got {count}")
        if count == len(self):
            return self
        part = copy.copy(self)
        part.num_crops = count
        part.num_sources = int(part.column("source").max(initial=-1)) + 1
        return part

    def fingerprint(self) -> str:
        """Hash of what crops are and of their order, wherever store and files lie."""
        digest = hashlib.sha256(f"{self.crop_size} {self.dtype}".encode())
        # Files of which no crop was kept do not count.
        numbers, places = np.unique(self.column("source"), return_inverse=True)
        sources = self.sources()
        for number in numbers.tolist():
            source = sources[number]
            digest.update(f"{source.sha256} {source.signal} {source.split}".encode())
        digest.update(places.astype(np.int64).tobytes())
        for name in _IDENTITY:
            digest.update(self.column(name).tobytes())
        return digest.hexdigest()

    def column(self, name: str) -> NDArray[Any]:
        """One fact about every crop [n]; `layout.COLUMNS` lists the names.

        Raises:
            StoreError: The store is damaged there.
        """
        if name not in self._columns:
            group, _ = open_group(self.path)
            values = rows_of(group, f"crops/{name}", len(self))
            if name in _OF_SOURCE:
                self._check_by_sources(name, values)
            self._columns[name] = values
        return self._columns[name]

    def _check_by_sources(self, name: str, values: NDArray[Any]) -> None:
        """Checks a fact that sources tell of their crops, too.

        A chunk of it that is gone reads as 0 in stores of older versions, where 0 may be a fact.
        """
        sources = self.sources()
        told = np.array([_OF_SOURCE[name](*numbered) for numbered in enumerate(sources)], float)
        expected = np.repeat(told, [source.num_crops for source in sources])[: len(self)]
        if not np.array_equal(values, expected, equal_nan=True):
            raise damaged(self.path, f"values of crops/{name} other than its sources tell")

    def pixel_hashes(self) -> NDArray[np.uint64]:
        """Hashes of the pixels of crops [n]; `UNKNOWN` for those that an old version stored."""
        hashes = np.full(len(self), UNKNOWN, np.uint64)
        group, _ = open_group(self.path)
        if (self.path / PIXEL_HASHES).exists():
            num_known = min(len(self), array_of(group, PIXEL_HASHES).shape[0])
            hashes[:num_known] = rows_of(group, PIXEL_HASHES, num_known)
        return hashes

    def _records(self, name: str, number: int, kind: type[Record]) -> list[Record]:
        adapter: TypeAdapter[Record] = _adapter(kind)
        rows = rows_of(open_group(self.path)[0], name, number)
        try:
            return [adapter.validate_json(str(row)) for row in rows]
        except ValidationError as error:
            raise damaged(self.path, f"records of {name} that make no sense") from error

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        checked = np.asarray(indices, dtype=np.int64).reshape(-1)
        if checked.size and (checked.min() < 0 or checked.max() >= len(self)):
            raise IndexError(f"crops are numbered 0 to {len(self) - 1}, got {checked}")
        return checked

    def _stored(
        self, indices: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[Any], np.float32, np.float32]]:
        """Stored numbers [h, w] of one crop after the other, and the lowest and highest of them."""
        if self._images is None:
            self._images = open_images(self.path)
        offset, scale = self.column("offset")[indices], self.column("scale")[indices]
        ends = (
            to_stored(self.column(name)[indices], offset, scale, self.dtype)
            for name in ("minimum", "maximum")
        )
        for number, low, high in zip(indices.tolist(), *ends, strict=True):
            stored = self._read_crop(self._images, number)
            if (stored.min(), stored.max()) != (low, high):
                raise self._unreadable(self._images, number, "other pixels than were written")
            yield stored, low, high

    def _read_crop(self, images: zarr.Array[Any], number: int) -> NDArray[Any]:
        try:
            return np.asarray(images[number])
        except Exception as error:  # zarr, zarrs and the codecs raise errors of many kinds
            raise self._unreadable(images, number, str(error), error) from error

    def _unreadable(
        self,
        images: zarr.Array[Any],
        number: int,
        reason: str,
        error: Exception | None = None,
    ) -> StoreError:
        file = shard_file(images, number)
        # zarr takes a crop for empty if its file is not there, and zarrs names no error of the
        # system.
        try:
            (self.path / file).open("rb").close()
        except FileNotFoundError:
            reason = "no such file"
        except OSError as of_system:
            error = of_system
        found = f"crop {number} that cannot be read from {file}: {reason}"
        return damaged(self.path, found) if error is None else unreadable(self.path, found, error)
