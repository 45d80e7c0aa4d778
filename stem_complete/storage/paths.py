"""Paths of files and folders, on a local or shared disk, or at a URL such as s3://bucket/runs."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from upath import UPath

from stem_complete import files
from stem_complete.credentials import put_aside, storage_options
from stem_complete.errors import StemCompleteError, remedy
from stem_complete.extras import install_command

# Size of the parts in which files go to object stores and come back.
PART_BYTES = 32 * 2**20
_REMOTE_PACKAGES = {"aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "adlfs", "s3fs"}


class StorageError(StemCompleteError):
    """Storage that cannot be read or written: full, forbidden, missing, out of reach."""


class FileContent(NamedTuple):
    """Size [bytes] and SHA-256 of a whole file."""

    size: int
    sha256: str


def storage_path(path: str | Path | UPath) -> UPath:
    """`path` with the methods of `pathlib.Path`, and one of its subclasses if it is a local path.

    Raises:
        StorageError: It is a URL of an unknown kind, or the package for its kind is missing.
    """
    with clear_errors(path):
        try:
            bare = put_aside(path)
            upath = UPath(bare, **(storage_options(bare) if isinstance(bare, str) else {}))
            protocols = upath.fs.protocol
        except (ValueError, TypeError) as error:
            raise StorageError(
                expected="a path or a URL such as s3://bucket/runs",
                found=str(error),
                where=str(path),
                fix="correct it",
            ) from None
        # file:///folder is a local path too, but no pathlib.Path.
        return UPath(upath.path) if "file" in protocols else upath


def is_local(path: UPath) -> bool:
    """Whether `path` is on a disk, local or shared, and not on an object store."""
    return isinstance(path, Path)


def write_chunks(path: UPath, chunks: Iterable[memoryview]) -> FileContent:
    """Writes a file piece by piece and waits until it is on the disk; returns size and hash."""
    size, digest = 0, hashlib.sha256()
    options: dict[str, Any] = {} if is_local(path) else {"block_size": PART_BYTES}
    with path.open("wb", **options) as file:
        # Both release the GIL, so that training goes on beside a thread that writes.
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        if is_local(path):
            file.flush()
            os.fsync(file.fileno())
    return FileContent(size, digest.hexdigest())


def read_chunks(path: UPath, into: memoryview) -> FileContent:
    """Reads a file into a buffer; returns its hash, and a size of at most one byte too many."""
    size, digest = 0, hashlib.sha256()
    options: dict[str, Any] = {}
    if not is_local(path):
        options = {"block_size": PART_BYTES, "cache_type": "none"}
    with path.open("rb", **options) as file:
        while count := file.readinto(into[size : size + PART_BYTES]):
            digest.update(into[size : size + count])
            size += count
        size += len(file.read(1))
    return FileContent(size, digest.hexdigest())


def write_atomically(path: UPath, content: bytes) -> None:
    """Writes a small file of which readers see all or nothing."""
    if is_local(path):
        files.write_atomically(Path(str(path)), content)
    else:
        path.write_bytes(content)  # an object is there once all of it is


def create(path: UPath, content: bytes) -> bool:
    """Writes a small file if there is none; False if there is one.

    Of two that create the same one succeeds, but on object stores that cannot do that.
    """
    try:
        if is_local(path):
            _create_file(path, content)
        else:
            path.fs.pipe_file(path.path, content, mode="create")
    except FileExistsError:
        return False
    except OSError:
        if is_local(path):
            raise
        # S3's answer has no class of its own, whether there is an object or it knows no such mode.
        path.fs.invalidate_cache()
        if path.fs.exists(path.path):
            return False
        path.fs.pipe_file(path.path, content)
    return True


def _create_file(path: UPath, content: bytes) -> None:
    with path.open("xb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            remove(path)
            raise


def make_folder(path: UPath) -> None:
    """Makes a folder and those above it. Object stores need none, and buckets are not made."""
    if is_local(path):
        path.mkdir(parents=True, exist_ok=True)
        files.sync(Path(str(path)).parent)


def list_folder(path: UPath) -> list[UPath]:
    """Current content of a folder; empty if there is no folder.

    Raises:
        StorageError: Its bucket is missing or may not be read.
    """
    with clear_errors(path):
        if is_local(path):
            return list(path.iterdir()) if path.is_dir() else []
        path.fs.invalidate_cache()  # other processes write too
        try:
            names = path.fs.ls(path.path, detail=False)
        except FileNotFoundError:
            # Without objects there is no folder. Without a bucket this raises, too.
            with suppress(PermissionError):  # one may have rights on a part of it
                path.fs.ls(path.path.split("/")[0], detail=False)
            return []
        return [path / name.rstrip("/").rpartition("/")[2] for name in names]


def remove(path: UPath) -> None:
    """Removes a file, or a folder with its content, if it exists."""
    with suppress(FileNotFoundError):
        path.fs.rm(path.path, recursive=True)


@contextmanager
def clear_errors(where: str | Path | UPath) -> Iterator[None]:
    """Turns errors of file systems and object stores into one line with the fix.

    Raises:
        StorageError: Reading or writing failed in the block.
    """
    try:
        yield
    except StemCompleteError:
        raise
    except Exception as error:
        fix = _fix(error)
        if fix is None:
            raise
        raise StorageError(
            expected="storage that can be used",
            found=f"{type(error).__name__}: {error}",
            where=str(where),
            fix=fix,
        ) from error


def _fix(error: Exception) -> str | None:
    """What a user can do about an error of a file system; None for an error of this program."""
    name = type(error).__name__
    if isinstance(error, ImportError):
        return f"install the package for it, for s3:// with `{install_command('s3fs')}`"
    if "Credentials" in name or "Token" in name:
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, on every node"
    if isinstance(error, OSError) and (known := remedy(error)):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fewer = ", or lower training.keep_checkpoints and training.keep_best" if full else ""
        return f"{known}{fewer}"
    if isinstance(error, FileNotFoundError):
        return "create the bucket or folder, or choose another `storage`"
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in _REMOTE_PACKAGES:
        return "check that it can be reached (for S3 its endpoint, AWS_ENDPOINT_URL)"
    return None
