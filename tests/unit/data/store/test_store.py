"""What is written is what is read, by any process, in any order."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from stores import read_raw

from stem_complete.data.examples import SPLITS
from stem_complete.data.store import layout
from stem_complete.data.store.cropping import Crop
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.layout import (
    Compression,
    Source,
    StoredDtype,
    create_group,
)
from stem_complete.data.store.scaling import quantise
from stem_complete.data.store.store import MicrographStore
from stem_complete.data.store.writer import StoreWriter
from stem_complete.errors import StoreError

RNG = np.random.default_rng(0)
CROPS = [RNG.integers(0, 3000 * (k + 1), (16, 16)).astype(np.uint16) for k in range(11)]


def source(name: str = "a", num_crops: int = 1, **changes: Any) -> Source:
    values: dict[str, Any] = {
        "path": f"{name}.tif",
        "sha256": f"hash of {name}",
        "signal": "HAADF",
        "frames": (0,),
        "shape": (16, 16),
        "dtype": "uint16",
        "pixel_size_nm": 0.02,
        "group": name,
        "split": "train",
        "licence": None,
        "num_crops": num_crops,
    }
    return Source(**values | changes)


def store_with(
    path: Path,
    crops: list[NDArray[Any]],
    dtype: StoredDtype = "uint16",
    compression: Compression = "lz4",
) -> MicrographStore:
    with StoreWriter(path, crops[0].shape[0], dtype, compression) as writer:
        new = [Crop(crop, 0, 0, 16 * number) for number, crop in enumerate(crops)]
        writer.append([(source(num_crops=len(crops)), [writer.quantise(crop) for crop in new])])
    return MicrographStore(path)


def unit_range(crop: NDArray[Any]) -> NDArray[np.float64]:
    values = crop.astype(np.float64)
    return 2 * (values - values.min()) / (values.max() - values.min()) - 1


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_crops_come_back_in_the_order_asked(
    tmp_path: Path, small_shards: None, dtype: StoredDtype
) -> None:
    store = store_with(tmp_path / "s.zarr", CROPS, dtype)
    assert len(store) == len(CROPS)
    for indices in ([3], [10, 0, 1, 2, 2, 7], np.arange(11), []):
        raw, scaled = read_raw(store, indices), store.read(indices)
        assert scaled.dtype == np.float32
        assert scaled.shape == (len(indices), 1, 16, 16)
        for index, found, [found_scaled] in zip(indices, raw, scaled, strict=True):
            np.testing.assert_array_equal(found, CROPS[index])
            np.testing.assert_allclose(found_scaled, unit_range(CROPS[index]), atol=2e-7)
            assert (found_scaled.min(), found_scaled.max()) == (-1, 1)


NUMBERS = st.one_of(
    hnp.arrays(np.uint16, (4, 4)),
    hnp.arrays(np.int16, (4, 4)),
    hnp.arrays(np.uint32, (4, 4)),
    hnp.arrays(np.int64, (4, 4), elements=st.integers(-(2**52), 2**52)),
    hnp.arrays(np.float32, (4, 4), elements=st.floats(-(2.0**60), 2.0**60, width=32)),
    hnp.arrays(np.float64, (4, 4), elements=st.floats(-(2.0**60), 2.0**60)),
)


@given(NUMBERS)
def test_quantisation_is_exact_for_whole_numbers_and_fine_for_others(pixels: NDArray[Any]) -> None:
    span = float(pixels.max()) - float(pixels.min())
    if span < 1e-30:
        return
    stored, minimum, maximum, offset, scale = quantise(pixels, "uint16")
    back = offset + scale * stored.astype(np.float64)
    assert stored.dtype == np.uint16
    assert (minimum, maximum) == (float(pixels.min()), float(pixels.max()))
    if pixels.dtype.kind in "iu" and span <= 65_535:
        np.testing.assert_array_equal(back, pixels)
    rounding = 4 * np.finfo(np.float64).eps * max(abs(minimum), abs(maximum))
    assert np.abs(back - pixels.astype(np.float64)).max() <= span / 131_070 * 1.0001 + rounding


@given(hnp.arrays(np.float32, (4, 4), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_float32_is_kept(pixels: NDArray[np.float32]) -> None:
    stored, minimum, maximum, offset, scale = quantise(pixels, "float32")
    np.testing.assert_array_equal(offset + scale * stored, pixels)
    assert (minimum, maximum) == (pixels.min(), pixels.max())


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_reading_scales_to_the_crops_own_range(tmp_path: Path, dtype: StoredDtype) -> None:
    steps = np.linspace(0, 1, 256).reshape(16, 16)
    crops = [low + span * steps for low in (-1e6, 0.0, 1e6) for span in (233.25, 1 / 3, 1e5)]
    crops += [scale * RNG.normal(size=(16, 16)) for scale in (1e-25, 1e-3, 1e25)]
    store = store_with(tmp_path / "s.zarr", crops, dtype)
    # float32 numbers near 1e6 are 1/16 apart, a fifth of the smallest span.
    tolerance = [
        1.53e-5 if dtype == "uint16" else 0.4 if abs(c).max() > 9e5 else 1e-6 for c in crops
    ]
    for [image], crop, atol in zip(store.read(range(12)), crops, tolerance, strict=True):
        assert (image.min(), image.max()) == (-1, 1)
        np.testing.assert_allclose(image, unit_range(crop), atol=1e-6 + atol)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_scaling_in_few_passes_rounds_as_step_by_step(tmp_path: Path, dtype: StoredDtype) -> None:
    crops = [*CROPS, RNG.normal(size=(16, 16)).astype(np.float32)]
    store = store_with(tmp_path / "s.zarr", crops, dtype)
    for [image], crop in zip(store.read(range(12)), crops, strict=True):
        values = quantise(crop, dtype)[0].astype(np.float32)
        low, high = values.min(), values.max()
        np.testing.assert_array_equal(image, (values - low) / (high - low) * 2 - 1)


def test_records_say_where_crops_come_from(tmp_path: Path) -> None:
    sizes = {"a": 0.02, "b": None}
    splits = dict(zip("ab", SPLITS[1:], strict=True))
    with StoreWriter(tmp_path / "s.zarr", 16) as writer:
        for name in "ab":
            crops = [Crop(CROPS[0], 2, 5, 7), Crop(CROPS[1], 3, 16, 23)]
            described = source(name, 2, pixel_size_nm=sizes[name], split=splits[name])
            writer.append([(described, [writer.quantise(crop) for crop in crops])])
    store = MicrographStore(tmp_path / "s.zarr")
    first, second = store.records([3, 0])
    assert (first.source.path, first.split) == ("b.tif", "test")
    assert (first.frame, first.row, first.column) == (3, 16, 23)
    assert (second.source.path, second.split) == ("a.tif", "validation")
    np.testing.assert_array_equal(store.column("pixel_size_nm"), [0.02, 0.02, np.nan, np.nan])
    assert (store.column("minimum")[3], store.column("maximum")[3]) == (
        CROPS[1].min(),
        CROPS[1].max(),
    )
    assert store.counts == {"train": 0, "validation": 2, "test": 2}
    np.testing.assert_array_equal(store.indices("test"), [2, 3])
    assert store.indices("train").dtype == np.int64
    assert store.sources()[1] == source("b", 2, pixel_size_nm=None, split="test")


def test_a_pickled_store_carries_no_open_files(tmp_path: Path) -> None:
    store = store_with(tmp_path / "s.zarr", CROPS)
    expected = store.read([4])
    store.sources()
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert received._images is None
    np.testing.assert_array_equal(received.read([4]), expected)


# --- any zarr reader reads a store, and a store that zarr wrote is read ------------------------


@pytest.fixture(params=["zarr", "zarrs"])
def pipeline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What stores are read through."""
    if request.param == "zarrs":
        pytest.importorskip("zarrs")
    else:
        monkeypatch.setattr(layout, "find_spec", lambda name: None)
    return str(request.param)


