"""Micrographs on disk: a zarr store of crops, read by number. `layout` tells its layout.

Written by `writer.StoreWriter`, one process at a time; read by any number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from stem_complete.data.layout import (
    COLUMNS,
    SPLITS,
    LeftOut,
    Source,
    Split,
    StoredDtype,
    create_group,
    open_group,
)
from stem_complete.data.lock import writing
from stem_complete.errors import StoreError

# Reads sharded arrays in half the time of zarr's own. It is not written with: killed while it
# rewrites a shard, it leaves a torn one.
_READ_PIPELINE = "zarrs.ZarrsCodecPipeline"


class CropRecord(NamedTuple):
    """Where a crop comes from.

    Attributes:
        source: Its file and signal.
        split: Its split.
        frame: Number of its frame in the signal.
        row: First row [px] in the frame.
        column: First column [px].
        pixel_size_nm: Side of a pixel [nm], None if unknown.
        minimum: Lowest intensity, in detector units.
        maximum: Highest intensity, in detector units.
    """

    source: Source
    split: Split
    frame: int
    row: int
    column: int
    pixel_size_nm: float | None
    minimum: float
    maximum: float


class MicrographStore:
    """The crops that the store at `path` held when this object was made.

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
        self._num_crops: int = attributes["num_crops"]
        self._images: zarr.Array[Any] | None = None
        self._columns: dict[str, NDArray[Any]] = {}
        self._sources: list[Source] | None = None

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The store at `path`; see the class."""
        return cls(path)

    @classmethod
    def create(cls, path: str | Path, crop_size: int = 512, dtype: StoredDtype = "uint16") -> Self:
        """A new, empty store.

        Args:
            path: Folder to create.
            crop_size: Side of the crops [px].
            dtype: uint16 is exact for integers that span up to 65,535 levels in a crop and
                otherwise rounds to 1/65,535 of the crop's range; float32 keeps float32 exactly.

        Raises:
            StoreError: Something is at `path` already.
        """
        with writing(Path(path)):
            create_group(Path(path), crop_size, dtype)
            return cls(path)

    def __len__(self) -> int:
        return self._num_crops

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": None, "_columns": {}, "_sources": None}

    def read(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Crops [b, h, w] float32, each scaled to [-1, 1] by its own minimum and maximum.

        Args:
            indices: Numbers of the crops [b], in any order.

        Raises:
            StoreError: The store is damaged there.
        """
        indices = self._checked(indices)
        low, high = (limit[:, None, None] for limit in self._stored_limits(indices))
        images = self._stored(indices).astype(np.float32)
        # Stored numbers are exact in float32, and so divided the ends come out as exactly -1 and 1.
        images -= low
        images /= high - low
        images *= 2
        images -= 1
        return images

    def read_raw(self, indices: ArrayLike) -> NDArray[np.float64]:
        """Crops [b, h, w] in detector units."""
        indices = self._checked(indices)
        scales = self.column("scale")[indices][:, None, None]
        offsets = self.column("offset")[indices][:, None, None]
        raw: NDArray[np.float64] = offsets + scales * self._stored(indices)
        return raw

    def records(self, indices: ArrayLike) -> list[CropRecord]:
        """Where the crops come from."""
        sources = self.sources()
        sizes = self.column("pixel_size_nm")
        return [
            CropRecord(
                source=sources[self.column("source")[i]],
                split=SPLITS[self.column("split")[i]],
                frame=int(self.column("frame")[i]),
                row=int(self.column("row")[i]),
                column=int(self.column("column")[i]),
                pixel_size_nm=None if np.isnan(sizes[i]) else float(sizes[i]),
                minimum=float(self.column("minimum")[i]),
                maximum=float(self.column("maximum")[i]),
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
            rows = self._rows("sources", self.num_sources)
            self._sources = [Source.from_json(row) for row in rows]
        return self._sources

    def left_out(self) -> list[LeftOut]:
        """The crops that were not stored, with the reason."""
        return [LeftOut.from_json(row) for row in self._rows("left_out", self.num_left_out)]

    def fingerprint(self) -> str:
        """Hash of what the store holds: its sources and how they were cut and stored."""
        digest = hashlib.sha256(f"{self.crop_size} {self.dtype}".encode())
        for source in self.sources():
            digest.update(f"{source.sha256} {source.signal} {source.split}".encode())
        for name in COLUMNS:
            digest.update(self.column(name).tobytes())
        return digest.hexdigest()

    def column(self, name: str) -> NDArray[Any]:
        """One fact about every crop [n]; `layout.COLUMNS` lists the names."""
        if name not in self._columns:
            group, _ = open_group(self.path)
            values = np.asarray(group[f"crops/{name}"][: len(self)])  # type: ignore[index]
            if len(values) < len(self):
                raise self._damaged(f"{len(values)} of {len(self)} values of {name}")
            self._columns[name] = values
        return self._columns[name]

    def _rows(self, name: str, number: int) -> list[str]:
        group, _ = open_group(self.path)
        return [str(row) for row in np.asarray(group[name][:number])]  # type: ignore[index]

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        checked = np.asarray(indices, dtype=np.int64).reshape(-1)
        if checked.size and (checked.min() < 0 or checked.max() >= len(self)):
            raise IndexError(f"crops are numbered 0 to {len(self) - 1}, got {checked}")
        return checked

    def _stored_limits(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest stored number of each crop [b]."""
        offset, scale = self.column("offset")[indices], self.column("scale")[indices]
        low = (self.column("minimum")[indices] - offset) / scale
        high = (self.column("maximum")[indices] - offset) / scale
        if self.dtype == "uint16":
            low, high = np.rint(low), np.rint(high)
        return low.astype(np.float32), high.astype(np.float32)

    def _stored(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        if self._images is None:
            # The pipeline of an array is fixed when it is opened.
            with zarr.config.set({"codec_pipeline.path": _READ_PIPELINE}):
                array = open_group(self.path)[0]["images"]
            assert isinstance(array, zarr.Array)
            self._images = array
        stored = np.empty((len(indices), self.crop_size, self.crop_size), self.dtype)
        for start, stop in _runs(indices):
            first = int(indices[start])
            try:
                stored[start:stop] = self._images[first : first + stop - start]
            except Exception as error:  # zarrs raises what its codecs meet
                raise self._damaged(f"crop {first} that cannot be decoded") from error
        # zarr fills in pixels where a shard is gone, and zarrs does not look at checksums.
        low, high = self._stored_limits(indices)
        wrong = (stored.min(axis=(1, 2)) != low) | (stored.max(axis=(1, 2)) != high)
        if wrong.any():
            raise self._damaged(f"other pixels than were written in crop {indices[wrong][0]}")
        return stored

    def _damaged(self, found: str) -> StoreError:
        return StoreError(
            expected=f"{len(self)} complete crops",
            found=found,
            where=self.path,
            fix="restore the store from a copy or ingest the files into a new one",
        )


def _runs(indices: Sequence[int] | NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Places (start, stop) of the runs of consecutive numbers: one read each."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    edges = [0, *breaks.tolist(), len(indices)]
    return pairwise(edges) if len(indices) else iter(())
