"""The zarr v3 layout of a micrograph store: names, records, version, creation.

A store is a zarr group:

    images [n, h, w]    uint16 or float32, see `scaling`; a chunk is one crop, compressed by blosc
                        or not, with a CRC-32C; a shard (file) is some hundred crops
    crops/*    [n]      one array per fact about a crop, see `COLUMNS` and `PIXEL_HASHES`
    sources    [m]      JSON records, see `Source`
    left_out   [k]      JSON records, see `LeftOut`; all of these with a CRC-32C, too

with the attributes format, version, crop_size, dtype, num_crops, num_sources, num_left_out. Arrays
only ever grow, and their entries never change. The three numbers are written last and say how much
of the arrays counts, so what an interrupted writer left behind is not part of the store.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import (
    BloscCname,
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    ShardingCodec,
    ZstdCodec,
)
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore

from stem_complete.data.examples import Split
from stem_complete.data.store.pixel_hash import UNKNOWN
from stem_complete.errors import StoreError, remedy
from stem_complete.extras import program
from stem_complete.files import atomic_folder

FORMAT = "stem-complete micrographs"
VERSION = 1

StoredDtype = Literal["uint16", "float32"]

Compression = Literal["lz4", "zstd", "none"]
_COMPRESSION_LEVEL = 5  # of blosc, from 1 to 9; readers need not know


class Rows(NamedTuple):
    """An array [n].

    Attributes:
        dtype: Number format.
        lost: A value that none has: what reads as such was in a chunk that is gone.
    """

    dtype: str
    lost: float | str


COLUMNS: dict[str, Rows] = {
    "minimum": Rows("float64", math.nan),  # [detector units]
    "maximum": Rows("float64", math.nan),
    "offset": Rows("float64", math.nan),  # intensity = offset + scale * stored
    "scale": Rows("float64", math.nan),
    "pixel_size_nm": Rows("float64", -1),  # NaN where unknown
    "split": Rows("uint8", 255),  # place in SPLITS
    "source": Rows("int32", -1),  # place in `sources`
    "frame": Rows("int32", -1),
    "row": Rows("int32", -1),  # of the crop's first pixel [px]
    "column": Rows("int32", -1),
}

PIXEL_HASHES = "crops/pixel_hash"
"""Array uint64 of `pixel_hash.pixel_hash`, shorter or absent in stores of older versions."""

_ROWS = {f"crops/{name}": column for name, column in COLUMNS.items()} | {
    PIXEL_HASHES: Rows("uint64", 2**64 - 1),
    "sources": Rows("str", ""),
    "left_out": Rows("str", ""),
}
"""All arrays but the images, by name."""

_METADATA = "zarr.json"
_NUMBERS = ("crop_size", "num_crops", "num_sources", "num_left_out")

# Whole shards are kept in memory and written at once: 256 crops of 512 x 512 uint16.
_SHARD_BYTES = 128 * 2**20
_MAX_SHARD_CROPS = 256
_ROWS_PER_CHUNK = 4096


@dataclass(frozen=True)
class Source:
    """Where crops come from: one signal of one file.

    Attributes:
        path: The file when it was ingested.
        sha256: Hash of its content.
        signal: Name of the signal in the file, "" where it has none.
        frames: Numbers of its frames.
        shape: Height and width of a frame [px].
        dtype: Number format in the file.
        pixel_size_nm: Side of a pixel [nm], if known.
        group: What it shares its split with: files of one field of view.
        split: Its split, that of its field of view; None if the field has no crops.
        licence: If known.
        num_crops: Crops kept; none of a copy of a file that is there under another name.
        asked: Signal and frame that were asked for when it was ingested.
    """

    path: str
    sha256: str
    signal: str
    frames: tuple[int, ...]
    shape: tuple[int, int]
    dtype: str
    pixel_size_nm: float | None
    group: str
    split: Split | None
    licence: str | None
    num_crops: int
    asked: tuple[str | None, int | None] = (None, None)


@dataclass(frozen=True)
class LeftOut:
    """A crop that was not stored.

    Attributes:
        path: Its file.
        signal: Name of its signal.
        frame: Number of its frame.
        row: First row [px].
        column: First column [px].
        reason: Why.
    """

    path: str
    signal: str
    frame: int
    row: int
    column: int
    reason: str


def to_json(record: Source | LeftOut) -> str:
    """The record on one line."""
    return json.dumps(asdict(record), ensure_ascii=False)


def create_group(path: Path, crop_size: int, dtype: StoredDtype, compression: Compression) -> None:
    """Creates an empty store at `path`, which the caller holds, at once or not at all.

    Raises:
        StoreError: Something is there already.
        OSError: The disk is full or not writable.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise StoreError(
            expected="no file or folder, to create a store",
            found="one",
            where=path,
            fix="choose another path or remove it",
        )
    with atomic_folder(path) as draft:
        attributes = {"format": FORMAT, "version": VERSION, "crop_size": crop_size, "dtype": dtype}
        empty = dict.fromkeys(("num_crops", "num_sources", "num_left_out"), 0)
        group = zarr.create_group(draft, zarr_format=3, attributes=attributes | empty)
        _create_arrays(group, crop_size, dtype, compression)


