"""Connection to MLflow: URIs, settings, and the meaning of its errors."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from upath import UPath

from stem_complete.errors import ConfigError, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"

_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow prints links on stdout, where `--json` output goes.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By default MLflow gives up a dead server after minutes. The recorder retries by itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


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
    return f"{_SQLITE}{Path(storage).absolute()}/mlflow.db"


def absolute_uri(uri: str) -> str:
    """`uri`, with the path of an SQLite file made absolute: workers run in other folders."""
    file = sqlite_file(uri)
    return uri if file is None else f"{_SQLITE}{file}"


def sqlite_file(uri: str) -> Path | None:
    """The SQLite file behind `uri`, absolute; None for a server."""
    return Path(uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def connect(uri: str) -> MlflowClient:
    """MLflow's client for `uri`. The fluent API is not safe with several runs in one process.

    Raises:
        TrackingError: MLflow cannot use such a URI at all.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for chatty in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Its monitor tells of each outage, of which the recorder tells once.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    try:
        if not uri:  # MLflow would take one from the environment
            raise MlflowException.invalid_parameter_value("an empty text")
        return MlflowClient(uri)
    except (MlflowException, ImportError) as error:
        if getattr(error, "error_code", "INVALID_PARAMETER_VALUE") != "INVALID_PARAMETER_VALUE":
            raise
        raise TrackingError(
            expected="a tracking URI that MLflow can use",
            found=reason(error),
            where=uri,
            fix="use http(s)://host:port or sqlite:////absolute/path/mlflow.db",
        ) from error


def outages() -> tuple[type[Exception], ...]:
    """Exceptions of MLflow when its server or database does not answer, or not as one."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # ValueError: a proxy's HTML page where JSON was expected.
    return MlflowException, SQLAlchemyError, OSError, ValueError


def is_refusal(error: BaseException, uri: str) -> bool:
    """Whether MLflow itself refused a request for good.

    The error page that a proxy sends while a server restarts is no refusal, though MLflow's client
    gives it the same codes as the server's own answers.
    """
    from mlflow.exceptions import MlflowException, RestException

    answered = isinstance(error, RestException) or not uri.startswith("http")
    return isinstance(error, MlflowException) and answered and error.error_code in _REFUSALS


def reason(error: BaseException) -> str:
    """The root cause of `error` in one short line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 160 else f"{line[:157]}..."
