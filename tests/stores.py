"""Stores to train on in tests, and databases to track runs in."""

import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stem_complete.data.bundled import example_micrographs
from stem_complete.data.store.ingest import ingest
from stem_complete.data.store.store import MicrographStore
from stem_complete.tracking import default_uri
from stem_complete.tracking.client import connect

_NUM_FILES = 3  # some crops of so few files are for training


def small_store(path: Path, crop_size: int = 64) -> Path:
    """A store of crops of the three smallest bundled micrographs."""
    smallest = sorted(example_micrographs(), key=lambda file: file.stat().st_size)[:_NUM_FILES]
    ingest(smallest, path, crop_size=crop_size)
    return path


def mlflow_database() -> Path:
    """An empty MLflow database to copy.

    MLflow makes one by all its migrations, which takes 9 s of CPU time, so all processes of tests
    share one that was made on this machine.
    """
    database = Path(tempfile.gettempdir()) / f"stem-complete-tests-mlflow-{version('mlflow')}.db"
    if not database.exists():
        with tempfile.TemporaryDirectory(dir=database.parent) as folder:
            connect(default_uri(folder))
            (Path(folder) / "mlflow.db").replace(database)
    return database


def give_mlflow_database(storage: str) -> None:
    """Puts an empty database where runs in this local folder are tracked, if there is none."""
    database = Path(storage) / "mlflow.db"
    if not database.exists():
        database.parent.mkdir(parents=True, exist_ok=True)
        part = database.with_suffix(f".{os.getpid()}")
        shutil.copy(mlflow_database(), part)
        part.replace(database)


def read_raw(store: MicrographStore, indices: Any) -> NDArray[np.float64]:
    """Crops [b, h, w] in detector units."""
    indices = np.asarray(indices, int)
    scale, offset = (store.column(name)[indices, None, None] for name in ("scale", "offset"))
    return offset + scale * store.read_stored(indices)
