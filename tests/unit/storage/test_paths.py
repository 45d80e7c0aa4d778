"""Paths and URLs alike, and what goes wrong with them in one line with the fix."""

import errno
import hashlib
import pickle
import sys
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from fsspec.registry import _registry
from upath import UPath

from stem_complete.storage.paths import (
    PART_BYTES,
    StorageError,
    clear_errors,
    list_folder,
    make_folder,
    read_chunks,
    remove,
    storage_path,
    write_atomically,
    write_chunks,
)


@pytest.fixture(params=["path", "file URL", "memory URL"])
def folder(request, tmp_path):
    urls = {
        "path": tmp_path,
        "file URL": tmp_path.as_uri(),
        "memory URL": f"memory://{tmp_path.name}",
    }
    return storage_path(urls[request.param]) / "a" / "b"


def test_a_file_is_what_was_written(folder):
    content = bytes(range(256)) * (PART_BYTES // 256) + b"and a little more than one part"
    chunks = [memoryview(content)[start : start + 10**7] for start in range(0, len(content), 10**7)]
    make_folder(folder)
    written = write_chunks(folder / "file", chunks)
    assert written == (len(content), hashlib.sha256(content).hexdigest())
    buffer = bytearray(len(content))
    assert read_chunks(folder / "file", memoryview(buffer)) == written
    assert buffer == content


@pytest.mark.parametrize("size", [3, 5])
def test_a_file_of_another_size_is_not_that_file(folder, size):
    make_folder(folder)
    expected = write_chunks(folder / "file", [memoryview(b"four")])
    write_chunks(folder / "file", [memoryview(b"12345"[:size])])
    assert read_chunks(folder / "file", memoryview(bytearray(4))) != expected


def test_folders_are_listed_and_removed(folder):
    assert list_folder(folder) == []
    make_folder(folder)
    write_atomically(folder / "one", b"1")
    write_atomically(folder / "two", b"2")
    write_atomically(folder / "two", b"3")
    assert sorted(path.name for path in list_folder(folder)) == ["one", "two"]
    assert (folder / "two").read_bytes() == b"3"
    assert [path.name for path in list_folder(folder.parent)] == ["b"]
    remove(folder / "one")
    remove(folder / "one")
    assert [path.name for path in list_folder(folder)] == ["two"]
    remove(folder.parent)
    assert list_folder(folder) == []


def test_local_paths_are_pathlib_paths(tmp_path):
    for same in (tmp_path, str(tmp_path), UPath(tmp_path), tmp_path.as_uri()):
        path = storage_path(same)
        assert isinstance(path, Path)
        assert path == tmp_path
    assert not isinstance(storage_path("memory://runs"), Path)


def test_an_unknown_kind_of_url_is_one_line():
    with pytest.raises(StorageError, match=r"nonsense.*expected a path or a URL such as s3://"):
        storage_path("nonsense://bucket/runs")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(StorageError, match=r"s3://bucket/runs.*pip install 'stem-complete\[s3\]'"):
        storage_path("s3://bucket/runs")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "make room"),
        (PermissionError(errno.EACCES, "Permission denied"), "let this user read and write"),
        (FileNotFoundError("The specified bucket does not exist"), "create the bucket"),
        (OSError(errno.ESTALE, "Stale file handle"), "check that it can be reached"),
        (TimeoutError("timed out"), "check that it can be reached"),
        (NoCredentialsError(), "set AWS_ACCESS_KEY_ID"),
        (EndpointConnectionError(endpoint_url="http://x"), "AWS_ENDPOINT_URL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_are_one_line_with_the_fix(error, fix):
    message = f"^s3://bucket/runs: expected .*{fix}"
    with pytest.raises(StorageError, match=message) as caught, clear_errors("s3://bucket/runs"):
        raise error
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_errors_of_the_program_stay_what_they_are():
    with pytest.raises(KeyError, match="bug"), clear_errors("runs"):
        raise KeyError("bug")
