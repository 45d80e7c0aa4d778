"""The SQLite file in which runs are tracked without a server: whole or absent, and at its place."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from stem_complete.errors import TrackingError
from stem_complete.files import atomic_file, exclusive

DATABASE = "mlflow.db"
"""Name of the file in the folder of all runs."""

ARTIFACTS = "artifacts"
"""Folder of the runs' files, beside the database."""

RUN_TAG = "stem_complete.run"
"""Tag of a run, with its folder, by which it is found again."""

_BUSY_S = 20.0
"""For how long another process may hold the database, as in MLflow."""

_MAKING_S = 60.0
"""For how long another process may be making it."""

_MOST_CHECKED_BYTES = 64 * 2**20
"""Up to this size the whole file is looked through for damage: in a fraction of a second."""

DAMAGE_FIX = "restore it from a copy, or move it away, and the next run makes a new one"

_log = logging.getLogger(__name__)


class DatabaseError(TrackingError):
    """A database that cannot be used as it is; training goes on without it."""


class DamagedDatabaseError(DatabaseError):
    """A file of which a part is missing or overwritten."""


class _Schema(NamedTuple):
    """What a database holds: versions of its tables by MLflow's count, and number of runs."""

    versions: set[str]
    num_runs: int


@cache  # but for errors
def prepare(file: Path) -> None:
    """Makes the database, if there is none that MLflow can use.

    MLflow makes its tables in many steps, and neither it nor another process can use what is left
    if that ends half-way, or is done twice at a time. So one process makes a draft.

    Raises:
        DatabaseError: It has runs, and tables of another version; or it is damaged.
        BusyError: Another process takes too long to make it.
        OSError: It cannot be made.
    """
    from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision

    check_intact(file)
    newest = _get_latest_schema_revision()
    if _schema(file).versions == {newest}:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(file, wait_s=_MAKING_S):
        schema = _schema(file)
        if schema.versions == {newest}:
            return
        from alembic.script import ScriptDirectory

        scripts = ScriptDirectory.from_config(_get_alembic_config(""))
        known = {revision.revision for revision in scripts.walk_revisions()}
        if not schema.versions <= known:
            raise DatabaseError(
                expected="a database of this version of MLflow or an earlier one",
                found=f"tables of version {', '.join(schema.versions)}",
                where=file,
                fix="install the newer MLflow, or choose another tracking.uri",
            )
        if schema.num_runs:
            raise DatabaseError(
                expected=f"tables of version {newest}",
                found=f"version {', '.join(schema.versions) or 'unknown'}",
                where=file,
                fix=f"keep a copy, and bring it up to date with `mlflow db upgrade sqlite:///{file}`",
            )
        _make(file)


