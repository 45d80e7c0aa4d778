from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stem_complete.config import Config
from stem_complete.tracking import default_uri
from stem_complete.tracking.client import connect


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one runs every migration."""
    folder = tmp_path_factory.mktemp("template")
    connect(default_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture
def uri(template: Path, tmp_path: Path) -> str:
    shutil.copy(template, tmp_path / "mlflow.db")
    return default_uri(tmp_path)


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    def make(name: str = "alrc-seed3", **sections: object) -> Config:
        values = {"name": name, "storage": tmp_path / "runs", "data": {"store": "store.zarr"}}
        return Config.model_validate(values | sections)

    return make
