"""Connection to MLflow: URIs, settings, and the meaning of its errors."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from upath import UPath

from stem_complete.credentials import hidden, put_aside, restored
from stem_complete.errors import (
    BusyError,
    ConfigError,
    StemCompleteError,
    TrackingError,
    system_error_in_one_line,
)
from stem_complete.extras import program, require
from stem_complete.files import leave_removed_folder
from stem_complete.tracking.database import (
    DAMAGE_FIX,
    DATABASE,
    DatabaseError,
    is_damage,
    prepare,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from stem_complete.config import Config

_T = TypeVar("_T")

URI_VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's environment variable, which holds where a config or an option says nothing."""

_SQLITE = "sqlite:///"

_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")

_DRIVERS = {"MySQLdb": "mysqlclient", "psycopg2": "psycopg2-binary", "psycopg": "'psycopg[binary]'"}
"""What is installed for a driver of a database, by the name that is imported."""

_USUAL_DRIVERS = {
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "mariadb": "mysql+pymysql",
    "mysql": "mysql+pymysql",
    "mssql": "mssql+pyodbc",
    "sqlite": "sqlite",
}

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow prints links on stdout, where `--json` output goes.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By default MLflow gives up a dead server after minutes. The recorder retries by itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}

OPENING_S = 10.0
"""For how long the start of a run waits for a server [s]."""

ANSWER_S = 30.0
"""For how long a server may keep its first answer to a question of the user [s]."""

OPENING_AGAIN_S = 1.0
"""For how long that of a sweep's runs does, if the sweep's own waited in vain [s]."""


def default_uri(storage: str | Path) -> str:
    """Tracking URI of an SQLite file in the folder `storage`; artifacts go to its `artifacts`.

    Raises:
        ConfigError: `storage` is a URL: an object store can hold no database.
    """
    if UPath(storage).protocol:
        raise ConfigError(
            expected="tracking.uri, as the runs are on an object store, which holds no database",
            found="none",
            where=str(storage),
            fix="add tracking.uri=http://host:port of an MLflow server, or tracking.enabled=false",
        )
    return f"{_SQLITE}{Path(storage).absolute()}/{DATABASE}"


def database_above(run_folder: Path) -> str | None:
    """Tracking URI of the database beside a run; one of a sweep lies deeper. None if there is none.

    A run that was moved along with the database is not where its config says.
    """
    above = list(run_folder.absolute().parents)[:2]
    return next((default_uri(each) for each in above if (each / DATABASE).exists()), None)


def tracking_uri(config: Config) -> str:
    """`tracking.uri` of a run, or else what MLFLOW_TRACKING_URI says, or else `default_uri`."""
    uri = config.tracking.uri or os.environ.get(URI_VARIABLE)
    return absolute_uri(uri or default_uri(config.storage))


def absolute_uri(uri: str) -> str:
    """`uri` as it may be kept and shown: without credentials, and the same from any folder."""
    uri = str(put_aside(uri))
    file, (_, mark, options) = sqlite_file(uri), uri.partition("?")
    return uri if file is None else f"{_SQLITE}{file}{mark}{options}"


def sqlite_file(uri: str) -> Path | None:
    """The SQLite file behind `uri`, absolute; None for a server."""
    if not uri.startswith(_SQLITE):
        return None
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute()


