"""Recorded values of a metric as arrays: read from a database itself, or by a server's pages.

MLflow's client makes an object of each point, which takes most of the time. Of its tables only the
columns are read that its schema has had since its first version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stem_complete.credentials import restored

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


class Points(NamedTuple):
    """What was recorded of a metric, by rising step.

    Attributes:
        steps: Optimizer steps, [n].
        values: The metric, [n]; may be NaN or infinite.
        times_ms: When each was recorded, in ms since 1970, [n].
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    times_ms: NDArray[np.int64]


Reader = Callable[[str, str], Points]
"""Reads the points of a run, by its id, and of a metric. Of a step that was recorded twice it takes
the later point. Raises what MLflow or its database raises."""


def reader(client: MlflowClient, uri: str) -> Reader:
    """What reads points at `uri`, of which `client` is MLflow's client."""
    if uri.partition("://")[0].partition("+")[0] in _DATABASES:
        return _database_reader(uri)

    def read(run_id: str, metric: str) -> Points:
        # The client fetches all pages.
        history = client.get_metric_history(run_id, metric)
        return _sorted((point.step, point.value, point.timestamp) for point in history)

    return read


def _database_reader(uri: str) -> Reader:
    from sqlalchemy import NullPool, bindparam, case, column, create_engine, select, table, true

    names = "run_uuid", "key", "step", "value", "timestamp", "is_nan"
    metrics = table("metrics", *map(column, names))
    value = case((metrics.c.is_nan == true(), None), else_=metrics.c.value)
    query = select(metrics.c.step, value, metrics.c.timestamp).where(
        metrics.c.run_uuid == bindparam("run"), metrics.c.key == bindparam("metric")
    )
    engine = create_engine(restored(uri), poolclass=NullPool)

    def read(run_id: str, metric: str) -> Points:
        with engine.connect() as connection:
            found = connection.execute(query, {"run": run_id, "metric": metric})
            return _sorted(found.cursor.fetchall())

    return read


def _sorted(rows: Iterable[tuple[int, float | None, int]]) -> Points:
    """Points of rows of step, value and time; None is NaN."""
    # Steps and times are exact as doubles.
    table = np.array(list(rows), np.float64).reshape(-1, 3)
    table = table[np.lexsort((table[:, 2], table[:, 0]))]
    steps, values, times = table.T
    is_last = np.append(np.diff(steps) > 0, True)[: len(steps)]
    values = values[is_last]
    # MLflow keeps infinity as the largest double.
    largest = np.finfo(np.float64).max
    values[values == largest], values[values == -largest] = np.inf, -np.inf
    return Points(steps[is_last].astype(np.int64), values, times[is_last].astype(np.int64))
