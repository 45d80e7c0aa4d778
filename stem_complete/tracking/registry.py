"""MLflow's registry: models by name and alias, and the runs that they came from.

A version's files are artifacts of the run that made it, under the hash of its card: a model that is
exported again after more training has other files, and versions stay what they were. The source of
a version is `runs:/<id>/<path>`, so that it follows a database that is moved with its runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stem_complete.credentials import restored
from stem_complete.errors import TrackingError
from stem_complete.files import sha256
from stem_complete.tracking.client import (
    ANSWER_S,
    URI_VARIABLE,
    absolute_uri,
    default_uri,
    open_existing,
    outages,
    quoted,
    reason,
    sqlite_file,
    unreachable,
    within,
)
from stem_complete.tracking.database import ARTIFACTS, RUN_TAG, DatabaseError, follow_move
from stem_complete.tracking.links import places_of_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODELS, RUNS = "models:/", "runs:/"
"""How names of MLflow begin: `models:/NAME@alias`, `models:/NAME/VERSION`, `runs:/ID`."""

WEIGHTS_TAG = "weights_sha256"
EXPERIMENT = "stem-complete"
"""Where a model gets a run to hold its files, if none made it."""

_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_RUN = re.compile(r"runs:/(?P<id>[^/]+)(?:/(?P<path>.+))?")

_T = TypeVar("_T")


@dataclass(frozen=True)
class FoundModel:
    """Where MLflow has a model.

    Attributes:
        place: URI of its files, which `download` takes; or the run's own folder, if MLflow has none
            of its files.
        in_mlflow: Whether `place` is a URI of MLflow's.
        uri: Tracking URI.
        weights_sha256: Hash of its weights when it was registered, "" if unknown.
    """

    place: str
    in_mlflow: bool
    uri: str
    weights_sha256: str = ""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name: Name of the model.
        version: Its number.
        alias: Alias that leads to it, None if none was asked for.
        run_id: Run that has its files.
        places: How to see it in MLflow's page.
    """

    name: str
    version: int
    alias: str | None
    run_id: str
    places: Mapping[str, str]

    @property
    def source(self) -> str:
        """What `load_completer` and `--model` take."""
        mark = f"/{self.version}" if self.alias is None else f"@{self.alias}"
        return f"{MODELS}{self.name}{mark}"


def registry_uri() -> str:
    """What MLFLOW_TRACKING_URI says, or else the database in ./runs."""
    return absolute_uri(os.environ.get(URI_VARIABLE) or default_uri(Path("runs")))


def find_model(source: str, uri: str | None = None) -> FoundModel:
    """Where the model of a registered name or of a run is.

    Args:
        source: `models:/NAME@alias`, `models:/NAME/VERSION`, or `runs:/ID`: the version that was
            registered last of that run, or else what is in its folder; or `runs:/ID/PATH`.
        uri: Tracking URI; by default `registry_uri`.

    Raises:
        TrackingError: The server does not answer, or has no such model, alias, version or run.
        MissingPackageError: MLflow is not installed.
    """
    model, run = _MODEL.fullmatch(source), _RUN.fullmatch(source)
    uri = absolute_uri(uri or registry_uri())
    if model is None and run is None:
        raise TrackingError(
            expected="models:/NAME@alias, models:/NAME/VERSION or runs:/ID",
            found=source,
            where="model",
            fix="write one of these",
        )
    with _answering(uri) as client:
        if run is not None:
            return _of_run(client, uri, run["id"], run["path"])
        assert model is not None
        version = _version(client, uri, **model.groupdict())
        return FoundModel(version.source, True, uri, version.tags.get(WEIGHTS_TAG, ""))


def download(found: FoundModel, file: str, into: Path) -> Path:
    """Fetches a file of a model that is in MLflow into a folder; returns where it is.

    Raises:
        TrackingError: It is not there, or the server does not answer.
    """
    problems = outages()
    from mlflow.artifacts import download_artifacts

    try:
        path = download_artifacts(
            f"{found.place}/{file}", dst_path=str(into), tracking_uri=restored(found.uri)
        )
    except problems as error:
        raise TrackingError(
            expected=f"{file} at {found.place}",
            found=reason(error),
            where=found.uri,
            fix="check that the artifacts of this server are reachable, or register it again",
        ) from error
    return Path(path)