def load_mlflow() -> None:
    """Imports MLflow with our settings, which takes seconds."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    logging.getLogger("alembic").setLevel(logging.WARNING)
    # These tell of each outage at length, of which the recorder tells once.
    for chatty in ("mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)


def patience(uri: str) -> float:
    """For how long the end of a run waits for an answer [s].

    A server may be anywhere. A database is a file here, which another process may hold for a while.
    """
    return 4.0 if sqlite_file(uri) is None else 30.0


def connect(uri: str) -> MlflowClient:
    """MLflow's client for `uri`. The fluent API is not safe with several runs in one process.

    An SQLite file is made if there is none.

    Raises:
        TrackingError: MLflow cannot use such a URI at all.
    """
    leave_removed_folder()  # MLflow asks where it is
    load_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError

    if (file := sqlite_file(uri)) is not None:
        prepare(file)
    try:
        if not uri:  # MLflow would take one from the environment
            raise MlflowException.invalid_parameter_value("an empty text")
        return MlflowClient(restored(uri))
    except (MlflowException, ImportError, ArgumentError) as error:
        if getattr(error, "error_code", "INVALID_PARAMETER_VALUE") != "INVALID_PARAMETER_VALUE":
            raise
        raise TrackingError(
            expected="a tracking URI that MLflow can use",
            found=reason(error),
            where=uri,
            fix=_fix(uri, error),
        ) from error


def open_existing(uri: str, *, purpose: str) -> MlflowClient:
    """MLflow's client for `uri`, of which no database is made.

    Raises:
        TrackingError: There is none, or the server does not answer.
        MissingPackageError: MLflow is not installed.
    """
    require("mlflow", purpose=purpose)
    file = sqlite_file(uri)
    # MLflow would make a new, empty database of a misspelt path.
    if file is not None and not file.exists():
        raise unreachable(uri, "no such file")
    problems = outages()
    try:
        return within(ANSWER_S, partial(connect, uri))
    except DatabaseError:
        raise  # which has a fix of its own
    except problems as error:
        raise unreachable(uri, reason(error)) from error


def unreachable(uri: str, found: str) -> TrackingError:
    """Error about a tracking server or database that gives no answer."""
    return TrackingError(
        expected="an MLflow tracking server or database that answers",
        found=found,
        where=uri,
        fix="check the tracking URI and that the server runs",
    )


def _fix(uri: str, error: Exception) -> str:
    """What makes MLflow take a URI."""
    scheme = uri.partition("://")[0]
    database = scheme.partition("+")[0]
    if isinstance(error, ImportError):
        driver = _DRIVERS.get(str(error.name), str(error.name))
        return f"install its driver: {program('pip')} install {driver}"
    usual = _USUAL_DRIVERS.get(database, scheme)
    if usual != scheme:
        return f"write {usual}:// instead of {scheme}://"
    return "use http(s)://host:port or sqlite:////absolute/path/mlflow.db"


def within(limit_s: float, call: Callable[[], _T]) -> _T:
    """The result of `call`, which waits for a server.

    After `limit_s` seconds it is left alone in its daemon thread. A request has a time limit, too,
    but one that starts anew with each byte of the answer, and none while a name is looked up.

    Raises:
        TimeoutError: It took longer.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # for `result` to raise
            future.set_exception(error)

    threading.Thread(target=run, name="mlflow-request", daemon=True).start()
    try:
        return future.result(limit_s)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {limit_s:g} s") from None


def quoted(text: str) -> str:
    """A text as a filter of MLflow's searches takes it."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"


def outages() -> tuple[type[Exception], ...]:
    """Exceptions of MLflow when its server or database does not answer, or not as one."""
    load_mlflow()
    from adbc_driver_manager import Error as DriverError
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    databases = SQLAlchemyError, CommandError, DatabaseError, BusyError, DriverError
    # ValueError: a proxy's HTML page where JSON was expected.
    return MlflowException, *databases, OSError, ValueError


def outage(error: BaseException) -> str:
    """How MLflow fails, as the end of a sentence about it; `reason` says why."""
    return "cannot be used" if isinstance(error, DatabaseError) else "does not answer"


def is_refusal(error: BaseException, uri: str) -> bool:
    """Whether MLflow itself refused a request for good.

    The error page that a proxy sends while a server restarts is no refusal, though MLflow's client
    gives it the same codes as the server's own answers.
    """
    from mlflow.exceptions import MlflowException, RestException

    answered = isinstance(error, RestException) or not uri.startswith("http")
    return isinstance(error, MlflowException) and answered and error.error_code in _REFUSALS


def reason(error: BaseException) -> str:
    """The root cause of `error` in one short line, or what one of ours says with its fix."""
    while not isinstance(error, StemCompleteError):
        context = None if error.__suppress_context__ else error.__context__
        cause = error.__cause__ or context
        if not isinstance(cause, Exception):  # none, or a signal that ends the process
            break
        error = cause
    if isinstance(error, StemCompleteError):
        return str(error)
    if isinstance(error, OSError):
        return system_error_in_one_line(error)
    if is_damage(error):
        return f"the database is damaged, {error}; {DAMAGE_FIX}"
    line = " ".join(hidden(str(error)).split()) or type(error).__name__
    return line if len(line) <= 160 else f"{line[:157]}..."


def briefly(error: BaseException) -> str:
    """As `reason`, but where the place and the fix were told at the start of the outage."""
    if isinstance(error, StemCompleteError):
        return f"expected {error.expected}, found {error.found}"
    return reason(error)
