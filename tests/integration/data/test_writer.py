"""Out of disk or interrupted: the store stays whole, and a re-run completes it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stores import read_raw

from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore
from stem_complete.data.store.writer import StoreWriter
from stem_complete.errors import BusyError, StoreError


def names(path: Path) -> set[str]:
    return {Path(source.path).name for source in MicrographStore(path).sources()}


@pytest.fixture
def reference(
    tmp_path: Path, small_shards: None, write_images: Callable[..., Path]
) -> MicrographStore:
    """An undisturbed store of three files: 27 crops."""
    ingest([write_images(3)], tmp_path / "reference", crop_size=16)
    return MicrographStore(tmp_path / "reference")


FULL = errno.ENOSPC, "No space left on device"


def fill_the_disk(patch: pytest.MonkeyPatch, after: int, error: tuple[int, str] = FULL) -> None:
    """Lets no file be put into its place from number `after` on."""
    count, done = 0, Path.replace

    def fail(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count >= after:
            raise OSError(*error)
        return done(*arguments)

    patch.setattr(Path, "replace", fail)


def test_a_full_disk_leaves_the_store_as_it_was(
    tmp_path: Path, reference: MicrographStore, write_images: Callable[..., Path]
) -> None:
    folder = write_images(3)
    for after in (1, 15, 40):
        store = tmp_path / f"full{after}"
        ingest([folder / "image000.npy"], store, crop_size=16)
        before = MicrographStore(store).read(range(9))
        with pytest.MonkeyPatch.context() as patch:
            fill_the_disk(patch, after)
            with pytest.raises(StoreError, match=r"No space left on device.*run the same again"):
                ingest([folder], store)
        assert not list(store.rglob("c/**/*.partial"))
        after = MicrographStore(store)
        assert len(after) % 9 == 0
        assert (after.read(range(9)) == before).all()
        after.read(range(len(after)))
        ingest([folder], store)
        assert MicrographStore(store).fingerprint() == reference.fingerprint()


def test_what_may_not_be_written_is_no_full_disk(
    tmp_path: Path, write_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_images(1)
    fill_the_disk(monkeypatch, 1, (errno.EACCES, "Permission denied"))
    with pytest.raises(StoreError, match=r"let this user read and write there.*run the same again"):
        ingest([folder], tmp_path / "store", crop_size=16)


@pytest.mark.parametrize("after", [1, 5, 30])
def test_a_full_disk_leaves_nothing_of_a_new_store(
    tmp_path: Path,
    write_images: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    folder = write_images(1)
    fill_the_disk(monkeypatch, after)
    with pytest.raises(StoreError, match="No space left"):
        ingest([folder], tmp_path / "s.zarr", crop_size=16)
    assert {path.name for path in tmp_path.iterdir()} == {"images"}


@pytest.mark.parametrize("totals", [[1, 2, 3], [1, 3]], ids=str)
def test_the_store_does_not_depend_on_how_it_was_filled(
    tmp_path: Path, reference: MicrographStore, write_images: Callable[..., Path], totals: list[int]
) -> None:
    for total in totals:
        ingest([write_images(total, "part")], tmp_path / "s.zarr", crop_size=16)
    store = MicrographStore(tmp_path / "s.zarr")
    assert (read_raw(store, range(27)) == read_raw(reference, range(27))).all()
    assert store.counts == reference.counts
    assert store.fingerprint() == reference.fingerprint()
    assert len(list((tmp_path / "s.zarr" / "images" / "c").iterdir())) == 7  # 27 crops by 4


def test_an_error_in_the_block_stores_full_shards_only(
    tmp_path: Path, reference: MicrographStore, write_images: Callable[..., Path]
) -> None:
    def stop(path: Path, number: int, total: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    folder = write_images(3)
    ingest([folder / "image000.npy"], tmp_path / "s.zarr", crop_size=16)
    with pytest.raises(KeyboardInterrupt):
        ingest([folder], tmp_path / "s.zarr", progress=stop)
    # Of the crops that were ready.
    assert {"image000.npy"} <= names(tmp_path / "s.zarr") <= {"image000.npy", "image001.npy"}
    ingest([folder], tmp_path / "s.zarr")
    assert MicrographStore(tmp_path / "s.zarr").fingerprint() == reference.fingerprint()


def test_the_same_process_cannot_write_twice_at_once(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s.zarr"):
        with pytest.raises(BusyError, match=r"s\.zarr: expected no other process"):
            StoreWriter(tmp_path / "s.zarr").__enter__()
        assert (tmp_path / "s.zarr").exists()
    assert not list(tmp_path.iterdir())  # nothing was stored
