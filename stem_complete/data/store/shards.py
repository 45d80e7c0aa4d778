"""Shards: the files of a store's images, some hundred crops each, read and written crop by crop.

They are what zarr's `sharding_indexed` codec defines, so any zarr reader opens them:

    crop 0 | crop 1 | ... | offset and length of each crop, uint64 | CRC-32C of those

and a crop is its pixels, compressed by blosc or not, and the CRC-32C of that; all little-endian.
That is so little that we read it ourselves: tensorstore, zarrs and zarr-python hand every crop from
thread to thread and take 1.2 to 1.8, 1.9 to 2.5 and 2.8 to 3.8 times as long (`stem-complete
benchmark store_reading`). Nor does reading then start threads, with which processes cannot fork.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import IO, Any, Literal, cast, get_args

import google_crc32c
import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

Compression = Literal["lz4", "zstd", "none"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)

COMPRESSION_LEVEL = 5
"""Of blosc, from 1 to 9. For what is written only: readers need not know."""

_CHECKSUM_BYTES = 4
_MISSING = 2**64 - 1  # offset and length of a crop that was never written
_SYNC_BYTES = 16 * 2**20  # written to the disk at a time, while more is appended
_MAX_OPEN = 256  # files; systems allow as few as 1024 a process


class DamagedShardError(ValueError):
    """A shard, or a crop in it, that is not what was written."""


class CropCodec:
    """A crop's pixels [h, w] <-> bytes.

    Args:
        crop_size: Side of a crop [px].
        dtype: Of its pixels.
        compression: How the bytes are made fewer.
    """

    def __init__(self, crop_size: int, dtype: str, compression: Compression) -> None:
        self.shape = (crop_size, crop_size)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.compression = compression
        self._blosc = (
            None
            if compression == "none"
            else Blosc(compression, COMPRESSION_LEVEL, Blosc.BITSHUFFLE)
        )

    def encode(self, pixels: NDArray[Any]) -> bytes:
        """The crop as it is stored. Threads can do this side by side."""
        pixels = np.ascontiguousarray(pixels, self.dtype)
        data = pixels.tobytes() if self._blosc is None else self._blosc.encode(pixels)
        return bytes(data) + _checksum(data)

    def decode(self, stored: bytes, pixels: NDArray[Any]) -> None:
        """Fills in `pixels` [h, w].

        Raises:
            DamagedShardError: These are not the bytes of such a crop.
        """
        data = _checked(stored)
        try:
            if self._blosc is None:
                pixels[...] = data.view(self.dtype).reshape(self.shape)
            else:
                self._blosc.decode(data, pixels)
        except (ValueError, RuntimeError) as error:
            raise DamagedShardError(str(error)) from error


class ShardReader:
    """Reads crops by number from the shards of a store.

    Files stay open. A shard to which a writer appends is replaced, so an open one never changes.

    Args:
        images: Folder of the images' array.
        codec: What a crop is stored as.
        shard_crops: Crops a shard has room for.
    """

    def __init__(self, images: Path, codec: CropCodec, shard_crops: int) -> None:
        self._images, self._codec, self._shard_crops = images, codec, shard_crops
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = Lock()  # threads share the files and their positions

    def announce(self, numbers: Iterable[int]) -> None:
        """Asks the system to fetch crops that will be read soon, all at once."""
        with self._lock, suppress(DamagedShardError, OSError):  # of which reading will tell
            for number in numbers:
                self._shard(number).announce(number % self._shard_crops)

    def read(self, number: int, pixels: NDArray[Any]) -> None:
        """Fills in `pixels` [h, w] with a crop.

        Raises:
            DamagedShardError: It is not what was written.
            OSError: Its shard is missing or cannot be read.
        """
        self._codec.decode(self._bytes(number), pixels)

    def read_stored(self, number: int) -> bytes:
        """A crop as `CropCodec.encode` gave it; raises as `read`."""
        stored = self._bytes(number)
        _checked(stored)
        return stored

    def _bytes(self, number: int) -> bytes:
        with self._lock:
            return self._shard(number).read(number % self._shard_crops)

    def _shard(self, number: int) -> _OpenShard:
        place = number // self._shard_crops
        shard = self._open.get(place)
        if shard is None:
            path = shard_path(self._images, place)
            shard = self._open[place] = _OpenShard(path, self._shard_crops)
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(place)
        return shard


class _OpenShard:
    def __init__(self, path: Path, num_crops: int) -> None:
        # Not a file object, which warns when an error that is kept keeps it open.
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        index_bytes = 2 * 8 * num_crops + _CHECKSUM_BYTES
        start = os.fstat(self._file).st_size - index_bytes
        if start < 0:
            raise DamagedShardError("a file shorter than its index")
        entries = _checked(self._bytes(start, index_bytes)).view("<u8").reshape(num_crops, 2)
        self._entries: list[list[int]] = entries.tolist()

    def announce(self, place: int) -> None:
        start, size = self._entries[place]
        if hasattr(os, "posix_fadvise") and size != _MISSING:
            os.posix_fadvise(self._file, start, size, os.POSIX_FADV_WILLNEED)

    def read(self, place: int) -> bytes:
        start, size = self._entries[place]
        if size == _MISSING:
            raise DamagedShardError("it was never written")
        return self._bytes(start, size)

    def _bytes(self, start: int, size: int) -> bytes:
        os.lseek(self._file, start, os.SEEK_SET)
        return os.read(self._file, size)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class NewShard:
    """A shard that is being written, crop by crop, beside its place; `finish` puts it there.

    Args:
        images: Folder of the images' array.
        place: Number of the shard.
        num_crops: Crops it has room for.
    """

    def __init__(self, images: Path, place: int, num_crops: int) -> None:
        self._path = shard_path(images, place)
        self._num_crops = num_crops
        self._entries: list[tuple[int, int]] = []
        self._end = 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._draft = self._path.with_suffix(".partial")
        self._file: IO[bytes] = self._draft.open("wb")
        self._thread = ThreadPoolExecutor(1)
        self._syncs: list[Future[None]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, stored: bytes) -> None:
        """Add a crop, as `CropCodec.encode` gave it."""
        assert len(self) < self._num_crops
        self._file.write(stored)
        self._entries.append((self._end, len(stored)))
        self._end += len(stored)
        if self._end > _SYNC_BYTES * (len(self._syncs) + 1):
            self._sync()

    def _sync(self) -> None:
        self._file.flush()
        self._syncs.append(self._thread.submit(os.fsync, self._file.fileno()))

    def finish(self) -> None:
        """Wait until it is on the disk, and put it into its place."""
        missing = [(_MISSING, _MISSING)] * (self._num_crops - len(self))
        index = np.array(self._entries + missing, dtype="<u8")
        self._file.write(index.tobytes() + _checksum(index.tobytes()))
        self._sync()
        for sync in self._syncs:
            sync.result()  # the system tells of an error once, to whoever syncs next
        self._thread.shutdown()
        self._file.close()
        self._draft.replace(self._path)

    def discard(self) -> None:
        """Leave nothing of it, if it is not finished."""
        self._thread.shutdown()
        with suppress(OSError):  # of a full disk, which has no room for what is still to be written
            self._file.close()
        self._draft.unlink(missing_ok=True)


def shard_path(images: Path, place: int) -> Path:
    """File of a shard, below the folder of the images' array."""
    return images / "c" / str(place) / "0" / "0"


def _checksum(data: bytes | NDArray[np.uint8]) -> bytes:
    value: int = google_crc32c.value(cast("bytes", data))
    return value.to_bytes(_CHECKSUM_BYTES, "little")


def _checked(stored: bytes) -> NDArray[np.uint8]:
    """What is before the checksum at the end."""
    # A view: slices of bytes are copies, and the checksum takes no memoryview.
    data = np.frombuffer(stored, np.uint8)[:-_CHECKSUM_BYTES]
    if _checksum(data) != stored[-_CHECKSUM_BYTES:]:
        raise DamagedShardError("a wrong checksum")
    return data
