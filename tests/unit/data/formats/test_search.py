"""Files are found in folders and globs; what cannot be searched or read is listed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import zarr

from stem_complete.data.formats.readers import reader_of
from stem_complete.data.formats.search import find_files, search
from stem_complete.errors import DataError

IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 48)).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.tif", "a.TIF", "sub/c.npy", "sub/notes.txt", ".hidden/d.tif", ".e.tif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    zarr.create_array(tmp_path / "sub" / "z.zarr", data=IMAGE)
    return tmp_path


def test_folders_are_searched(folder: Path) -> None:
    expected = ["a.TIF", "b.tif", "sub/c.npy", "sub/z.zarr"]
    assert find_files([folder]) == [folder / name for name in expected]


def test_files_globs_and_repetition(folder: Path) -> None:
    found = find_files([folder / "b.tif", f"{folder}/*.tif", f"{folder}/**/*.npy", folder])
    expected = ["b.tif", "sub/c.npy", "a.TIF", "sub/z.zarr"]
    assert found == [folder / name for name in expected]


def test_a_file_name_with_brackets_is_no_glob(tmp_path: Path) -> None:
    path = tmp_path / "scan[1].tif"
    path.write_bytes(b"x")
    assert find_files([path]) == [path]


def test_the_series_of_a_tia_pair_counts_once(tmp_path: Path) -> None:
    for name in ("a.emi", "a_1.ser", "a_2.ser", "b.emi"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_files([tmp_path])] == ["a_1.ser", "a_2.ser", "b.emi"]
    assert find_files([tmp_path / "a.emi"]) == [tmp_path / "a.emi"]  # asked for by name


@pytest.mark.parametrize(
    ("source", "found"),
    [("nothing.tif", "no such file"), ("*.dm4", "none"), ("sub/notes.txt", r"a \.txt file")],
)
def test_sources_without_files(folder: Path, source: str, found: str) -> None:
    with pytest.raises(DataError, match=found):
        find_files([folder / source])


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="supported format"):
        find_files([tmp_path])


def test_a_zipped_zarr_hierarchy_is_a_file(tmp_path: Path) -> None:
    for name in ("a.zarr.zip", "b.zip", "c.ozx"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_files([tmp_path])] == ["a.zarr.zip", "c.ozx"]


# --- what cannot be searched ------------------------------------------------------------------


def failures(*sources: Path) -> dict[str, str]:
    """What a search lists, by name; each in one line that names it."""
    failed = search(sources).failed
    for name, error in failed.items():
        assert str(error).startswith(name)
        assert "\n" not in str(error)
    return {Path(name).name: error.found for name, error in failed.items()}


def test_names_that_are_no_utf8_are_listed(tmp_path: Path) -> None:
    (tmp_path / "good.npy").write_bytes(b"x")
    bad = os.fsencode(tmp_path) + b"/bad\xff.npy"
    bad_folder = os.fsencode(tmp_path) + b"/folder\xfe"
    try:
        with open(bad, "wb"):  # noqa: PTH123 (a name of bytes)
            os.mkdir(bad_folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    assert [path.name for path in search([tmp_path]).files] == ["good.npy"]
    expected = {r"bad\xff.npy": "bytes that are none", r"folder\xfe": "bytes that are none"}
    assert failures(tmp_path) == expected
    assert failures(Path(os.fsdecode(bad))) == {r"bad\xff.npy": "bytes that are none"}


def test_a_folder_without_permission_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.npy", "locked/b.npy", "open/c.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    scandir = os.scandir

    def scan(path: Path) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert [path.name for path in search([tmp_path]).files] == ["a.npy", "c.npy"]
    assert failures(tmp_path) == {"locked": "Permission denied"}


def test_links_to_folders_and_dangling_ones_are_listed(tmp_path: Path) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    for path in (images / "sub" / "a.npy", elsewhere / "b.npy"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    (images / "linked").symlink_to(elsewhere)
    (images / "again").symlink_to(images / "sub")  # searched anyway
    (images / "file.npy").symlink_to(elsewhere / "b.npy")
    (images / "gone.npy").symlink_to(elsewhere / "c.npy")
    assert [path.name for path in search([images]).files] == ["file.npy", "a.npy"]
    assert failures(images) == {
        "linked": f"a link to {elsewhere}, which is not followed",
        "gone.npy": f"a link to {elsewhere / 'c.npy'}, which is not there",
    }
    assert search([f"{images}/*.npy"]).files == [images / "file.npy"]
    assert list(failures(Path(f"{images}/*.npy"))) == ["gone.npy"]
    assert search([images / "linked"]).files == [images / "linked" / "b.npy"]  # asked for by name


def test_what_is_no_file_is_told_and_the_others_go_on(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "loop.d").symlink_to("loop.d")
    (folder / "lost.zarr" / "0").mkdir(parents=True)  # copied without its hidden files
    os.mkfifo(folder / "pipe.tif")
    files, failed = search([folder])
    assert folder / "b.tif" in files
    assert folder / "pipe.tif" in files  # reading it says what it is
    assert {Path(name).name for name in failed} == {"loop", "loop.d", "lost.zarr"}
    assert "files whose names begin with a dot" in str(failed[str(folder / "lost.zarr")])
    with pytest.raises(DataError, match="found a pipe, socket or device"):
        reader_of(folder / "pipe.tif")


def test_a_pattern_takes_a_zarr_hierarchy_as_one_file(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a" / "image.zarr")
    group.create_array("0", data=np.ones((4, 4)))
    assert find_files([str(tmp_path / "**")]) == [tmp_path / "a" / "image.zarr"]
    assert find_files([str(tmp_path / "a/image.zarr/*")]) == [tmp_path / "a" / "image.zarr" / "0"]


def test_a_pattern_goes_round_no_circles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.tif").write_bytes(b"x")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "also up").symlink_to("..")
    files, failed = search([str(tmp_path / "**" / "*.tif")])
    assert files == [tmp_path / "a" / "b.tif"]
    assert not failed


def test_one_bad_source_does_not_hide_the_others(folder: Path) -> None:
    found = search([folder / "nothing", folder / "b.tif", folder / "sub" / "notes.txt"])
    assert found.files == [folder / "b.tif"]
    assert {Path(name).name for name in found.failed} == {"nothing", "notes.txt"}
