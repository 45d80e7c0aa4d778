"""Curves of tracked runs, read back from any tracking server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stem_complete.errors import TrackingError
from stem_complete.tracking.client import (
    ANSWER_S,
    absolute_uri,
    open_existing,
    outages,
    reason,
    sqlite_file,
    unreachable,
    within,
)
from stem_complete.tracking.database import DatabaseError
from stem_complete.tracking.points import Points, reader
from stem_complete.tracking.runs import ARM_TAG, PARENT_TAG, SEED_TAG, arm_and_seed

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_RUNS_PER_PAGE = 1000
_NUM_REQUESTS = 8  # to a server at a time


@dataclass(frozen=True)
class Curve:
    """One metric of one run.

    Attributes:
        run_id: MLflow's id of the run.
        name: Name of the run.
        arm: Name that the run shares with the same run of other seeds.
        seed: None if the run does not say.
        started_ms: When the run started, in ms since 1970.
        steps: Optimizer steps, rising, [n].
        values: The metric, [n]; may be NaN or infinite.
        times_ms: When each was recorded, in ms since 1970, [n].
        settings: The run's config as MLflow's parameters, like `training.steps`: "10000".
        finished: Whether the run came to its end; else it is under way, was stopped or has failed.
    """

    run_id: str
    name: str
    arm: str
    seed: int | None
    started_ms: int
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    times_ms: NDArray[np.int64]
    settings: Mapping[str, str] = field(default_factory=dict)
    finished: bool = True


class TrackedRuns:
    """The runs of an experiment, listed once, as that takes seconds where there are hundreds.

    Args:
        uri: Tracking server or database.
        experiment: Its name there.
        parent: Only runs of the sweep of that run id.

    Raises:
        TrackingError: The server does not answer, or has no such experiment.
        MissingPackageError: MLflow is not installed.
    """

    def __init__(self, uri: str, experiment: str, *, parent: str | None = None) -> None:
        self.uri = absolute_uri(uri)
        client = open_existing(self.uri, purpose="reading curves")
        self._read = reader(client, sqlite_file(self.uri))
        with _answering(self.uri):
            self._runs = [
                run
                for run in _runs(client, self.uri, experiment)
                if parent is None or run.data.tags.get(PARENT_TAG) == parent
            ]

    def curves(self, metric: str, *, run_ids: Collection[str] | None = None) -> list[Curve]:
        """Curves of `metric` of all runs that have it, sorted by arm and seed.

        With `run_ids` only of these runs.

        Raises:
            TrackingError: The server does not answer.
        """
        runs = [
            run
            for run in self._runs
            if metric in run.data.metrics and (run_ids is None or run.info.run_id in run_ids)
        ]
        with _answering(self.uri), ThreadPoolExecutor(_NUM_REQUESTS) as pool:
            points = pool.map(lambda run: self._read(run.info.run_id, metric), runs)
            curves = [_curve(run, of_run) for run, of_run in zip(runs, points, strict=True)]
        return sorted(curves, key=lambda curve: (curve.arm, curve.seed or 0, curve.name))


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """What MLflow raises in the block becomes one line."""
    problems = outages()
    try:
        yield
    except DatabaseError:
        raise  # which has a fix of its own
    except problems as error:
        raise unreachable(uri, reason(error)) from error


def _runs(client: MlflowClient, uri: str, name: str) -> Iterator[Run]:
    experiment = within(ANSWER_S, partial(client.get_experiment_by_name, name))
    if experiment is None:
        names = sorted(found.name for found in client.search_experiments())
        raise TrackingError(
            expected=f"an experiment {name!r}",
            found=", ".join(names) or "none",
            where=uri,
            fix="name one of those, or check the tracking URI",
        )
    token = None
    while token != "":
        page = client.search_runs(
            [experiment.experiment_id], max_results=_RUNS_PER_PAGE, page_token=token
        )
        yield from page
        token = page.token or ""


def _curve(run: Run, points: Points) -> Curve:
    name, tags = str(run.info.run_name), run.data.tags
    arm, seed = arm_and_seed(name)
    return Curve(
        run.info.run_id,
        name,
        tags.get(ARM_TAG, arm),
        int(tags[SEED_TAG]) if tags.get(SEED_TAG, "").isdigit() else seed,
        int(run.info.start_time),
        *points,
        settings=run.data.params,
        finished=run.info.status == "FINISHED",
    )
