"""Curves of tracked runs, as `compare` reads them from a database, beside MLflow's own client."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator

import numpy as np

from stem_complete.config import Config
from stem_complete.experiments import compare
from stem_complete.tracking import default_uri, open_run, points
from stem_complete.tracking.client import connect

from . import Setting
from .report import Comparison, Goal

EXPERIMENT, LOSS = "stem-complete", "train/outer_loss"
MOST_RUNS, MOST_S = 200, 20.0


def run(setting: Setting) -> Iterator[Comparison]:
    """Reading beside MLflow's client, and a comparison of many runs beside its limit."""
    num_runs, num_points = (2, 1_000) if setting.quick else (MOST_RUNS, 100_000)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = default_uri(setting.folder)
    ids = [_tracked(setting, uri, k, num_points) for k in range(num_runs)]
    client = connect(uri)
    cases: dict[str, Callable[[], object]] = {
        "ours": lambda: points.reader(client, setting.folder / "mlflow.db")(ids[0], LOSS),
        "client": lambda: points.reader(client, None)(ids[0], LOSS),
        "compare": lambda: compare(uri, EXPERIMENT, setting.folder / "comparison"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(setting.rounds):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - started)
    yield Comparison(
        f"curve of {num_points:,} points", "s", seconds["ours"], "MLflow's client",
        seconds["client"], Goal("<=", 0.2),
    )  # fmt: skip
    yield Comparison(
        f"comparison of {num_runs} runs of {num_points:,} points", "s", seconds["compare"],
        "its limit", [MOST_S] * setting.rounds, Goal("<=", 1.0),
    )  # fmt: skip


def _tracked(setting: Setting, uri: str, number: int, num_points: int) -> str:
    """A run of one of four arms, with a curve that is written past MLflow, which takes minutes."""
    name = f"arm{number % 4}-seed{number // 4}"
    values = {"name": name, "storage": setting.folder / "runs", "data": {"store": "none"}}
    run_id = open_run(Config.model_validate(values), uri).run_id
    assert run_id is not None
    losses = 1 + np.random.default_rng(number).gamma(2, size=num_points) / 10
    started_ms = 1_700_000_000_000 + 50 * num_points * number  # one after the other
    rows = [
        (LOSS, value, started_ms + 50 * k, run_id, k, False)
        for k, value in enumerate(losses.tolist(), 1)
    ]
    with sqlite3.connect(setting.folder / "mlflow.db") as database:
        database.executemany(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
        database.execute(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (LOSS, rows[-1][1], rows[-1][2], num_points, False, run_id),
        )
    database.close()
    return run_id