def _create_arrays(
    group: zarr.Group, crop_size: int, dtype: StoredDtype, compression: Compression
) -> None:
    crop_bytes = crop_size**2 * np.dtype(dtype).itemsize
    shard_crops = max(1, min(_MAX_SHARD_CROPS, _SHARD_BYTES // crop_bytes))
    group.create_array(
        "images",
        shape=(0, crop_size, crop_size),
        chunks=(1, crop_size, crop_size),
        shards=(shard_crops, crop_size, crop_size),
        dtype=dtype,
        compressors=[*_compressors(compression), Crc32cCodec()],
        # What a crop whose shard is gone reads as: no crop is all zero or has NaN.
        fill_value=0 if dtype == "uint16" else np.nan,
        dimension_names=("crop", "y", "x"),
    )
    group.create_group("crops")
    for name in _ROWS:
        _create_rows(group, name)


def create_pixel_hashes(group: zarr.Group, num_crops: int) -> None:
    """Creates the array of hashes in a store of an older version, all unknown."""
    hashes = _create_rows(group, PIXEL_HASHES)
    hashes.resize((num_crops,))
    hashes[:] = UNKNOWN


def _create_rows(group: zarr.Group, name: str) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=(0,),
        chunks=(_ROWS_PER_CHUNK,),
        dtype=_ROWS[name].dtype,
        compressors=[ZstdCodec(), Crc32cCodec()],
        fill_value=_ROWS[name].lost,
    )


def _compressors(compression: Compression) -> list[BloscCodec]:
    if compression == "none":
        return []
    return [BloscCodec(cname=compression, clevel=_COMPRESSION_LEVEL, shuffle="bitshuffle")]


def open_images(path: Path) -> zarr.Array[Any]:
    """The images of the store at `path`, for reading.

    Through zarrs where that package is installed, which takes half the time. It does not check the
    CRC-32C of a single crop, only that of the shard's index. For writing it is no use: a process
    that is killed then leaves torn shards.
    """
    faster = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if find_spec("zarrs") else {}
    with zarr.config.set(faster):  # what counts is the setting when an array is opened
        return array_of(open_group(path)[0], "images")


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of the store.

    Raises:
        StoreError: There is none, or its metadata are damaged.
    """
    try:
        array = group[name]
        assert isinstance(array, zarr.Array)
    except Exception as error:  # a damaged zarr.json makes zarr fail in many ways
        raise _torn(_folder(group), f"{name}/{_METADATA}") from error
    return array


def rows_of(group: zarr.Group, name: str, count: int) -> NDArray[Any]:
    """The first `count` values of one of the arrays [n].

    Raises:
        StoreError: Some are not there, or cannot be read.
    """
    folder, array = _folder(group), array_of(group, name)
    try:
        values = np.asarray(array[:count])
    except Exception as error:  # zarr and the codecs raise errors of many kinds
        found = f"values of {name} that cannot be read from {name}/c ({type(error).__name__})"
        raise unreadable(folder, found, error) from error
    if len(values) < count:
        raise damaged(folder, f"{len(values)} of {count} values of {name}")
    if _is(array.fill_value, _ROWS[name].lost).all():  # in older stores it may be a fact
        is_lost = _is(values, array.fill_value)
        if is_lost.any():
            first = int(np.argmax(is_lost))
            file = Path(name) / "c" / str(first // array.chunks[0])
            raise damaged(
                folder, f"no value {first} in {file}" if (folder / file).exists() else f"no {file}"
            )
    return values


def _is(values: Any, lost: Any) -> NDArray[np.bool_]:
    """Where values are `lost`, which may be NaN."""
    is_nan = isinstance(lost, (float, np.floating)) and np.isnan(lost)
    return np.asarray(np.isnan(values) if is_nan else values == lost)


def check_arrays(group: zarr.Group) -> None:
    """Checks that each array of the store can be opened.

    Raises:
        StoreError: One cannot.
    """
    for name in ("images", *_ROWS):
        array_of(group, name)


def _folder(group: zarr.Group) -> Path:
    store = group.store
    assert isinstance(store, LocalStore)
    return store.root


def compression_of(images: zarr.Array[Any]) -> Compression | None:
    """How crops are compressed; None if they are not stored as `create_group` has it."""
    assert isinstance(images.metadata, ArrayV3Metadata)
    match images.metadata.codecs:
        case [ShardingCodec(codecs=[BytesCodec(), *compressors, Crc32cCodec()])]:
            match compressors:
                case []:
                    return "none"
                case [BloscCodec(cname=BloscCname.lz4)]:
                    return "lz4"
                case [BloscCodec(cname=BloscCname.zstd)]:
                    return "zstd"
    return None


def shard_file(images: zarr.Array[Any], crop: int) -> Path:
    """File of the shard that a crop is in, below the folder of the store."""
    assert images.shards is not None
    return Path("images") / "c" / str(crop // images.shards[0]) / "0" / "0"


def is_store(path: Path) -> bool:
    """Whether there is a micrograph store at `path`, of any version."""
    try:
        group = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        return bool(group["attributes"]["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_group(path: Path, mode: Literal["r", "r+"] = "r") -> tuple[zarr.Group, dict[str, Any]]:
    """The store's zarr group and its attributes.

    Raises:
        StoreError: There is no store at `path`, or one of a newer version.
    """
    if not path.is_dir():
        raise _no_store(path, "a file" if path.exists() else "nothing")
    try:
        group = zarr.open_group(path, mode=mode, zarr_format=3)
        attributes = group.attrs.asdict()
    except Exception as error:  # a damaged or foreign zarr.json makes zarr fail in many ways
        if (path / "images").is_dir() and (path / "crops").is_dir():
            raise _torn(path, _METADATA) from error
        raise _no_store(path, "a folder that is no zarr v3 group") from error
    version = attributes.get("version")
    if attributes.get("format") != FORMAT or not isinstance(version, int):
        raise _no_store(path, "another zarr group")
    if version > VERSION:
        raise StoreError(
            expected=f"a store of version {VERSION} or older",
            found=f"version {version}",
            where=path,
            fix=f"update stem-complete: {program('pip')} install --upgrade stem-complete",
        )
    if missing := [name for name in _NUMBERS if not isinstance(attributes.get(name), int)]:
        raise damaged(path, f"no {' or '.join(missing)} in {_METADATA}")
    return group, attributes


def damaged(path: Path, found: str) -> StoreError:
    """Error about a store of which a part is lost or changed."""
    return StoreError(
        expected="a whole store",
        found=found,
        where=path,
        fix="restore the store from a copy or ingest the files into a new one",
    )


def unreadable(path: Path, found: str, error: Exception) -> StoreError:
    """Error about a part of a store at which reading fails: it is damaged, or the system says no.

    Args:
        path: Folder of the store.
        found: What is wrong if it is damaged.
        error: What the reader raised.
    """
    if not isinstance(error, OSError) or not (fix := remedy(error)):
        return damaged(path, found)
    return StoreError(expected="a store that can be read", found=str(error), where=path, fix=fix)


def _torn(path: Path, file: str) -> StoreError:
    """Error about metadata that zarr cannot use."""
    try:
        content = (path / file).read_bytes()
    except FileNotFoundError:
        return damaged(path, f"no {file}")
    except OSError as error:
        return unreadable(path, f"no {file} that can be read", error)
    if not content.strip(b"\0 \n"):
        found = f"an empty {file}"
    else:
        try:
            json.loads(content)
            found = f"a {file} that makes no sense"
        except ValueError:
            found = f"a {file} that is no JSON"
    return damaged(path, found)


def _no_store(path: Path, found: str) -> StoreError:
    return StoreError(
        expected="a micrograph store",
        found=found,
        where=path,
        fix=f"create one with {program()} ingest SOURCES --store PATH",
    )
