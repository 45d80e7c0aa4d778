"""Runs of MLflow, found again by their folder, so that a run goes on after a restart."""

from __future__ import annotations

import json
import logging
import math
import platform
import re
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from upath import UPath

from stem_complete.config import Config, differences, flatten, in_lines
from stem_complete.console import counted
from stem_complete.errors import TrackingError
from stem_complete.tracking.client import (
    OPENING_AGAIN_S,
    OPENING_S,
    absolute_uri,
    connect,
    outage,
    outages,
    quoted,
    reason,
    sqlite_file,
    within,
)
from stem_complete.tracking.database import ARTIFACTS, RUN_TAG, follow_move
from stem_complete.tracking.links import VIEW, VIEW_TAG, Place, keep_place
from stem_complete.vocabulary import TaskName, format_coverage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ARM_TAG = "stem_complete.arm"
SEED_TAG = "stem_complete.seed"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"

_PARAMS_PER_BATCH = 100  # the server's limit

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackedRun:
    """A run of a tracking server. It can be pickled and handed to a worker.

    Attributes:
        uri: Tracking server.
        config: The run's config.
        parent: The sweep that it belongs to.
        started_ms: When it started [ms since 1970].
        since_ms: An MLflow run that started earlier is another one [ms since 1970].
        experiment_id: None if the server did not answer; `MlflowRecorder` then opens the run later.
        run_id: As `experiment_id`.
    """

    uri: str
    config: Config
    parent: TrackedRun | None = None
    started_ms: int = 0
    since_ms: int = 0
    experiment_id: str | None = None
    run_id: str | None = None


def open_run(
    config: Config, uri: str, *, parent: TrackedRun | None = None, resume: bool = True
) -> TrackedRun:
    """Opens the MLflow run of `config.run_folder`: the one that exists if `resume`, or a new one.

    Sets its status to RUNNING and records the resolved config, versions and the commit. The sweep
    that it belongs to is `parent`, which is opened too if it is not open yet. If the server does
    not answer within seconds, warns and returns a run without `run_id`.

    Raises:
        TrackingError: The URI or the experiment cannot be used at all.
    """
    now_ms = time.time_ns() // 1_000_000
    run = TrackedRun(absolute_uri(uri), config, parent, now_ms, since_ms=0 if resume else now_ms)
    problems = outages()
    limit_s = OPENING_S if parent is None or parent.run_id else OPENING_AGAIN_S
    try:
        if sqlite_file(run.uri):
            return enter_run(run)  # a new database takes its time
        return within(limit_s, partial(enter_run, run, time.monotonic() + limit_s))
    except problems as error:
        _log.warning(
            "MLflow at %s %s (%s); training goes on and tries again later",
            run.uri,
            outage(error),
            reason(error),
        )
        return run


def enter_run(run: TrackedRun, deadline: float = math.inf) -> TrackedRun:
    """Finds or creates `run` and its parent, and returns it with ids; raises what MLflow raises.

    After `deadline` [s of `time.monotonic`], when another thread may be doing so, none is created.
    """
    if run.parent is not None and run.parent.run_id is None:
        run = replace(run, parent=enter_run(run.parent, deadline))
    client = connect(run.uri)
    if (file := sqlite_file(run.uri)) is not None:
        follow_move(file)
    experiment_id = _experiment(client, run)
    found = _find(client, experiment_id, run)
    if found is None:
        if time.monotonic() >= deadline:
            raise TimeoutError("too slow")
        found = client.create_run(
            experiment_id,
            # It may have started long before its server.
            start_time=run.started_ms,
            tags={RUN_TAG: _identity(run.config)},
            run_name=run.config.name,
        )
    run_id = found.info.run_id
    client.update_run(run_id, status="RUNNING")
    _describe(client, found, run)
    keep_place(run.config.run_folder, Place(run.uri, experiment_id, run_id))
    return replace(run, experiment_id=experiment_id, run_id=run_id)


def find_run_id(run: TrackedRun) -> str | None:
    """Id of `run` at a server that answers; None if the run is not open yet.

    Raises what MLflow raises if the server does not answer.
    """
    client = connect(run.uri)
    if run.run_id is not None:
        client.get_run(run.run_id)
        return run.run_id
    experiment = client.get_experiment_by_name(run.config.tracking.experiment)
    found = None if experiment is None else _find(client, experiment.experiment_id, run)
    return None if found is None else str(found.info.run_id)


def arm_and_seed(name: str) -> tuple[str, int | None]:
    """Arm and seed of a run named `<arm>-seed<k>`; any other name is an arm without a seed."""
    match = re.fullmatch(r"(.+)-seed(\d+)", name)
    return (match[1], int(match[2])) if match else (name, None)