def stored(crops: list[NDArray[Any]]) -> NDArray[Any]:
    return np.stack([quantise(crop, "uint16").stored for crop in crops])


@pytest.mark.parametrize("compression", get_args(Compression))
def test_any_zarr_reader_reads_a_store(
    tmp_path: Path, small_shards: None, compression: Compression, pipeline: str
) -> None:
    store = store_with(tmp_path / "s.zarr", CROPS, compression=compression)
    images = zarr.open_array(tmp_path / "s.zarr" / "images", mode="r")
    np.testing.assert_array_equal(images[:], stored(CROPS))
    np.testing.assert_array_equal(store.read_stored(range(11)), stored(CROPS))
    module = type(layout.open_images(store.path).async_array.codec_pipeline).__module__
    assert module.split(".")[0] == pipeline


@pytest.mark.parametrize("compression", get_args(Compression))
def test_a_shard_is_written_whole(
    tmp_path: Path, small_shards: None, compression: Compression
) -> None:
    """As zarr writes all of an array at once: nothing is merged, nor anything missing filled in."""
    path = store_with(tmp_path / "s.zarr", CROPS, compression=compression).path / "images"
    ours = {file.relative_to(path): file.read_bytes() for file in path.rglob("c/*/0/0")}
    shutil.rmtree(path / "c")
    zarr.open_array(path, mode="r+")[:] = stored(CROPS)
    assert len(ours) == 3
    assert ours == {file.relative_to(path): file.read_bytes() for file in path.rglob("c/*/0/0")}


