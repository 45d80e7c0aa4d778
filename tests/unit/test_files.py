"""Files and folders are whole or absent."""

import hashlib
import os
import threading
import time
from contextlib import suppress

import pytest

from stem_complete.errors import BusyError
from stem_complete.files import atomic_file, atomic_folder, exclusive, sha256, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_old_one_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "new" / "image.png"
    write_atomically(path, "old")
    with atomic_file(path) as draft:
        draft.write_text("new")
        assert draft.suffix == ".png"
        assert draft.name.startswith(".")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["image.png"]


@pytest.mark.parametrize("length", [200, 239, 255])
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path, length):
    path = tmp_path / ("n" * (length - 4) + ".tif")
    for content in ("old", "new"):
        with atomic_file(path) as draft:
            assert draft.suffix == ".tif"
            assert draft.name.startswith(".")
            draft.write_text(content)
    assert path.read_text() == "new"
    for content in ("old", "new"):
        with atomic_folder(tmp_path / ("f" * length)) as draft:
            (draft / content).touch()
    assert names(tmp_path) == ["f" * length, path.name]
    assert names(tmp_path / ("f" * length)) == ["new"]


def test_two_long_names_have_drafts_of_their_own(tmp_path):
    paths = [tmp_path / ("n" * 250 + end) for end in "ab"]
    with atomic_file(paths[0]) as first, atomic_file(paths[1]) as second:
        first.write_text("a")
        second.write_text("b")
    assert [path.read_text() for path in paths] == ["a", "b"]


def fail_in(context, name):
    with context as draft:
        target = draft / name if draft.is_dir() else draft
        target.write_text("half")
        raise OSError("disk")


def test_a_file_stays_as_it_was_if_writing_fails(tmp_path):
    path = tmp_path / "text"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match="disk"):
        fail_in(atomic_file(path), "text")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["text"]


def test_a_folder_replaces_the_old_one_at_the_end_of_the_block(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "model") as draft:
            (draft / "sub").mkdir()
            (draft / "sub" / content).write_text(content)
            if content == "new":
                assert names(tmp_path / "model" / "sub") == ["old"]
    assert names(tmp_path / "model" / "sub") == ["new"]
    assert names(tmp_path) == ["model"]


def test_a_folder_stays_as_it_was_if_writing_fails(tmp_path):
    folder = tmp_path / "model"
    with atomic_folder(folder) as draft:
        (draft / "old").touch()
    with pytest.raises(OSError, match="disk"):
        fail_in(atomic_folder(folder), "half")
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["model"]


def test_hash_is_that_of_the_content(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 5000)
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_path_is_held_once_and_free_afterwards(tmp_path):
    path = tmp_path / "new" / "folder"
    for _ in range(2):
        with exclusive(path), pytest.raises(BusyError, match=f"held by process {os.getpid()} on"):
            exclusive(path).__enter__()
    with pytest.raises(KeyError), exclusive(path):
        raise KeyError
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("content", ["", "process 1 on elsewhere"])
def test_a_lock_that_a_dead_process_left_is_taken_over(tmp_path, content):
    (tmp_path / "folder.lock").write_text(content)
    with exclusive(tmp_path / "folder"):
        assert f"process {os.getpid()} on " in (tmp_path / "folder.lock").read_text()


def test_a_draft_is_removed_although_a_thread_still_writes_into_it(tmp_path):
    def write_late(draft, begun):
        begun.set()
        for number in range(20):
            with suppress(FileExistsError, FileNotFoundError):  # it is being removed
                draft.mkdir(parents=True, exist_ok=True)
                (draft / str(number)).touch()
            time.sleep(0.005)

    def fail():
        with atomic_folder(tmp_path / "store") as draft:
            begun = threading.Event()
            writer = threading.Thread(target=write_late, args=(draft, begun))
            writers.append(writer)
            writer.start()
            begun.wait()
            raise OSError("the disk is full")

    writers = []
    with pytest.raises(OSError, match="disk"):
        fail()
    writers[0].join()
    assert not list(tmp_path.iterdir())