def register_files(
    files: Sequence[Path],
    name: str,
    alias: str | None,
    *,
    run: str,
    title: str,
    tags: Mapping[str, str],
    description: str,
    uri: str | None = None,
) -> Registered:
    """Adds a version to the registered model `name`, which is created if there is none.

    Args:
        files: Files of the model; the last is its card.
        name: Name of the model.
        alias: Alias that leads to this version from now on.
        run: `runs:/ID` or the folder of the run that made it. If MLflow has none, one is created.
        title: Name of that run.
        tags: Of the version.
        description: Of the version, in Markdown.
        uri: Tracking URI; by default `registry_uri`.

    Raises:
        TrackingError: The server does not answer, or does not take the name or alias.
        MissingPackageError: MLflow is not installed.
    """
    uri = absolute_uri(uri or registry_uri())
    with _answering(uri) as client:
        from mlflow.exceptions import MlflowException

        run_id = _run_with(client, uri, run, title)
        path = f"models/{sha256(files[-1])[:16]}"
        try:
            for file in files:
                client.log_artifact(run_id, str(file), path)
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{RUNS}{run_id}/{path}"
            version = client.create_model_version(
                name, source, run_id, dict(tags), description=description
            )
            if alias is not None:
                client.set_registered_model_alias(name, alias, version.version)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise TrackingError(
                expected="a name and an alias that MLflow takes",
                found=reason(error),
                where=f"{name}@{alias}" if alias else name,
                fix="choose another one",
            ) from error
    number = int(version.version)
    return Registered(name, number, alias, run_id, places_of_model(uri, name, number))


@contextmanager
def _answering(uri: str) -> Iterator[MlflowClient]:
    """A client of a server that answers; what it raises becomes one line."""
    client = open_existing(uri, purpose="models by name")
    try:
        if (file := sqlite_file(uri)) is not None:
            follow_move(file)
        # The first answer tells whether it is there at all.
        within(ANSWER_S, partial(client.search_experiments, max_results=1))
        yield client
    except (DatabaseError, TrackingError):
        raise
    except outages() as error:
        raise unreachable(uri, reason(error)) from error


def _version(
    client: MlflowClient, uri: str, name: str, alias: str | None, version: str | None
) -> ModelVersion:
    if alias is not None:
        found = _or_none(lambda: client.get_model_version_by_alias(name, alias))
    else:
        found = _or_none(lambda: client.get_model_version(name, version))
    if found is not None:
        return found
    model = _or_none(lambda: client.get_registered_model(name))
    if model is None:
        names = [each.name for each in client.search_registered_models(max_results=20)]
        raise _no_such("a registered model", name, names, uri)
    if alias is not None:
        raise _no_such(f"an alias of {name}", alias, list(model.aliases), uri)
    numbers = [str(v.version) for v in client.search_model_versions(f"name = {quoted(name)}")]
    raise _no_such(f"a version of {name}", str(version), numbers[::-1], uri)


def _of_run(client: MlflowClient, uri: str, run_id: str, path: str | None) -> FoundModel:
    run = _or_none(lambda: client.get_run(run_id))
    if run is None:
        raise TrackingError(
            expected=f"a run {run_id}",
            found="none with that id",
            where=uri,
            fix="copy the id from MLflow's page, or set MLFLOW_TRACKING_URI to its server",
        )
    if path is not None:
        return FoundModel(f"{RUNS}{run_id}/{path}", True, uri)
    versions = client.search_model_versions(f"run_id = {quoted(run_id)}")
    if versions:
        newest = max(versions, key=lambda each: each.creation_timestamp)
        return FoundModel(newest.source, True, uri, newest.tags.get(WEIGHTS_TAG, ""))
    folder = run.data.tags.get(RUN_TAG, "")
    newest_there = _run_in(client, folder) if folder else None
    # A run that was started anew in the same folder has put its own model there.
    if newest_there is None or newest_there.info.run_id != run_id:
        raise TrackingError(
            expected=f"a model of run {run_id}",
            found=f"that of run {newest_there.info.run_id} in its folder"
            if newest_there
            else "a run that stem-complete did not train, and no registered version of it",
            where=uri,
            fix="name another run",
        )
    return FoundModel(folder, False, uri)


def _run_with(client: MlflowClient, uri: str, run: str, title: str) -> str:
    """Id of the MLflow run that is to hold a model's files."""
    if match := _RUN.fullmatch(run):
        return match["id"]
    if found := _run_in(client, run):
        return str(found.info.run_id)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        file = sqlite_file(uri)
        artifacts = None if file is None else (file.parent / ARTIFACTS).as_uri()
        experiment_id = client.create_experiment(EXPERIMENT, artifacts)
    else:
        experiment_id = experiment.experiment_id
    created = client.create_run(experiment_id, run_name=title)
    client.set_terminated(created.info.run_id)
    return str(created.info.run_id)


def _run_in(client: MlflowClient, folder: str) -> Run | None:
    """The newest run of a folder, of any experiment."""
    runs = client.search_runs(
        [each.experiment_id for each in client.search_experiments()],
        f"tags.`{RUN_TAG}` = {quoted(folder)}",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return runs[0] if runs else None


def _or_none(get: Callable[[], _T]) -> _T | None:
    """What MLflow has; None if it has no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return get()
    except MlflowException as error:
        # Of an alias that is unknown, MLflow says that the value is invalid.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _no_such(what: str, asked: str, there: Sequence[str], uri: str) -> TrackingError:
    return TrackingError(
        expected=f"{what} {asked!r}",
        found=", ".join(there) or "none",
        where=uri,
        fix="name one of those, register it, or set MLFLOW_TRACKING_URI to its server"
        if there
        else "register it with `stem-complete register`, or set MLFLOW_TRACKING_URI to its server",
    )