def _experiment(client: MlflowClient, run: TrackedRun) -> str:
    from mlflow.exceptions import MlflowException

    name = run.config.tracking.experiment
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            # None leaves it to a server. For a database MLflow's default is `mlruns` in the
            # working directory.
            file = sqlite_file(run.uri)
            artifacts = None if file is None else (file.parent / ARTIFACTS).as_uri()
            return str(client.create_experiment(name, artifacts, tags={VIEW_TAG: VIEW}))
        except MlflowException as error:
            # Another run of a sweep was quicker.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            expected=f"an active experiment {name!r}",
            found="a deleted one",
            where=run.uri,
            fix="restore it in MLflow, or choose another name as tracking.experiment",
        )
    if experiment.tags.get(VIEW_TAG) != VIEW:
        with suppress(MlflowException):  # who may add runs may not change the experiment
            client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, VIEW)
    return str(experiment.experiment_id)


def _find(client: MlflowClient, experiment_id: str, run: TrackedRun) -> Run | None:
    found = _newest(client, experiment_id, run, _identity(run.config))
    if found is None and not run.since_ms and (earlier := _moved_from(run.config)) is not None:
        found = _newest(client, experiment_id, run, earlier)
        if found is not None:
            client.set_tag(found.info.run_id, RUN_TAG, _identity(run.config))
    return found


def _newest(client: MlflowClient, experiment_id: str, run: TrackedRun, identity: str) -> Run | None:
    runs = client.search_runs(
        [experiment_id],
        f"tags.`{RUN_TAG}` = {quoted(identity)} AND attributes.start_time >= {run.since_ms}",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return runs[0] if runs else None


def _identity(config: Config) -> str:
    return str(config.run_folder.absolute())


def _moved_from(config: Config) -> str | None:
    """Where the run's newest checkpoint was written, if that is a folder that is no more."""
    from stem_complete.storage.paths import is_local
    from stem_complete.training import Checkpoints  # with torch

    if not is_local(config.run_folder):
        return None
    for metadata in Checkpoints(config.run_folder).readable().values():
        written = metadata["config"]
        there = UPath(written["storage"]).absolute() / written["name"]
        return str(there) if is_local(there) and not there.exists() else None
    return None


def _describe(client: MlflowClient, found: Run, run: TrackedRun) -> None:
    """Records config, versions and commit. Params cannot change, so changed ones become tags."""
    from mlflow.entities import Param, RunTag

    values = run.config.model_dump(mode="json")
    logged = found.data.params
    params = {k: v if isinstance(v, str) else json.dumps(v) for k, v in flatten(values)}
    new = [Param(key, value) for key, value in params.items() if key not in logged]
    for start in range(0, len(new), _PARAMS_PER_BATCH):
        client.log_batch(found.info.run_id, params=new[start : start + _PARAMS_PER_BATCH])

    changed = {k: v for k, v in params.items() if logged.get(k, v) != v}
    tags = _tags(run) | {f"stem_complete.resumed.{key}": value for key, value in changed.items()}
    if NOTE_TAG not in found.data.tags:  # it may have been changed in MLflow's page
        tags[NOTE_TAG] = _note(run.config)
    client.log_batch(found.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    client.log_text(found.info.run_id, yaml.safe_dump(values, sort_keys=False), "config.yaml")


def _note(config: Config) -> str:
    """Description of a run, in Markdown."""
    scan = config.scan
    trained: dict[TaskName, str] = {
        "completion": f"with the {config.model.preset} network, on {scan.geometry} scans of "
        f"coverage {format_coverage(scan.coverage)}",
        "supersampling": "on CIFAR-10 at twice its size",
        "classification": "on CIFAR-10's classes",
    }
    length = f"{counted(config.training.steps, 'step')} of batch {config.batch_size}"
    changes = in_lines(differences(config.model_dump(mode="json")))
    return "\n".join(
        (
            f"{length} {trained[config.task]}.",
            "",
            f"* run: `{config.run_folder}`",
            f"* data: `{config.data.store}`",
            "",
            "What differs from the defaults:",
            "",
            *(f"    {line}" for line in changes),
        )
    )


def _tags(run: TrackedRun) -> dict[str, str]:
    config = run.config
    arm, seed = arm_and_seed(config.name)
    tags = {
        ARM_TAG: arm,
        SEED_TAG: str(config.training.seed if seed is None else seed),
        "stem_complete.recipe": config.recipe,
        "stem_complete.host": socket.gethostname(),
        "stem_complete.workers": str(config.scaling.num_workers),
        PARENT_TAG: run.parent.run_id if run.parent else None,
        "mlflow.source.git.commit": _commit(),
        "stem_complete.version.python": platform.python_version(),
    }
    for package in ("stem-complete", "torch", "ray", "zarr", "mlflow"):
        tags[f"stem_complete.version.{package}"] = _version(package)
    return {key: value for key, value in tags.items() if value is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree, with `-dirty` if it is changed; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(  # noqa: S603 - fixed arguments
            command, cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return str(answer.stdout).strip()