def _make(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # Of processes that were killed while they made it.
    for left in file.parent.glob(f".unfinished-*-{file.name}*"):
        left.unlink()
    if file.exists() and file.stat().st_size:
        aside = file.with_name(f"{file.name}.half-made")
        file.replace(aside)
        _log.warning("%s was half made and has no runs; it is now %s", file, aside.name)
    with atomic_file(file) as draft:
        # The root is that of MLflow's own experiment `Default`.
        store = SqlAlchemyStore(f"sqlite:///{draft}", (file.parent / ARTIFACTS).as_uri())
        store.engine.dispose()


def check_intact(file: Path, busy_s: float = _BUSY_S) -> None:
    """Looks for damage of a database, if there is one: bytes that are missing or make no sense.

    Args:
        file: The database.
        busy_s: For how long another process may hold it [s].

    Raises:
        DamagedDatabaseError: It is damaged.
        DatabaseError: It cannot be opened.
    """
    if not file.exists() or not file.stat().st_size:
        return
    with _opened(file, busy_s) as database:
        ((num_pages,),) = database.execute("PRAGMA page_count")
        ((page_bytes,),) = database.execute("PRAGMA page_size")
        num_bytes = file.stat().st_size
        newest_are_elsewhere = file.with_name(f"{file.name}-wal").exists()
        if num_bytes < num_pages * page_bytes and not newest_are_elsewhere:
            raise _damaged(file, f"{num_bytes:,} of {num_pages * page_bytes:,} bytes")
        if num_bytes <= _MOST_CHECKED_BYTES:
            ((found,),) = database.execute("PRAGMA quick_check(1)")
            if found != "ok":
                raise _damaged(file, " ".join(found.split()))


def is_damage(error: BaseException) -> bool:
    """Whether SQLite found that a file is no database, or one of which a part is damaged."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what an extended code adds
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _damaged(file: Path, found: str) -> DamagedDatabaseError:
    return DamagedDatabaseError(
        expected="an SQLite database",
        found=f"a damaged one ({found})",
        where=file,
        fix=DAMAGE_FIX,
    )


def follow_move(file: Path, busy_s: float = _BUSY_S) -> None:
    """Corrects the places that a database knows, if it was moved or copied along with its runs.

    MLflow keeps absolute paths alone. What lay beside the database lies beside it still.
    """
    here, moved_from = file.parent, set()
    if not file.stat().st_size:  # it was just begun
        return
    with _opened(file, busy_s) as database:
        experiments = database.execute("SELECT experiment_id, artifact_location FROM experiments")
        for experiment, location in experiments.fetchall():
            # MLflow's own experiment `Default` has a folder there.
            start, _, rest = (location or "").rpartition(f"/{ARTIFACTS}")
            there = _local_path(start)
            if there is None or rest not in ("", "/0") or there == here:
                continue
            if (there / ARTIFACTS).exists() and not (here / ARTIFACTS).exists():
                continue  # it is the database alone that was copied
            root = f"{(here / ARTIFACTS).as_uri()}{rest}"
            database.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (root, len(location) + 1, experiment, len(location) + 1, f"{location}/"),
            )
            folder = f"{there}/"
            database.execute(
                "UPDATE tags SET value = ? || substr(value, ?) WHERE key = ? "
                "AND substr(value, 1, ?) = ? AND run_uuid IN "
                "(SELECT run_uuid FROM runs WHERE experiment_id = ?)",
                (f"{here}/", len(folder) + 1, RUN_TAG, len(folder), folder, experiment),
            )
            database.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (root, experiment),
            )
            moved_from.add(there)
    for there in moved_from:
        _log.warning("%s was in %s; its runs go on where it is now", file, there)


def _schema(file: Path) -> _Schema:
    """What is in a database; nothing if there is none."""
    if not file.exists():
        return _Schema(set(), 0)
    with _opened(file) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {name for (name,) in names}
        versions, num_runs = set(), 0
        if "alembic_version" in tables:
            rows = database.execute("SELECT version_num FROM alembic_version")
            versions = {version for (version,) in rows}
        if "runs" in tables:
            ((num_runs,),) = database.execute("SELECT count(*) FROM runs")
    return _Schema(versions, num_runs)


@contextmanager
def _opened(file: Path, busy_s: float = _BUSY_S) -> Iterator[sqlite3.Connection]:
    """The database, as it was if the block fails."""
    try:
        with (
            closing(
                sqlite3.connect(f"file:{quote(str(file))}?mode=rw", busy_s, uri=True)
            ) as database,
            database,
        ):
            yield database
    except sqlite3.Error as error:
        if is_damage(error):
            raise _damaged(file, str(error)) from error
        raise DatabaseError(
            expected="an SQLite database that can be read and written",
            found=str(error),
            where=file,
            fix="give it room and this user rights on it, end what holds it, or choose another "
            "tracking.uri",
        ) from error


def _local_path(location: str) -> Path | None:
    """The absolute path of a location on a disk; None for another kind."""
    parts = urlsplit(location)
    path = Path(unquote(parts.path) if parts.scheme == "file" else location)
    return path if parts.scheme in ("", "file") and path.is_absolute() else None
