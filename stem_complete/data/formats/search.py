"""Files, folders and globs -> the files of supported formats among them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from stem_complete.data.formats.ome_zarr import ZARR_FILES, is_zarr
from stem_complete.data.formats.readers import SUPPORTED, check_file, has_reader, reader_of
from stem_complete.errors import DataError, remedy

_ZARR_FOLDERS = (".zarr", ".zspy")


class Found(NamedTuple):
    """What a search found.

    Attributes:
        files: Files of supported formats.
        failed: What could not be searched or read, by name: sources without such files, folders
            without permission, links, names that are no text.
    """

    files: list[Path]
    failed: dict[str, DataError]


def find_files(sources: Iterable[str | Path]) -> list[Path]:
    """Files as `search` finds them.

    Raises:
        DataError: A source is missing, holds no file of a supported format or is of another one,
            or something in a folder cannot be read.
    """
    files, failed = search(sources)
    for error in failed.values():
        raise error
    return files


def search(sources: Iterable[str | Path], more: Collection[str] = ()) -> Found:
    """Files of supported formats, or `more` suffixes, among files, folders and globs.

    Folders are searched through. Sorted within each source, without repetition. A zarr hierarchy
    counts as one file. Of a TIA pair in a folder (`a.emi`, `a_1.ser`) the SER files are taken, as
    they hold the images. A store of ingested crops in a folder is passed over. Links to folders are
    not followed, but listed unless they lead to where the search goes anyway.
    """
    found = Found([], {})
    for source in map(str, sources):
        num_failed = len(found.failed)
        try:
            files = _search_source(source, found.failed, more)
        except DataError as error:
            found.failed[printable(source)] = error
        except OSError as error:
            found.failed[printable(source)] = unreadable(source, error)
        else:
            found.files.extend(files)
            if not files and len(found.failed) == num_failed:
                found.failed[source] = DataError(
                    expected=f"files of a supported format ({' '.join((*SUPPORTED, *more))})",
                    found="none",
                    where=source,
                    fix="check the path",
                )
    return Found(list(dict.fromkeys(found.files)), found.failed)


def printable(path: str | Path) -> str:
    r"""The path as text, with bytes that are no UTF-8 as `\xff`."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unreadable(path: str | Path, error: OSError) -> DataError:
    """What to tell of a file or folder that the system does not let us read."""
    is_forbidden = isinstance(error, PermissionError)
    return DataError(
        expected="a file or folder that may be read",
        found=error.strerror or str(error),
        where=printable(path),
        fix="check its permissions, or leave it out"
        if is_forbidden
        else remedy(error) or "check that it is there, or leave it out",
    )


def _search_source(source: str, failed: dict[str, DataError], more: Collection[str]) -> list[Path]:
    is_pattern = has_magic(source) and not Path(source).exists()
    _check_name(source)
    if not is_pattern and (not Path(source).is_dir() or is_zarr(Path(source))):
        if Path(source).is_symlink():
            _check(Path(source))
        if Path(source).suffix.lower() in more:
            check_file(Path(source))
        else:
            reader_of(Path(source))
        return [Path(source)]
    files: list[Path] = []
    hierarchies: set[Path] = set()
    for path in sorted(_matches(source), key=str) if is_pattern else [Path(source)]:
        if not hierarchies.isdisjoint(path.parents):  # an array of a hierarchy that ** went into
            continue
        if is_pattern and path.is_dir() and is_zarr(path):
            hierarchies.add(path)
        if path.is_dir() and not is_zarr(path):
            files += _search_folder(path, failed, more)
        elif is_zarr(path) or has_reader(path, more):
            files += _checked([path], failed)
    return _without_paired_emi(files)


def _matches(pattern: str) -> Iterator[Path]:
    """What a glob matches, but for hidden names that it does not name. `**` follows no links."""
    path = Path(pattern)
    for match in Path(path.anchor).glob(str(path.relative_to(path.anchor))):
        if not any(part[0] == "." and part not in path.parts for part in match.parts):
            yield match


def _search_folder(folder: Path, failed: dict[str, DataError], more: Collection[str]) -> list[Path]:
    files: list[Path] = []
    named_zarr: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                paths = sorted(Path(entry.path) for entry in entries if _may_matter(entry, more))
        except OSError as error:
            failed[printable(here)] = unreadable(here, error)
            continue
        if here.suffix.lower() in _ZARR_FOLDERS:
            named_zarr.append(here)
        for path in _checked(paths, failed):
            is_folder = path.is_dir()
            if is_folder and is_zarr(path):
                files += [] if _is_store(path) else [path]
            elif not is_folder:
                files += [path] if has_reader(path, more) else []
            elif not path.is_symlink():
                waiting.append(path)
            elif not path.resolve().is_relative_to(folder.resolve()):
                failed[str(path)] = DataError(
                    expected="a folder",
                    found=f"a link to {path.resolve()}, which is not followed",
                    where=path,
                    fix="give that folder, too",
                )
    for path in named_zarr:
        if not any(path in file.parents for file in files):
            failed[str(path)] = DataError(
                expected="a zarr hierarchy",
                found=f"a folder without {' or '.join(ZARR_FILES)}",
                where=path,
                fix="copy it again, with the files whose names begin with a dot",
            )
    return sorted(files)


def _may_matter(entry: os.DirEntry[str], more: Collection[str]) -> bool:
    """Whether it may be a folder or a file of a supported format, as far as its name tells."""
    path = Path(entry.name)
    if entry.name[0] == ".":
        return False
    if has_reader(path, more) or (not path.suffix and entry.is_symlink()):
        return True
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, which `_check` tells
        return True


def _checked(paths: Iterable[Path], failed: dict[str, DataError]) -> list[Path]:
    """The paths that `_check` finds nothing wrong with."""
    kept = []
    for path in paths:
        try:
            _check(path)
        except DataError as error:
            failed[printable(path)] = error
        except OSError as error:
            failed[printable(path)] = unreadable(path, error)
        else:
            kept.append(path)
    return kept


def _check(path: Path) -> None:
    """Raises DataError for a name that is no text and for a link that leads nowhere.

    Raises:
        OSError: It cannot be looked at.
    """
    _check_name(path)
    if path.is_symlink() and not path.exists():
        raise DataError(
            expected="a file or folder",
            found=f"a link to {path.readlink()}, which is not there",
            where=path,
            fix="remove the link or restore what it leads to",
        )
    path.stat()


def _check_name(path: str | Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            expected="a name in UTF-8",
            found="bytes that are none",
            where=printable(path),
            fix="rename it",
        ) from error


def _is_store(path: Path) -> bool:
    from stem_complete.data.store.layout import is_store

    return is_store(path)


def _without_paired_emi(files: list[Path]) -> list[Path]:
    paired = {
        path.with_name(re.sub(r"_\d+$", "", path.stem))
        for path in files
        if path.suffix.lower() == ".ser"
    }
    return [p for p in files if p.suffix.lower() != ".emi" or p.with_suffix("") not in paired]
