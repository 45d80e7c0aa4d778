"""Recorded values of a metric as arrays: read from an SQLite file itself, or by MLflow's client.

The client makes an object of each point, which takes most of the time. Arrow's driver reads rows as
columns, in threads side by side. Of MLflow's tables only the columns are read that its schema has
had since its first version.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Without an order SQLite walks the metric of all runs, whose index holds all columns.
QUERY = """
    SELECT step, CASE WHEN is_nan THEN NULL ELSE value END AS value, timestamp
    FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step
"""
_BUSY_MS = 60_000  # a run that is under way writes for moments
_MAPPED_BYTES = 2**40  # of the file, rather than read page by page


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


def reader(client: MlflowClient, file: Path | None) -> Reader:
    """What reads points with MLflow's client, or from the database file that it uses, if any."""
    if file is not None:
        return _file_reader(file)

    def read(run_id: str, metric: str) -> Points:
        # The client fetches all pages.
        history = client.get_metric_history(run_id, metric)
        rows = [(point.step, point.value, point.timestamp) for point in history]
        return _sorted(*(zip(*rows, strict=True) if rows else ((), (), ())))

    return read


def _file_reader(file: Path) -> Reader:
    from adbc_driver_sqlite import dbapi

    def read(run_id: str, metric: str) -> Points:
        with (
            dbapi.connect(f"file:{quote(str(file))}?mode=ro") as connection,
            connection.cursor() as cursor,
        ):
            for setting in (f"busy_timeout = {_BUSY_MS}", f"mmap_size = {_MAPPED_BYTES}"):
                cursor.execute(f"PRAGMA {setting}")
                cursor.fetchall()
            cursor.execute(QUERY, (run_id, metric))
            found: Any = cursor.fetch_arrow_table()
            return _sorted(*(column.to_numpy() for column in found.columns))

    return read


def _sorted(steps: ArrayLike, values: ArrayLike, times_ms: ArrayLike) -> Points:
    """Points by rising step, the last of each."""
    found = Points(
        np.asarray(steps, np.int64), np.asarray(values, np.float64), np.asarray(times_ms, np.int64)
    )
    order = np.lexsort((found.times_ms, found.steps))
    is_last = np.append(np.diff(found.steps[order]) > 0, True)[: len(order)]
    found = Points(*(each[order][is_last] for each in found))
    # MLflow keeps infinity as the largest double.
    largest = np.finfo(np.float64).max
    found.values[found.values == largest] = np.inf
    found.values[found.values == -largest] = -np.inf
    return found
