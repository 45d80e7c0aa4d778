"""The zarr v3 layout of a micrograph store: names, records, version, creation.

A store is a zarr group:

    images [n, h, w]    uint16 or float32, see `scaling`; a chunk is one crop, compressed by blosc
                        or not, with a CRC-32C; a shard (file) is some hundred crops
    crops/*    [n]      one array per fact about a crop, see `COLUMNS` and `PIXEL_HASHES`
    sources    [m]      JSON records, see `Source`
    left_out   [k]      JSON records, see `LeftOut`

with the attributes format, version, crop_size, dtype, num_crops, num_sources, num_left_out. Arrays
only ever grow, and their entries never change. The three numbers are written last and say how much
of the arrays counts, so what an interrupted writer left behind is not part of the store.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCname, BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.metadata import ArrayV3Metadata

from stem_complete.data.examples import Split
from stem_complete.errors import StoreError
from stem_complete.extras import program
from stem_complete.files import atomic_folder

FORMAT = "stem-complete micrographs"
VERSION = 1

StoredDtype = Literal["uint16", "float32"]

Compression = Literal["lz4", "zstd", "none"]
_COMPRESSION_LEVEL = 5  # of blosc, from 1 to 9; readers need not know

COLUMNS: dict[str, str] = {
    "minimum": "float64",  # [detector units]
    "maximum": "float64",
    "offset": "float64",  # intensity = offset + scale * stored
    "scale": "float64",
    "pixel_size_nm": "float64",  # NaN where unknown
    "split": "uint8",  # place in SPLITS
    "source": "int32",  # place in `sources`
    "frame": "int32",
    "row": "int32",  # of the crop's first pixel [px]
    "column": "int32",
}

PIXEL_HASHES = "crops/pixel_hash"
"""Array uint64 of `pixel_hash.pixel_hash`, shorter or absent in stores of older versions."""

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
    crops = group.create_group("crops")
    for name, column_dtype in COLUMNS.items():
        crops.create_array(name, shape=(0,), chunks=(_ROWS_PER_CHUNK,), dtype=column_dtype)
    create_pixel_hashes(group)
    for name in ("sources", "left_out"):
        group.create_array(name, shape=(0,), chunks=(_ROWS_PER_CHUNK,), dtype="str")


def create_pixel_hashes(group: zarr.Group) -> None:
    """Creates the array of hashes in a store, empty: all unknown."""
    group.create_array(PIXEL_HASHES, shape=(0,), chunks=(_ROWS_PER_CHUNK,), dtype="uint64")


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
    """An array of the store."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


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
    return group, attributes


def _no_store(path: Path, found: str) -> StoreError:
    return StoreError(
        expected="a micrograph store",
        found=found,
        where=path,
        fix=f"create one with {program()} ingest SOURCES --store PATH",
    )
