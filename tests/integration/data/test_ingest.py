"""Files go in once, bad ones are listed, and every kind of number survives."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from damaged import write_damaged_hdf5
from numpy.typing import NDArray
from stores import read_raw

from stem_complete.data.bundled import example_licences, example_micrographs
from stem_complete.data.formats.micrographs import read_micrograph
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.layout import PIXEL_HASHES
from stem_complete.data.store.pixel_hash import UNKNOWN
from stem_complete.data.store.store import MicrographStore
from stem_complete.errors import ConfigError, DataError, StoreError

IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 50)).astype(np.uint16)


def test_real_micrographs(tmp_path: Path) -> None:
    paths = example_micrographs()[:4]
    seen: list[tuple[Path, int, int]] = []
    report = ingest(
        paths,
        tmp_path / "s.zarr",
        licences=example_licences(),
        progress=lambda *call: seen.append(call),
    )
    assert seen == [(path, number, 4) for number, path in enumerate(paths)]
    assert report.failed == {}
    store = MicrographStore(tmp_path / "s.zarr")
    assert report.num_added == len(store) == sum(report.added.values())
    assert [source.path for source in store.sources()] == [str(path) for path in paths]
    assert all(count > 0 for count in store.counts.values())
    for index, record in enumerate(store.records(range(len(store)))):
        whole = read_micrograph(Path(record.source.path)).pixels
        rows, columns = (
            slice(record.row, record.row + 512),
            slice(record.column, record.column + 512),
        )
        np.testing.assert_array_equal(read_raw(store, [index])[0], whole[rows, columns])
        assert record.source.licence in {"MIT", "Apache-2.0"}


def test_a_file_goes_in_once_whatever_its_name(
    tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    folder, path = write_images(3), tmp_path / "s.zarr"
    ingest([folder], path, crop_size=16)
    fingerprint = MicrographStore(path).fingerprint()
    (folder / "image000.npy").rename(folder / "renamed.npy")
    report = ingest([folder], path)
    assert (report.num_added, len(report.already_there)) == (0, 3)
    assert MicrographStore(path).fingerprint() == fingerprint


def test_a_copy_in_the_same_run_goes_in_once(
    tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    folder = write_images(1)
    (folder / "copy.npy").write_bytes((folder / "image000.npy").read_bytes())
    report = ingest([folder], tmp_path / "s.zarr", crop_size=16)
    assert (report.num_added, report.already_there) == (9, [str(folder / "image000.npy")])


def test_signals_and_frames_of_one_file_share_their_split(tmp_path: Path) -> None:
    folder, path = tmp_path / "images", tmp_path / "s.zarr"
    folder.mkdir()
    for number in range(4):
        stack = np.random.default_rng(number).integers(0, 60_000, (3, 40, 50)).astype(np.uint16)
        np.savez(folder / f"f{number}.npz", haadf=stack[:2], bf=stack[2], plot=stack[0, 0])
    report = ingest([folder], path, crop_size=16, signal="haadf", frame=1)
    assert report.num_added == 4 * 6
    assert report.skipped == [
        f"{folder}/f{number}.npz: plot: 1-D data (50,)" for number in range(4)
    ]
    report = ingest([folder], path, signal="haadf")  # the other frame
    assert (report.num_added, report.already_there) == (4 * 6, [])
    report = ingest([folder], path)  # the other signal
    assert report.num_added == 4 * 6
    assert len(ingest([folder], path).already_there) == 4
    store = MicrographStore(path)
    assert [(s.signal, s.frames) for s in store.sources()[::4]] == [
        ("haadf", (1,)),
        ("haadf", (0,)),
        ("bf", (0,)),
    ]
    by_file: dict[str, set[str]] = {}
    for record in store.records(range(len(store))):
        by_file.setdefault(record.source.path, set()).add(record.split)
    assert all(len(splits) == 1 for splits in by_file.values())
    assert len({split for splits in by_file.values() for split in splits}) == 3


@pytest.mark.parametrize("at_once", [True, False])
def test_one_image_goes_in_once_under_several_names_and_formats(
    tmp_path: Path, at_once: bool
) -> None:
    folder, path = tmp_path / "images", tmp_path / "s.zarr"
    folder.mkdir()
    np.save(folder / "a.npy", IMAGE)
    tifffile.imwrite(folder / "b.tif", IMAGE, software="export")
    np.save(folder / "c.npy", IMAGE.astype(np.float32))
    np.save(folder / "d.npy", IMAGE / 65_535)
    # Formats differ in where their first row is.
    np.save(folder / "e.npy", np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]]))
    np.save(folder / "f.npy", IMAGE.T)
    reports = [
        ingest(sources, path, crop_size=16)
        for sources in ([[folder]] if at_once else [[file] for file in sorted(folder.iterdir())])
    ]
    store = MicrographStore(path)
    assert len(store) == 6
    assert {record.split for record in store.records(range(6))} == {"train"}
    left_out = [record for report in reports for record in report.left_out]
    assert Counter(Path(record.path).name for record in left_out) == {
        "b.tif": 6,
        "c.npy": 6,
        "d.npy": 6,
        "e.npy": 18,
        "f.npy": 6,
    }
    assert {record.reason for record in left_out} == {
        f"a duplicate, the same pixels as in {folder / 'a.npy'}"
    }


def test_a_store_without_hashes_opens_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    np.save(tmp_path / "a.npy", IMAGE)
    ingest([tmp_path / "a.npy"], path, crop_size=16)
    fingerprint = MicrographStore(path).fingerprint()
    shutil.rmtree(path / PIXEL_HASHES)
    store = MicrographStore(path)
    assert (store.fingerprint(), set(store.pixel_hashes())) == (fingerprint, {UNKNOWN})
    np.save(tmp_path / "b.npy", IMAGE[::-1])
    np.save(tmp_path / "c.npy", IMAGE[::-1].astype(np.float32))
    report = ingest([tmp_path / "b.npy", tmp_path / "c.npy"], path)
    assert (report.num_added, len(report.left_out)) == (6, 6)
    hashes = MicrographStore(path).pixel_hashes()
    assert (hashes[:6] == UNKNOWN).all()
    assert len(set(hashes[6:])) == 6


def write_frames(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        np.save(folder / f"{name}.npy", np.random.default_rng(number).uniform(size=(16, 16)))


def test_numbered_frames_share_their_split(tmp_path: Path) -> None:
    names = [f"{field}_{number:04}" for field in "abcd" for number in range(3)]
    write_frames(tmp_path / "images", *names)
    report = ingest([tmp_path / "images"], tmp_path / "s.zarr", crop_size=16)
    splits = [record.split for record in MicrographStore(tmp_path / "s.zarr").records(range(12))]
    assert splits[::3] == splits[1::3] == splits[2::3]
    assert set(splits) == {"train", "validation", "test"}
    assert report.notes == []


def write_series_and_copy(folder: Path, as_stored: Callable[[Path], Any]) -> None:
    """Two single images, a drift series, and the third frame of that once more, elsewhere."""
    write_frames(folder / "b", *(f"drift_{number:04}" for number in range(4)))
    for place, number in (("a/one", 8), ("c/two", 9)):
        (folder / place).parent.mkdir()
        np.save(folder / f"{place}.npy", np.random.default_rng(number).uniform(size=(16, 16)))
    as_stored(folder)


def copy_file(folder: Path) -> None:
    shutil.copy(folder / "b/drift_0002.npy", folder / "a/best.npy")


def export(folder: Path) -> None:
    image = (1000 * np.load(folder / "b/drift_0002.npy") - 7).astype(np.float32)
    tifffile.imwrite(folder / "a/best.tif", image)


def splits_of(store: Path) -> dict[str, str]:
    """The split of each file that has crops, by folder and name."""
    opened = MicrographStore(store)
    records = opened.records(range(len(opened)))
    return {"/".join(Path(r.source.path).with_suffix("").parts[-2:]): r.split for r in records}


@pytest.mark.parametrize(
    ("as_stored", "fits", "order"),
    [
        (copy_file, True, "abc"),
        (export, True, "abc"),
        (export, False, "abc"),
        (copy_file, False, "bca"),
    ],
)
def test_a_copy_of_a_frame_leaves_its_series_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_stored: Callable[[Path], Any],
    fits: bool,
    order: str,
) -> None:
    write_series_and_copy(tmp_path, as_stored)
    if not fits:
        monkeypatch.setattr("stem_complete.data.store.ingest._MAX_WAITING_BYTES", 5000)
    report = ingest([tmp_path / name for name in order], tmp_path / "s.zarr", crop_size=16)
    splits = splits_of(tmp_path / "s.zarr")
    series = {name: split for name, split in splits.items() if "drift" in name or "best" in name}
    assert len(series) == 4  # one of the two that are the same
    assert len(set(series.values())) == 1
    assert {splits["a/one"], splits["c/two"], *series.values()} == {"train", "validation", "test"}
    assert (report.num_added, report.failed) == (6, {})
    sources = MicrographStore(tmp_path / "s.zarr").sources()
    assert len({source.group for source in sources}) == 3


@pytest.mark.parametrize(
    ("as_stored", "calls"),
    [
        (export, ["a", "c b"]),
        (copy_file, ["c b", "a"]),
        (copy_file, ["c a", "b/drift_0002.npy", "b"]),
        (export, ["c a", "b/drift_0002.npy", "b"]),
    ],
)
def test_a_series_follows_a_copy_of_its_frame_that_is_there(
    tmp_path: Path, as_stored: Callable[[Path], Any], calls: list[str]
) -> None:
    write_series_and_copy(tmp_path, as_stored)
    before: dict[str, str] = {}
    for call in calls:
        ingest([tmp_path / name for name in call.split()], tmp_path / "s.zarr", crop_size=16)
        splits = splits_of(tmp_path / "s.zarr")
        assert splits | before == splits
        before = splits
    assert len(splits) == 6
    series = {split for name, split in splits.items() if "drift" in name or "best" in name}
    assert len(series) == 1


def test_a_copy_is_recorded_once(tmp_path: Path) -> None:
    write_frames(tmp_path / "images", "a")
    shutil.copy(tmp_path / "images/a.npy", tmp_path / "images/b.npy")
    for _ in range(2):
        report = ingest([tmp_path / "images"], tmp_path / "s.zarr", crop_size=16)
        kept = [source.num_crops for source in MicrographStore(tmp_path / "s.zarr").sources()]
        assert kept == [1, 0]
    assert len(report.already_there) == 2


def test_a_series_is_known_by_its_path_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series_and_copy(tmp_path, export)
    monkeypatch.chdir(tmp_path)
    ingest(["a", "b/drift_0002.npy", "b/drift_0001.npy", "c"], "s.zarr", crop_size=16)
    monkeypatch.chdir(tmp_path / "c")
    ingest(["../b"], "../s.zarr")
    splits = splits_of(tmp_path / "s.zarr")
    assert len({splits[name] for name in ("a/best", "b/drift_0000", "b/drift_0001")}) == 1


def test_fields_in_two_splits_that_share_an_image_are_told(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", "one", "two")
    store = tmp_path / "s.zarr"
    ingest([tmp_path / "a"], store, crop_size=16)
    stack = np.stack([np.load(tmp_path / f"a/{name}.npy") for name in ("two", "one")])
    np.save(tmp_path / "both.npy", np.concatenate([stack, 1 / (1 + stack[:1])]))
    [note, _] = ingest([tmp_path / "both.npy"], store).notes
    assert note == (
        f"{tmp_path}/a/one and {tmp_path}/both share an image, but the store has had them in train "
        "and validation, where they stay; to have them in one split, ingest all files into a new "
        "store"
    )
    assert MicrographStore(store).counts == {"train": 1, "validation": 2, "test": 0}


def test_a_single_field_of_view_is_told(tmp_path: Path) -> None:
    write_frames(tmp_path / "images", *(f"a_{number:04}" for number in range(9)))
    report = ingest([tmp_path / "images"], tmp_path / "s.zarr", crop_size=16)
    assert MicrographStore(tmp_path / "s.zarr").counts["train"] == 9
    [note] = report.notes
    assert note == (
        f"9 files count as one field of view, {tmp_path}/images/a, by the numbers in "
        "their names, so all are in train; no crops for validation and test; if they show "
        "different fields, ingest them into a new store with --group '(.*)'"
    )
    [note] = ingest([tmp_path / "images" / "a_0000.npy"], tmp_path / "t.zarr", crop_size=16).notes
    assert note.endswith("1 file counts as 1")


def test_a_field_of_view_that_most_files_count_as_is_told(tmp_path: Path) -> None:
    write_frames(tmp_path / "images", "a", "b", *(f"gold_{number:03}" for number in range(9)))
    [note] = ingest([tmp_path / "images"], tmp_path / "s.zarr", crop_size=16).notes
    assert note.startswith("9 files count as one field of view")
    assert "so all are in test; if they" in note
    options = {"crop_size": 16, "group_pattern": "(.*)"}
    assert ingest([tmp_path / "images"], tmp_path / "t.zarr", **options).notes == []
    options["group_pattern"] = "(images)"
    [note] = ingest([tmp_path / "images"], tmp_path / "u.zarr", **options).notes
    assert note.startswith("11 files count as one field of view, images, by --group, so all")


def test_a_pattern_names_fields_of_view(tmp_path: Path) -> None:
    names = [f"area{area}_{detector}" for area in range(4) for detector in ("bf", "haadf")]
    write_frames(tmp_path / "images", *names)
    ingest([tmp_path / "images"], tmp_path / "s.zarr", crop_size=16, group_pattern=r"(area\d)")
    store = MicrographStore(tmp_path / "s.zarr")
    splits = [record.split for record in store.records(range(8))]
    assert splits[::2] == splits[1::2]
    assert {source.group for source in store.sources()} == {f"area{area}" for area in range(4)}


def test_files_that_a_pattern_does_not_name_are_told(tmp_path: Path) -> None:
    write_frames(tmp_path / "images", "area1_1", "area2_1", "b", "c")
    report = ingest(
        [tmp_path / "images"], tmp_path / "s.zarr", crop_size=16, group_pattern=r"(area\d)"
    )
    assert report.notes == [
        f"--group matches nothing in 2 of 4 files, such as {tmp_path}/images/b.npy; "
        "each of these is a field of view of its own"
    ]


def test_a_bad_pattern_leaves_no_store(tmp_path: Path) -> None:
    write_frames(tmp_path / "images", "a")
    with pytest.raises(ConfigError, match="regular expression"):
        ingest([tmp_path / "images"], tmp_path / "s.zarr", crop_size=16, group_pattern="(")
    assert not (tmp_path / "s.zarr").exists()


def test_bad_names_and_folders_are_listed_and_the_others_go_on(tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_frames(images, "good", "n" * 250)
    write_frames(tmp_path / "elsewhere", "a")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "gone.npy").symlink_to(tmp_path / "nowhere.npy")
    bad = images / os.fsdecode(b"bad\xff.npy")
    try:
        shutil.copy(images / "good.npy", bad)
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    report = ingest([images, tmp_path / "missing"], tmp_path / "s.zarr", crop_size=16)
    assert report.num_added == 2
    assert {Path(name).name for name in report.failed} == {
        "linked",
        "gone.npy",
        r"bad\xff.npy",
        "missing",
    }
    json.loads(report.to_json())


def test_crops_of_one_field_of_view_share_their_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a_c1", "a_c2", "b_c1", "b_c2", "c_c1", "c_c2", "d_c1", "d_c2"):
        np.save(tmp_path / f"{name}.npy", rng.uniform(size=(16, 16)))
    ingest([tmp_path], tmp_path / "s.zarr", crop_size=16)
    splits = [record.split for record in MicrographStore(tmp_path / "s.zarr").records(range(8))]
    assert splits[::2] == splits[1::2]
    assert set(splits) == {"train", "validation", "test"}


def test_bad_files_are_listed_and_the_others_go_on(
    tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    folder = write_images(2)
    (folder / "broken.tif").write_text("no TIFF")
    np.save(folder / "complex.npy", 1j * IMAGE)
    np.save(folder / "small.npy", IMAGE[:9, :9])
    bad = IMAGE.astype(np.float32)
    bad[5, 10] = np.nan
    np.save(folder / "nan.npy", bad)
    report = ingest([folder], tmp_path / "s.zarr", crop_size=16)
    assert {Path(path).name for path in report.failed} == {"broken.tif", "complex.npy"}
    for path, line in report.failed.items():
        assert line.startswith(path)
        assert "\n" not in line
    assert {Path(path).name: number for path, number in report.added.items()} == {
        "image000.npy": 9,
        "image001.npy": 9,
        "nan.npy": 5,
    }
    left_out = {(Path(r.path).name, r.row, r.column): r.reason for r in report.left_out}
    assert left_out == {
        ("nan.npy", 4, 1): "NaN or Inf, 1 pixel",
        ("small.npy", 0, 0): "smaller than a crop of 16, 9 x 9 px",
    }
    assert MicrographStore(tmp_path / "s.zarr").left_out() == report.left_out
    values = json.loads(report.to_json())
    assert values["num_added"] == 23
    assert values["left_out"][1]["reason"] == "smaller than a crop of 16, 9 x 9 px"
    again = ingest([folder], tmp_path / "s.zarr")
    assert (len(again.failed), len(again.already_there)) == (2, 4)
    assert MicrographStore(tmp_path / "s.zarr").left_out() == report.left_out


def test_scans_along_a_path_are_no_micrograph(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y, intensity = rng.uniform(0, 40, 64), rng.uniform(0, 40, 64), rng.uniform(size=(32, 64))
    np.savez(tmp_path / "scans.npz", x=x, y=y, intensity=intensity)
    np.savez(tmp_path / "image.npz", x=np.arange(32), y=np.arange(32), image=intensity[:, :32])
    report = ingest([tmp_path], tmp_path / "s.zarr", crop_size=16)
    assert (report.num_added, list(report.failed)) == (4, [str(tmp_path / "scans.npz")])
    assert "32 scans of 64 samples along a path" in report.failed[str(tmp_path / "scans.npz")]


def test_a_damaged_image_fails_beside_others_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_damaged_hdf5(path, IMAGE)
    report = ingest([path], tmp_path / "s.zarr", crop_size=16)
    assert (report.num_added, list(report.failed)) == (6, [f"{path}: bad"])


def test_nothing_to_store_leaves_no_store(tmp_path: Path) -> None:
    np.save(tmp_path / "small.npy", IMAGE)
    report = ingest([tmp_path / "small.npy"], tmp_path / "s.zarr")
    assert (report.num_added, len(report.left_out)) == (0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["small.npy"]


@pytest.mark.parametrize("stored", ["uint16", "float32"])
def test_every_number_format_survives(tmp_path: Path, stored: Any) -> None:
    dtypes = ["uint8", "int16", ">u2", "uint32", ">f4", "float64", "float16"]
    image: NDArray[Any] = IMAGE[:16, :16] // 256 + 3
    files = [tmp_path / f"{number}.npy" for number in range(len(dtypes))]
    images = [np.roll(image, number) for number in range(len(dtypes))]  # no two are the same
    for file, shifted, dtype in zip(files, images, dtypes, strict=True):
        np.save(file, shifted.astype(dtype))
    ingest(files, tmp_path / "s.zarr", crop_size=16, dtype=stored)
    store = MicrographStore(tmp_path / "s.zarr")
    assert len(store) == len(dtypes)
    for index, record in enumerate(store.records(range(len(store)))):
        np.testing.assert_array_equal(
            read_raw(store, [index])[0], images[index], record.source.path
        )


def test_pixel_sizes_are_kept(tmp_path: Path) -> None:
    options: dict[str, Any] = {"imagej": True, "resolution": (50, 50), "metadata": {"unit": "nm"}}
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, **options)
    ingest([tmp_path / "a.tif"], tmp_path / "s.zarr", crop_size=16)
    assert MicrographStore(tmp_path / "s.zarr").column("pixel_size_nm")[5] == pytest.approx(0.02)


@pytest.mark.parametrize(
    "wrong", [{"crop_size": 32}, {"dtype": "float32"}, {"compression": "zstd"}], ids=str
)
def test_a_store_keeps_its_settings(
    tmp_path: Path, write_images: Callable[..., Path], wrong: dict[str, Any]
) -> None:
    folder = write_images(1)
    ingest([folder], tmp_path / "s.zarr", crop_size=16)
    [(name, value)] = wrong.items()
    with pytest.raises(StoreError, match=f"a store with {name} {value}, found {name}"):
        ingest([folder], tmp_path / "s.zarr", **wrong)
    assert len(MicrographStore(tmp_path / "s.zarr")) == 9


def test_a_store_is_no_source(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    folder = write_images(1)
    ingest([folder], folder / "s.zarr", crop_size=16)
    assert ingest([folder], folder / "s.zarr").failed == {}  # passed over in its folder
    report = ingest([folder / "s.zarr"], tmp_path / "other.zarr", crop_size=16)
    assert "a store of ingested crops" in report.failed[str(folder / "s.zarr")]


def test_no_files_is_an_error_before_a_store_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="supported format"):
        ingest([tmp_path], tmp_path / "s.zarr")
    assert not list(tmp_path.iterdir())
