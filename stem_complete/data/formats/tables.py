"""Tables of samples: CSV and the like, Parquet, and JSON of paths."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.formats.samples import Samples
from stem_complete.errors import DataError
from stem_complete.extras import require

_COMMENT = re.compile(r"\s*#\s*([\w .-]+?)\s*[:=]\s*(.*?)[\s,;]*")
_DELIMITERS = (";", "\t", ",", None)  # None: blanks
_UNNAMED = {2: ("x", "y"), 3: ("x", "y", "intensity")}


def read_csv(path: Path) -> Samples:
    """Columns of a text file: comments `# key: value`, names in the first line, one sample a line.

    Without names, two columns are x and y (Direct Electron's coordinates), three x, y and intensity
    (Open Beam Interface's answers).

    Raises:
        DataError: It is no such table.
    """
    raw = path.read_bytes()
    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        lines = raw.decode("latin-1").splitlines()
    comments = [line for line in lines if line.lstrip()[:1] == "#"]
    rows = [line for line in lines if line.strip() and line.lstrip()[0] != "#"]
    if not rows:
        raise DataError(
            expected="a table of samples",
            found="no line of it",
            where=path,
            fix="export the samples again, or leave it out",
        )
    delimiter = next(d for d in _DELIMITERS if d is None or d in rows[0])
    names = [cell.strip().strip("\"'") for cell in rows[0].split(delimiter)]
    if all(map(_is_number, names)):
        names = list(_UNNAMED.get(len(names), ()))
    else:
        rows = rows[1:]
    if not names or len(set(names)) < len(names):
        raise DataError(
            expected="a first line that names the columns, each once",
            found=f"{rows[0][:60]!r}" if not names else ", ".join(names),
            where=path,
            fix="write one, such as x,y,intensity",
        )
    columns = _numbers(rows, names, delimiter, path) if rows else {}
    matches = filter(None, map(_COMMENT.fullmatch, comments))
    return Samples(columns, {_key(match[1]): match[2] for match in matches})


def _numbers(
    rows: list[str], names: list[str], delimiter: str | None, path: Path
) -> dict[str, NDArray[np.float64]]:
    """Columns of numbers; those that begin with a word are left out."""
    if delimiter == ";":  # where a comma is the decimal point
        rows = [row.replace(",", ".") for row in rows]
    if delimiter is not None:
        gap = re.compile(rf"(?<![^{delimiter}])[ ]*(?=[{delimiter}]|$)")
        rows = [gap.sub("nan", row) if _has_gap(row, delimiter) else row for row in rows]
    cells = rows[0].split(delimiter)
    numbers = [i for i in range(len(names)) if i < len(cells) and _is_number(cells[i])]
    try:
        table = np.loadtxt(
            StringIO("\n".join(rows)), delimiter=delimiter, ndmin=2, usecols=numbers, comments=None
        )
    except ValueError as error:
        raise DataError(
            expected=f"a number in each of the columns {', '.join(names[i] for i in numbers)}",
            found=str(error).splitlines()[0].split(";")[0],
            where=path,
            fix="complete these lines, or remove them",
        ) from error
    return dict(zip((names[i] for i in numbers), table.T, strict=True))


def _has_gap(row: str, delimiter: str) -> bool:
    packed = row.replace(" ", "")
    return packed[0] == delimiter or packed[-1] == delimiter or delimiter * 2 in packed


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().replace(",", "."))
    except ValueError:
        return False
    return True


def read_parquet(path: Path) -> Samples:
    """Columns of a Parquet file; its own metadata are the comments.

    Raises:
        DataError: It cannot be read.
        MissingPackageError: pyarrow is not installed.
    """
    require("pyarrow", purpose=f"reading {path.name}")
    from pyarrow import ArrowException, parquet, types

    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(
            expected="a readable Parquet file",
            found=str(error).splitlines()[0],
            where=path,
            fix="check that the file is complete",
        ) from error
    columns = {
        field.name: table[field.name].to_numpy()
        for field in table.schema
        if types.is_integer(field.type) or types.is_floating(field.type)
    }
    units = {
        field.name: field.metadata[b"unit"].decode()
        for field in table.schema
        if b"unit" in (field.metadata or {})
    }
    metadata = {
        _key(key.decode()): value.decode("utf-8", "replace")
        for key, value in (table.schema.metadata or {}).items()
        if not key.startswith((b"pandas", b"ARROW"))
    }
    return Samples(columns, metadata, units)


def read_json(path: Path) -> Samples:
    """A path: `x`, `y`, `dwell` as lists, or scanspec's `midpoints` of axes and `duration` [s].

    Raises:
        DataError: It is no such file.
    """
    try:
        found = json.loads(path.read_bytes())
        columns, metadata = {}, {}
        for key, value in _flat(found):
            if isinstance(value, list) and len(value) > 2:
                columns[key] = np.asarray(value, dtype=np.float64)
            else:
                metadata[_key(key)] = value
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            expected="JSON of lists of numbers x, y, dwell",
            found=str(error).splitlines()[0],
            where=path,
            fix="write the path with `stem-complete scan`, or as CSV",
        ) from error
    return Samples(columns, metadata, {"duration": "s"})


def _flat(found: dict[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values, those of `midpoints` and other groups among them but lower and upper."""
    flat: list[tuple[str, Any]] = []
    for key, value in found.items():
        if not isinstance(value, dict):
            flat.append((key, value))
        elif key not in ("lower", "upper"):
            flat += _flat(value)
    return flat


def _key(name: str) -> str:
    return re.sub(r"[ .-]+", "_", name.strip()).lower()