def test_images_in_another_form_are_read_but_not_appended_to(tmp_path: Path) -> None:
    store_with(tmp_path / "s.zarr", CROPS)
    zarr.create_array(
        tmp_path / "s.zarr" / "images", data=stored(CROPS), shards=(11, 16, 16), overwrite=True
    )
    [raw] = read_raw(MicrographStore(tmp_path / "s.zarr"), [3])
    np.testing.assert_array_equal(raw, CROPS[3])
    with pytest.raises(StoreError, match="other codecs; ingest the files into a new store"):
        StoreWriter(tmp_path / "s.zarr").__enter__()
    assert not (tmp_path / "s.zarr.lock").exists()


def test_an_open_store_does_not_see_what_is_appended(
    tmp_path: Path, small_shards: None, write_images: Callable[..., Path]
) -> None:
    ingest([write_images(1)], tmp_path / "s.zarr", crop_size=16)
    store = MicrographStore(tmp_path / "s.zarr")
    before, fingerprint = store.read(np.arange(9)), store.fingerprint()
    ingest([write_images(2)], tmp_path / "s.zarr")
    assert (len(store), len(MicrographStore(tmp_path / "s.zarr"))) == (9, 18)
    received = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(received.read(np.arange(9)), before)
    assert received.fingerprint() == fingerprint
    assert MicrographStore(tmp_path / "s.zarr").fingerprint() != fingerprint
    with pytest.raises(IndexError, match="0 to 8"):
        store.read([9])


def test_the_first_crops_of_a_store_that_grew_are_the_store_before(
    tmp_path: Path, small_shards: None, write_images: Callable[..., Path]
) -> None:
    path = tmp_path / "s.zarr"
    ingest([write_images(1)], path, crop_size=16)
    before = MicrographStore(path)
    # A file of which no crop is kept lies between.
    tifffile.imwrite(tmp_path / "blank.tif", np.zeros((40, 40), np.float32))
    ingest([tmp_path / "blank.tif"], path)
    ingest([write_images(2)], path)
    grown = MicrographStore(path)
    first = grown.first(len(before))
    assert (len(first), len(grown)) == (9, 18)
    assert first.fingerprint() == before.fingerprint() != grown.fingerprint()
    assert first.sources() == before.sources()
    for split in SPLITS:
        np.testing.assert_array_equal(first.indices(split), before.indices(split))
    received = pickle.loads(pickle.dumps(first))
    assert received.fingerprint() == before.fingerprint()
    with pytest.raises(IndexError, match="0 to 8"):
        received.read([9])


