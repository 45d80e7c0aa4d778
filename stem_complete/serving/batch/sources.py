"""What a user names -> the scans that are to be completed, as places and never as pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from stem_complete.credentials import storage_options
from stem_complete.data.formats.scan_arrays import ScanArray, scan_array
from stem_complete.errors import ConfigError, DataError, Failure, StemCompleteError
from stem_complete.inference.image_files import COMPLETED
from stem_complete.inference.scan_files import is_url, place, plan_files

LISTS = (".txt", ".lst", ".list")
"""Suffixes of text files that list scans."""

_ZARR = (".zarr", ".zspy")
_DIGITS = 6  # of numbers in names, so that they sort


class Source(NamedTuple):
    """A scan, or all scans of one file.

    Attributes:
        scan: Path or URL of its file, or of the zarr array that it is in.
        dwell: Likewise of its dwell map, None if it needs none.
        along: Likewise of its path.
        number: Its place in that array, or among the scans of the file; None: all of the file.
        name: What its completion is called: its path without suffix below the searched folder.
        in_array: Whether it is one of an array.
    """

    scan: str
    dwell: str | None = None
    along: str | None = None
    number: int | None = None
    name: str = ""
    in_array: bool = False

    def __str__(self) -> str:
        return self.scan if self.number is None else f"{self.scan}[{self.number}]"

    @property
    def key(self) -> str:
        """What it is known by, wherever the command is run."""
        return str(self.absolute())

    def absolute(self) -> Source:
        """The same for a process with another working folder."""
        dwell = None if self.dwell is None else absolute(self.dwell)
        along = None if self.along is None else absolute(self.along)
        return self._replace(scan=absolute(self.scan), dwell=dwell, along=along)


def absolute(path: str) -> str:
    """A path for processes with another working folder; a URL is one already."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - without ".."


class Found(NamedTuple):
    """Scans, and by name what could not be searched or opened."""

    sources: list[Source]
    failed: dict[str, Failure]


def find_sources(
    given: Sequence[str | Path],
    dwell: str | Path | None = None,
    along: str | Path | None = None,
    signal: str | None = None,
) -> Found:
    """The scans among files, folders, globs, lists and zarr arrays, on disks and object stores.

    A list is a text file with the path or URL of a scan in each line, and perhaps that of its dwell
    map behind a tab; or a Parquet file with columns `scan` and perhaps `dwell`. Relative paths
    begin where the list lies.

    Args:
        given: What the user named.
        dwell: See `plan_files`.
        along: Likewise.
        signal: Name of the array in zarr groups with several.

    Raises:
        ConfigError: Dwell maps of listed scans are not named in the list.
        DataError: There is no scan at all, or a list cannot be read.
        StorageError: An object store cannot be read.
    """
    lists = {str(each): rows for each in given if (rows := _listed(str(each))) is not None}
    others = [each for each in given if str(each) not in lists]
    files = [
        Source(scan, own, name=name)
        for rows in lists.values()
        for (scan, own), name in zip(rows, _names([scan for scan, _ in rows]), strict=True)
    ]
    failed: dict[str, Failure] = {}
    if others:
        plan = plan_files(others, Path(), dwell, along)
        failed = plan.failed
        files += [
            Source(
                str(each.scan),
                None if each.dwell is None else str(each.dwell),
                None if each.along is None else str(each.along),
                name=str(each.image).removesuffix(f"{COMPLETED}.tif"),
            )
            for each in plan.files
        ]
    elif dwell is not None or along is not None:
        raise ConfigError(
            expected="dwell maps of listed scans in the list",
            found=str(dwell or along),
            where="--dwell" if along is None else "--path",
            fix="name them in the list, behind a tab or in a column `dwell`",
        )
    sources: list[Source] = []
    for file in files:
        try:
            sources += _of_array(file, signal)
        except StemCompleteError as error:
            failed[file.scan] = error.failure
    sources = list(dict.fromkeys(sources))  # lists may name one twice
    alike = _of_one_name(sources)
    failed |= {str(source): failure for source, failure in alike.items()}
    return Found([source for source in sources if source not in alike], failed)


