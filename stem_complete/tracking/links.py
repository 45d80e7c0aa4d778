"""Where a run is seen in MLflow's page: the command that opens the page, and links into it.

MLflow's page opens on its side for language models, where no run of training is found. The links
lead to the other side.
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from upath import UPath

from stem_complete.credentials import credentials
from stem_complete.errors import TrackingError
from stem_complete.extras import program
from stem_complete.tracking.client import absolute_uri, sqlite_file
from stem_complete.tracking.database import DamagedDatabaseError, check_intact

VIEW_TAG = "mlflow.sharedViewState.stem-complete"
"""Tag of an experiment, in which MLflow's page keeps the columns of a view that has a link."""

VIEW = json.dumps(
    {
        "selectedColumns": [
            "metrics.`validation/rmse`",
            "metrics.`train/outer_loss`",
            "metrics.`train/examples_per_s`",
            "params.`training.steps`",
            "params.`training.batch_size`",
            "params.`optimizer.learning_rate`",
            "params.`scan.coverage`",
            "params.`model.preset`",
        ]
    }
)
"""The columns that matter."""

PLACE_FILE = "mlflow.json"
"""File in a run's folder that says where the run is in MLflow, whose server need not run then."""

_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
_PORT = 5000
_SIDE = "workflowType=machine_learning"


def ui_command(uri: str) -> str:
    """The shell command that serves the MLflow page of a database; a password is not shown."""
    shown = absolute_uri(uri)
    name, password = credentials(shown).name_and_password
    if password:
        shown = shown.replace("://", f"://{name}:PASSWORD@", 1)
    # Without the two settings the server takes 48 s and 2.5 GB to start instead of 15 s and 0.5 GB.
    options = ["--backend-store-uri", shown, "--workers", "1", "--port", str(_PORT)]
    setting = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"env {setting} {program('mlflow')} ui {shlex.join(options)}"


def places(uri: str, experiment_id: str | None = None, run_id: str | None = None) -> dict[str, str]:
    """How to see runs in MLflow's page: what to start if there is no server, then links.

    Args:
        uri: Tracking URI.
        experiment_id: Experiment of the runs; without it the link leads to all experiments.
        run_id: Run whose curves are wanted, too.
    """
    found, page = _page(uri)
    if page is None:
        return found
    if experiment_id is None:
        return found | {"experiments": f"{page}/#/experiments?{_SIDE}"}
    experiment = f"{page}/#/experiments/{experiment_id}/runs"
    if run_id is not None:
        found["curves"] = f"{experiment}/{run_id}/model-metrics?{_SIDE}"
    view = VIEW_TAG.rpartition(".")[2]
    return found | {"all runs": f"{experiment}?{_SIDE}&viewStateShareKey={view}"}


def places_of_model(uri: str, name: str, version: int) -> dict[str, str]:
    """How to see a version of a registered model: what to start if there is no server, then a link.

    Args:
        uri: Tracking URI.
        name: Name of the model.
        version: Its number.
    """
    found, page = _page(uri)
    if page is None:
        return found
    return found | {"version": f"{page}/#/models/{quote(name, safe='')}/versions/{version}"}


class Place(NamedTuple):
    """Where a run is in MLflow.

    Attributes:
        uri: Tracking URI, without a password.
        experiment_id: Experiment of the run.
        run_id: The run.
    """

    uri: str
    experiment_id: str
    run_id: str


def keep_place(run_folder: Path | UPath, place: Place) -> None:
    """Writes the place into a run's folder, if that takes it: nothing but links depends on it."""
    if place != kept_place(run_folder):
        with suppress(Exception):  # of any store's client
            (run_folder / PLACE_FILE).write_text(json.dumps(place._asdict()))


def kept_place(run_folder: Path | UPath) -> Place | None:
    """The place that a run's folder keeps; None if it was never in MLflow, as far as is known."""
    with suppress(Exception):  # of any store's client; or the file was cut off
        return Place(**json.loads((run_folder / PLACE_FILE).read_text()))
    return None


def _page(uri: str) -> tuple[dict[str, str], str | None]:
    """What to start if there is no server, and the address of MLflow's page, if it has one."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        # A name and a password in it are for programs.
        return {}, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
    file = sqlite_file(uri)
    if file is not None:
        try:
            check_intact(file, busy_s=1.0)
        except DamagedDatabaseError as error:
            return {"MLflow": str(error)}, None
        except TrackingError:
            pass  # it is held or may not be read by now, as a server that is started says
    if uri.startswith(_DATABASES):
        return {"start MLflow": ui_command(uri)}, f"http://127.0.0.1:{_PORT}"
    return {"MLflow": uri}, None