def test_a_store_made_again_of_the_same_files_is_the_same(
    tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    files = [write_images(1, "one"), write_images(1, "two", first=1)]
    paths = [tmp_path / name for name in ("one.zarr", "two.zarr", "other_order.zarr")]
    for path, order in zip(paths, (files, files, files[::-1]), strict=True):
        ingest(order, path, crop_size=16)
    one, two, other = (MicrographStore(path).fingerprint() for path in paths)
    assert one == two != other


@pytest.mark.parametrize("index", [-1, 11])
def test_there_are_no_other_crops(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError, match="0 to 10"):
        store_with(tmp_path / "s.zarr", CROPS).read([index])


def change_attribute(path: Path, **changes: object) -> None:
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"] |= changes
    (path / "zarr.json").write_text(json.dumps(metadata))


def shard_path(path: Path, place: int) -> Path:
    return path / "images" / "c" / str(place) / "0" / "0"


def truncate_shard(path: Path) -> None:
    shard = shard_path(path, 0)
    shard.write_bytes(shard.read_bytes()[:-100])


def flip_byte_of_shard(path: Path) -> None:
    shard = shard_path(path, 0)
    content = bytearray(shard.read_bytes())
    content[60] ^= 0xFF
    shard.write_bytes(bytes(content))


def replace_shard(path: Path) -> None:
    other = store_with(path.with_name("other.zarr"), CROPS[::-1], MicrographStore(path).dtype)
    shard_path(other.path, 0).replace(shard_path(path, 0))


UNREADABLE = "crop 0 that cannot be read from images/c/0/0/0: "
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "found nothing.*stem-complete ingest"),
    "a file": (lambda p: (shutil.rmtree(p), p.write_text("x")), "found a file"),
    "no metadata": (lambda p: (p / "zarr.json").unlink(), "found no zarr.json; restore"),
    "empty metadata": (lambda p: (p / "zarr.json").write_text(""), "found an empty zarr.json; r"),
    "zeros": (lambda p: (p / "zarr.json").write_bytes(bytes(99)), "found an empty zarr.json; r"),
    "torn metadata": (
        lambda p: (p / "zarr.json").write_text((p / "zarr.json").read_text()[:-40]),
        "found a zarr.json that is no JSON; restore",
    ),
    "other metadata": (
        lambda p: (p / "zarr.json").write_text("[]"),
        "found a zarr.json that makes no sense; restore",
    ),
    "lost numbers": (
        lambda p: change_attribute(p, num_crops=None),
        "found no num_crops in zarr.json; restore",
    ),
    "no zarr": (lambda p: (shutil.rmtree(p), p.mkdir()), "no zarr v3 group.*stem-complete ingest"),
    "torn images": (
        lambda p: (p / "images/zarr.json").write_text('{"a'),
        "found a images/zarr.json that is no JSON; restore",
    ),
    "lost images": (
        lambda p: (p / "images/zarr.json").unlink(),
        "found no images/zarr.json; restore",
    ),
    "foreign": (lambda p: change_attribute(p, format="other"), "another zarr group"),
    "newer": (lambda p: change_attribute(p, version=99), "version 99; update stem-complete"),
    "lost shard": (lambda p: shutil.rmtree(p / "images" / "c"), f"{UNREADABLE}no such file"),
    "torn shard": (truncate_shard, f"{UNREADABLE}.*checksum"),
    "flipped bit": (flip_byte_of_shard, f"{UNREADABLE}.*checksum"),
    "short shard": (lambda p: shard_path(p, 0).write_bytes(b"x"), UNREADABLE),
    "another store's shard": (replace_shard, f"{UNREADABLE}other pixels than were written"),
    "torn facts": (
        lambda p: (p / "crops/offset/zarr.json").write_text("x"),
        "found a crops/offset/zarr.json that is no JSON; restore",
    ),
    "short facts": (
        lambda p: (p / "crops/offset/c/0").write_bytes(b"x"),
        "values of crops/offset that cannot be read from crops/offset/c",
    ),
    "lost facts": (lambda p: change_attribute(p, num_crops=99), "11 of 99 values of"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[StoredDtype, Path]:
    """A store of each dtype, to copy and damage."""
    folder = tmp_path_factory.mktemp("whole")
    dtypes: tuple[StoredDtype, ...] = ("uint16", "float32")
    return {dtype: store_with(folder / dtype, CROPS, dtype).path for dtype in dtypes}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_damage_is_told_in_one_line(
    tmp_path: Path,
    pipeline: str,
    whole: dict[StoredDtype, Path],
    damage: str,
    dtype: StoredDtype,
) -> None:
    if (damage, pipeline) == ("flipped bit", "zarrs"):
        pytest.skip("zarrs checks no checksum of a crop")
    path = tmp_path / "s.zarr"
    shutil.copytree(whole[dtype], path)
    do, found = DAMAGE[damage]
    do(path)
    with pytest.raises(StoreError, match=found) as caught:
        MicrographStore(path).read([0])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_lost_records_are_told_in_one_line(tmp_path: Path, whole: dict[StoredDtype, Path]) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(whole["uint16"], path)
    shutil.rmtree(path / "sources" / "c")
    with pytest.raises(StoreError, match=r"found no sources/c/0; restore the store from a copy"):
        MicrographStore(path).sources()


@pytest.mark.parametrize("file", ["zarr.json", "crops/split/zarr.json", "crops/split/c/0", "shard"])
def test_what_the_system_does_not_let_one_read_is_not_called_damaged(
    tmp_path: Path, whole: dict[StoredDtype, Path], pipeline: str, file: str
) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(whole["uint16"], path)
    place = shard_path(path, 0) if file == "shard" else path / file
    place.unlink()
    place.symlink_to(place)  # which not even root may read
    with pytest.raises(StoreError, match=r"expected a store that can be read, found .*in a circle"):
        MicrographStore(path).read(MicrographStore(path).indices("train")[:1])


@pytest.fixture(scope="module")
def in_small_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose columns have chunks of four crops, to copy and damage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_ROWS_PER_CHUNK", 4)
        return store_with(tmp_path_factory.mktemp("chunks") / "s.zarr", CROPS).path


@pytest.mark.parametrize("name", [*layout.COLUMNS, "pixel_hash"])
@pytest.mark.parametrize("first", [0, 4])
def test_no_value_of_a_chunk_that_is_gone_is_made_up(
    tmp_path: Path, in_small_chunks: Path, name: str, first: int
) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(in_small_chunks, path)
    (path / "crops" / name / "c" / str(first // 4)).unlink()

    def read(store: MicrographStore) -> NDArray[Any]:
        return store.pixel_hashes() if name == "pixel_hash" else store.column(name)

    with pytest.raises(StoreError, match=f"found no crops/{name}/c/{first // 4}; restore"):
        read(MicrographStore(path))
    assert len(read(MicrographStore(path).first(first))) == first  # what is there is read


def test_a_flipped_bit_in_a_fact_is_noticed(tmp_path: Path) -> None:
    path = store_with(tmp_path / "s.zarr", CROPS).path
    file = path / "crops" / "split" / "c" / "0"
    content = bytearray(file.read_bytes())
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(StoreError, match="values of crops/split that cannot be read"):
            MicrographStore(path).column("split")


def test_stores_whose_lost_values_read_as_facts_are_still_read(tmp_path: Path) -> None:
    """As older versions made them: what equals the fill value was not written at all."""
    path = store_with(tmp_path / "s.zarr", CROPS).path
    group = zarr.open_group(path, mode="r+")
    for name in ("split", "frame"):
        values = group[f"crops/{name}"][:]
        group.create_array(f"crops/{name}", data=values, fill_value=0, overwrite=True)
        assert not (path / "crops" / name / "c").exists()
    store_with(path, CROPS[:1])
    np.testing.assert_array_equal(MicrographStore(path).column("split"), [0] * 12)


@pytest.fixture(scope="module")
def of_an_older_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with chunks of four crops, whose lost values read as 0; to copy and damage."""
    path = tmp_path_factory.mktemp("older") / "s.zarr"
    with StoreWriter(path, 16) as writer:
        for name, split in (("a", "train"), ("b", "validation"), ("c", "train"), ("d", "test")):
            crops = [writer.quantise(Crop(crop + 1, 0, 0, 0)) for crop in CROPS[:3]]
            writer.append([(source(name, 3, split=split), crops)])
    group = zarr.open_group(path, mode="r+")
    for name in layout.COLUMNS:
        values = group[f"crops/{name}"][:]
        group.create_array(f"crops/{name}", data=values, chunks=(4,), fill_value=0, overwrite=True)
    return path


@pytest.mark.parametrize("name", ["split", "source", "pixel_size_nm"])
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_what_older_stores_lost_is_noticed_by_their_sources(
    tmp_path: Path, of_an_older_version: Path, name: str, chunk: int
) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(of_an_older_version, path)
    MicrographStore(path).column(name)
    (path / "crops" / name / "c" / str(chunk)).unlink()
    with pytest.raises(StoreError, match=f"values of crops/{name} other than its sources tell; re"):
        MicrographStore(path).column(name)
    assert len(MicrographStore(path).first(4 * chunk).column(name)) == 4 * chunk


@pytest.mark.parametrize("name", ["minimum", "maximum", "offset", "scale"])
def test_what_older_stores_lost_is_noticed_by_their_pixels(
    tmp_path: Path, of_an_older_version: Path, name: str
) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(of_an_older_version, path)
    MicrographStore(path).read([4])
    (path / "crops" / name / "c" / "1").unlink()
    with pytest.raises(StoreError, match=r"crop 4 .* other pixels than were written"):
        MicrographStore(path).read([4])


@pytest.mark.parametrize("name", ["zarr.json", "images/zarr.json", "crops/split/zarr.json"])
def test_a_torn_store_is_not_written_on(tmp_path: Path, name: str) -> None:
    path = store_with(tmp_path / "s.zarr", CROPS).path
    (path / name).write_text('{"a')
    with pytest.raises(StoreError, match=f"found a {name} that is no JSON; restore"):
        StoreWriter(path).__enter__()
    assert not (tmp_path / "s.zarr.lock").exists()


def test_a_damaged_shard_is_not_written_on(tmp_path: Path) -> None:
    store_with(tmp_path / "s.zarr", CROPS)
    flip_byte_of_shard(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match=f"{UNREADABLE}.*checksum"):
        store_with(tmp_path / "s.zarr", CROPS)
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "s.zarr.lock").exists()


def test_creation_needs_an_empty_place(tmp_path: Path) -> None:
    create_group(tmp_path / "new" / "s.zarr", 32, "float32", "lz4")
    store = MicrographStore(tmp_path / "new" / "s.zarr")
    assert (len(store), store.crop_size, store.dtype) == (0, 32, "float32")
    assert store.counts == dict.fromkeys(SPLITS, 0)
    with pytest.raises(StoreError, match="choose another path"):
        create_group(tmp_path / "new" / "s.zarr", 32, "float32", "lz4")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s.zarr"]