def open_array(source: Source, signal: str | None = None) -> ScanArray | None:
    """The array that a source names; None if it is a file.

    Raises:
        DataError: It cannot be opened.
    """
    where = Path(source.scan)
    if where.suffix.lower() not in _ZARR or (not is_url(source.scan) and not where.is_dir()):
        return None
    options: dict[str, Any] = storage_options(source.scan) if is_url(source.scan) else {}
    return scan_array(source.scan, signal, along=source.along is not None, options=options)


def _of_array(file: Source, signal: str | None) -> list[Source]:
    """Each scan of an array, or the file as it is."""
    array = open_array(file, signal)
    if array is None:
        return [file]
    return [
        file._replace(number=number, name=f"{file.name}-{number:0{_DIGITS}}", in_array=True)
        for number in range(len(array))
    ]


def _listed(given: str) -> list[tuple[str, str | None]] | None:
    """The places of scans and dwell maps that a list names; None if it is no list."""
    suffix = Path(given).suffix.lower()
    if suffix in LISTS:
        path = place(given)
        if not path.is_file():
            raise DataError(
                expected="a list of scans", found="no such file", where=given, fix="check the path"
            )
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(
                expected="a list of scans in UTF-8",
                found=str(error),
                where=given,
                fix="save it as UTF-8",
            ) from None
        cells = [line.split("\t") for line in lines if line.strip() and line[0] != "#"]
        rows = [(row[0].strip(), row[1].strip() if len(row) > 1 else None) for row in cells]
    elif suffix == ".parquet":
        found = _parquet(given)
        if found is None:
            return None
        rows = found
    else:
        return None
    if not rows:
        raise DataError(
            expected="a list of scans",
            found="an empty one",
            where=given,
            fix="write the path or URL of a scan in each line",
        )
    folder = given.rpartition("/")[0] if is_url(given) else str(Path(given).parent)
    return [(_beside(scan, folder), dwell and _beside(dwell, folder)) for scan, dwell in rows]


def _parquet(given: str) -> list[tuple[str, str | None]] | None:
    """Rows of a Parquet file with a column `scan` of text; None if it holds samples."""
    from stem_complete.extras import require

    require("pyarrow", purpose=f"reading {Path(given).name}")
    from pyarrow import ArrowException, parquet, types

    try:
        with place(given).open("rb") as file:
            table = parquet.ParquetFile(file)
            columns = {field.name: field.type for field in table.schema_arrow}
            kind = columns.get("scan")
            if kind is None or not (types.is_string(kind) or types.is_large_string(kind)):
                return None
            wanted = [name for name in ("scan", "dwell") if name in columns]
            values = table.read(wanted).to_pydict()
    except (ArrowException, OSError):
        return None  # the reader of samples says what is wrong with it
    dwells = values.get("dwell") or [None] * len(values["scan"])
    return list(zip(values["scan"], dwells, strict=True))


def _beside(path: str, folder: str) -> str:
    if is_url(path) or Path(path).is_absolute():
        return path
    return f"{folder}/{path}" if is_url(folder) else str(Path(folder) / path)


def _names(scans: Sequence[str]) -> list[str]:
    """Names of listed scans: their paths below the folder that all of them are in."""
    folders = [scan.split("/")[:-1] for scan in scans]
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    depth = sum(1 for _ in same)
    return [
        "/".join((*folder[depth:], Path(scan).stem))
        for scan, folder in zip(scans, folders, strict=True)
    ]


def _of_one_name(sources: Iterable[Source]) -> dict[Source, Failure]:
    """Scans whose completions would get the name of another's."""
    of_name: dict[str, list[Source]] = {}
    for each in sources:
        of_name.setdefault(each.name, []).append(each)
    return {
        each: Failure(
            f"{' and '.join(str(other) for other in alike if other != each)} would be written to "
            f"{each.name}{COMPLETED}, too",
            "rename one, or complete them into different folders",
        )
        for alike in of_name.values()
        if len(alike) > 1
        for each in alike
    }
