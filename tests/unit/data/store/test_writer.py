"""Killed, out of disk or two at once: the store stays whole, and a re-run completes it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.shards import NewShard
from stem_complete.data.store.store import MicrographStore
from stem_complete.data.store.writer import StoreWriter
from stem_complete.errors import StoreError

# Runs ingest in forks that die half-way through the k-th file of the store: every file, of zarr and
# of ours, is written beside its place and then put there. The forks are made before zarr starts its
# threads.
KILLED = """
import os, signal, sys
from pathlib import Path
from stem_complete.data.store import layout
from stem_complete.data.store.ingest import ingest

layout._MAX_SHARD_CROPS = 4
replace, count = Path.replace, 0

def replace_or_die(draft, place):
    global count
    count += 1
    if count == last:
        os.truncate(draft, draft.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(draft, place)

images, stores = sys.argv[1], sys.argv[2:]
for store in stores:
    last = int(Path(store).suffix[1:])
    if not os.fork():
        Path.replace = replace_or_die
        ingest([images], store, crop_size=16)
        os._exit(0)
    print(os.wait()[1])
"""


def names(path: Path) -> set[str]:
    return {Path(source.path).name for source in MicrographStore(path).sources()}


@pytest.fixture
def reference(tmp_path: Path, small_shards: None, write_images: Callable[..., Path]) -> str:
    """Fingerprint of an undisturbed store of six files."""
    ingest([write_images(6)], tmp_path / "reference", crop_size=16)
    return MicrographStore(tmp_path / "reference").fingerprint()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_anywhere_the_store_stays_whole_and_a_rerun_completes_it(
    tmp_path: Path, reference: str, write_images: Callable[..., Path]
) -> None:
    folder = write_images(6)
    kills = [5, 1, 20, 27, 28, 29, 41, 55, 110, 131, 10_000]
    stores = [tmp_path / f"killed.{kill}" for kill in kills]
    for store in stores[1:]:  # the first dies while the store is created
        ingest([folder / "image000.npy"], store, crop_size=16)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), *map(str, stores)],
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = [int(line) for line in done.stdout.split()]
    assert statuses[:-1] == [signal.SIGKILL] * (len(kills) - 1)
    assert statuses[-1] == 0  # not so many files are written
    held = []
    for store in stores[1:]:
        MicrographStore(store).read(range(len(MicrographStore(store))))
        held.append(len(MicrographStore(store)))
        assert held[-1] % 9 == 0  # whole files only
    assert held[0] == 9
    assert held == sorted(held)
    assert held[-1] == 54
    for store in stores:
        report = ingest([folder], store, crop_size=16)
        assert report.num_added + len(report.already_there) * 9 == 54
        assert MicrographStore(store).fingerprint() == reference
        MicrographStore(store).read(range(54))
    assert not list(tmp_path.rglob("*.partial"))


def fill_the_disk(
    patch: pytest.MonkeyPatch, kind: type[NewShard | Path], name: str, after: int
) -> None:
    """Makes a method fail from its call number `after` on."""
    count, done = 0, getattr(kind, name)

    def fail(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return done(*arguments)

    patch.setattr(kind, name, fail)


# Of files that are whole, and of crops that fill a shard.
FULL = [(Path, "replace", n) for n in (1, 15, 27, 28, 29, 60)]
FULL += [(NewShard, "append", n) for n in (1, 2, 11)]


def test_a_full_disk_leaves_the_store_as_it_was(
    tmp_path: Path, reference: str, write_images: Callable[..., Path]
) -> None:
    folder = write_images(6)
    for number, failing in enumerate(FULL):
        store = tmp_path / f"full{number}"
        ingest([folder / "image000.npy"], store, crop_size=16)
        before = MicrographStore(store).read(range(9))
        with pytest.MonkeyPatch.context() as patch:
            fill_the_disk(patch, *failing)
            with pytest.raises(StoreError, match=r"No space left on device.*run the same again"):
                ingest([folder], store)
        assert not list(store.rglob("c/**/*.partial"))
        after = MicrographStore(store)
        assert len(after) % 9 == 0
        assert (after.read(range(9)) == before).all()
        after.read(range(len(after)))
        ingest([folder], store)
        assert MicrographStore(store).fingerprint() == reference


@pytest.mark.parametrize("failing", [(Path, "replace", 1), (NewShard, "append", 1)])
def test_a_full_disk_leaves_nothing_of_a_new_store(
    tmp_path: Path,
    write_images: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    failing: tuple[Any, str, int],
) -> None:
    folder = write_images(1)
    fill_the_disk(monkeypatch, *failing)
    with pytest.raises(StoreError, match="No space left"):
        ingest([folder], tmp_path / "s.zarr", crop_size=16)
    assert {path.name for path in tmp_path.iterdir()} == {"images"}


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1, 1], [4, 2], [1, 5], [6]])
def test_the_store_does_not_depend_on_how_it_was_filled(
    tmp_path: Path, reference: str, write_images: Callable[..., Path], sizes: list[int]
) -> None:
    total = 0
    for size in sizes:
        total += size
        ingest([write_images(total, "part")], tmp_path / "s.zarr", crop_size=16)
    store = MicrographStore(tmp_path / "s.zarr")
    expected = MicrographStore(tmp_path / "reference")
    assert (store.read_raw(range(54)) == expected.read_raw(range(54))).all()
    assert store.counts == expected.counts
    assert store.fingerprint() == reference
    assert len(list((tmp_path / "s.zarr" / "images" / "c").iterdir())) == 14  # 54 crops by 4


def test_an_error_in_the_block_stores_full_shards_only(
    tmp_path: Path, reference: str, write_images: Callable[..., Path]
) -> None:
    def stop(path: Path, number: int, total: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    folder = write_images(6)
    ingest([folder / "image000.npy"], tmp_path / "s.zarr", crop_size=16)
    with pytest.raises(KeyboardInterrupt):
        ingest([folder], tmp_path / "s.zarr", progress=stop)
    # Of the crops that were ready.
    assert {"image000.npy"} <= names(tmp_path / "s.zarr") <= {"image000.npy", "image001.npy"}
    ingest([folder], tmp_path / "s.zarr")
    assert MicrographStore(tmp_path / "s.zarr").fingerprint() == reference


# --- the lock ---------------------------------------------------------------------------------

HOLDER = """
import sys
from stem_complete.data.store.writer import StoreWriter
with StoreWriter(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_one_writer_at_a_time_and_a_dead_one_is_taken_over_from(
    tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    folder, path = write_images(2), tmp_path / "s.zarr"
    ingest([folder / "image000.npy"], path, crop_size=16)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holds = json.loads((tmp_path / "s.zarr.lock").read_text())
        assert holds == {"pid": holder.pid, "host": socket.gethostname()}
        with pytest.raises(
            StoreError, match=f"being written by another process .process {holder.pid} on"
        ):
            ingest([folder], path)
        assert len(MicrographStore(path)) == 9  # readers do not mind
        holder.kill()
    assert (tmp_path / "s.zarr.lock").exists()
    assert ingest([folder], path).num_added == 9
    assert not (tmp_path / "s.zarr.lock").exists()


def test_a_lock_of_another_host_is_respected(
    tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    lock = tmp_path / "s.zarr.lock"
    lock.write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere"}))
    with pytest.raises(StoreError, match=f"on elsewhere.*remove {lock}"):
        ingest([write_images(1)], tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    assert lock.exists()


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]"])
def test_a_lock_that_names_nobody_is_taken_over(
    tmp_path: Path, write_images: Callable[..., Path], content: str
) -> None:
    (tmp_path / "s.zarr.lock").write_text(content)
    assert ingest([write_images(1)], tmp_path / "s.zarr", crop_size=16).num_added == 9


def test_the_same_process_cannot_write_twice_at_once(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s.zarr"):
        with pytest.raises(StoreError, match=f"process {os.getpid()}"):
            StoreWriter(tmp_path / "s.zarr").__enter__()
        assert (tmp_path / "s.zarr").exists()
    assert not list(tmp_path.iterdir())  # nothing was stored
